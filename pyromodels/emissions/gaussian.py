"""Gaussian frames: positions as they are, or the steps between them."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyro.distributions as dist
import torch
from torch import Tensor

from pyromodels.distributions.message import Anchor, GaussianMessage
from pyromodels.distributions.path import diagonal_normal
from pyromodels.emissions.base import DecodedEmission, Outputs
from pyromodels.errors import ShapeError, mismatch
from pyromodels.registry import EMISSIONS

LARGEST_MOVE = 20.0
"""In typical steps: networks see a larger move as this one, and so are defined for any s."""


@EMISSIONS.register("gaussian")
@dataclass(frozen=True)
class Gaussian(DecodedEmission):
    r"""Gaussian frames, s_t ~ N(o_t + c_t mu_t, (c_t sigma_t)^2).

        x_t = (s_t - o_t) / c_t

    with mu_t, log sigma_t^2 the decoder's outputs and x what networks see. `"position"`: o = 0,
    c = 1, as published. `"increment"`: o_t = s_{t-1}, and c_t = typical_step * size_{t-1}, so that
    neither translation nor scale of the trajectory reaches the network; x_1 = 0, and only an anchor
    says where s_1 is. The size of a box [left, top, right, bottom] is (width, height, width,
    height); with `scale="unit"` it is 1. With `scale="centre_box"` a box is s = (centre x,
    centre y, width, height), y down, and its size is (height, height, width, height): a walker's
    centre moves by heights, not by widths.

    Args:
        predicts: "position" or "increment".
        scale: "box", "centre_box" or "unit"; the unit of increments.
        typical_step: a usual increment in that unit: x is then of order one, as networks like it. A
            walker's box moves by some 0.05 of its size from one frame to the next.
        min_size: floor of a box's sides, in units of s. Boxes in the middle of an inference may be
            degenerate, and a side of zero would make every later frame infinite.
        std_range: bounds of the predicted standard deviation, in the unit of increments (of s
            itself for positions). None: no bounds for positions, (1e-4, 1) for increments.

    Example:
        >>> Gaussian("increment", scale="unit").see(torch.tensor([[0.0], [0.1], [0.15]])).flatten()
        tensor([0.0000, 2.0000, 1.0000])
    """

    outputs: ClassVar[tuple[str, ...]] = ("mean", "log_variance")
    has_gaussian_message: ClassVar[bool] = True
    contract_specs: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"predicts": "increment", "scale": "unit"},
        {"predicts": "increment", "scale": "box"},
        {"predicts": "increment", "scale": "centre_box"},
    )

    predicts: Literal["position", "increment"] = "position"
    scale: Literal["box", "centre_box", "unit"] = "box"
    typical_step: float = 0.05
    min_size: float = 1e-3
    std_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("predicts", self.predicts, ("position", "increment")),
            ("scale", self.scale, ("box", "centre_box", "unit")),
        ):
            if value not in choices:
                raise ValueError(mismatch(name, given=repr(value), expected=" or ".join(choices)))

    def check_source_dim(self, source_dim: int) -> None:
        """Raise `ShapeError` where boxes are asked for and the source is none."""
        super().check_source_dim(source_dim)
        boxes = {
            "box": "left, top, right, bottom",
            "centre_box": "centre x, centre y, width, height",
        }
        if self.moves and self.scale in boxes and source_dim != 4:
            raise ShapeError(
                mismatch(
                    f'source_dim with scale="{self.scale}"',
                    given=source_dim,
                    expected=f"4: {boxes[self.scale]}",
                    hint='Use scale="unit" for anything else.',
                )
            )

    @property
    def moves(self) -> bool:
        """Whether the network predicts increments."""
        return self.predicts == "increment"

    @property
    def needs_anchor(self) -> bool:
        """Increments say how a trajectory moves, not where it starts."""
        return self.moves

    def origin_and_unit(
        self,
        previous: Tensor,  # s_{t-1}, shape: (*, D)
    ) -> tuple[Tensor | float, Tensor | float]:
        """Return o_t and c_t."""
        if not self.moves:
            return 0.0, 1.0
        if self.scale == "unit":
            return previous, self.typical_step
        return previous, self.typical_step * box_unit(previous, self.scale, self.min_size)

    def relative(self, s: Tensor, previous: Tensor | None) -> Tensor:
        """Return x_t."""
        if not self.moves:
            return s
        if previous is None:
            return torch.zeros_like(s)
        origin, unit = self.origin_and_unit(previous)
        return ((s - origin) / unit).clamp(-LARGEST_MOVE, LARGEST_MOVE)

    def absolute(
        self,
        x: Tensor,  # x_t, e.g. the network's mean; shape: (*, D)
        previous: Tensor | None,  # s_{t-1}, shape: (*, D)
    ) -> Tensor:  # s_t, shape: (*, D)
        """Return the s_t that is x_t relative to s_{t-1}."""
        origin, unit = self.origin_and_unit(previous)
        return origin + unit * x

    def see(self, s: Tensor, history: Tensor | None = None) -> Tensor:
        """Return x of a whole trajectory."""
        if not self.moves:
            return s
        history = s if history is None else history
        moves = self.relative(s[..., 1:, :], history[..., :-1, :])
        return torch.cat((self.relative(s[..., :1, :], None), moves), -2)

    def scale_of(self, log_variance: Tensor) -> Tensor:
        """Return sigma, bounded."""
        bounds = self.std_range
        if bounds is None:
            if not self.moves:
                return (0.5 * log_variance).exp()
            bounds = (1e-4, 1.0)
        unit = self.typical_step if self.moves else 1.0
        low, high = (math.log(bound / unit) for bound in bounds)
        return (0.5 * log_variance).clamp(low, high).exp()

    def conditionals(
        self, outputs: Outputs, history: Tensor, anchor: Anchor | None
    ) -> dist.TorchDistribution:
        """Return p(s_t | past) of every frame; the anchor takes the place of the first."""
        mean, log_variance = outputs
        before = torch.cat((history[..., :1, :], history[..., :-1, :]), -2)
        origin, unit = self.origin_and_unit(before)
        return diagonal_normal(
            *at_anchor(anchor, origin + unit * mean, unit * self.scale_of(log_variance))
        )

    def expected(self, outputs: Outputs, previous: Tensor | None) -> Tensor:
        """Return the mean of s_t."""
        return self.absolute(outputs[0], previous)

    def draw(self, outputs: Outputs, noise: Tensor, previous: Tensor | None) -> Tensor:
        """Return s_t."""
        mean, log_variance = outputs
        return self.absolute(mean + self.scale_of(log_variance) * noise, previous)

    def message(self, outputs: Outputs, history: Tensor, anchor: Anchor) -> GaussianMessage:
        """Return A_t = 1 (increments) or 0 (positions), and the offset and variance beside it."""
        given = self.conditionals(outputs, history, anchor)
        offset, covariance = given.mean, given.variance
        transition = torch.zeros_like(offset)
        if self.moves:
            transition[..., 1:, :] = 1.0
            _, unit = self.origin_and_unit(history[..., :-1, :])
            moves = (unit * outputs[0][..., 1:, :]).expand_as(offset[..., 1:, :])
            offset = torch.cat((offset[..., :1, :], moves), -2)
        return GaussianMessage(
            transition[..., None, None], offset[..., None], covariance[..., None, None]
        )


def box_unit(
    box: Tensor,  # shape: (*, 4)
    scale: str,
    min_size: float,
) -> Tensor:  # shape: (*, 4)
    """Return the sides that coordinates of a box move by.

    They are (width, height, width, height) of "box", [left, top, right, bottom], and (height,
    height, width, height) of "centre_box", (centre x, centre y, width, height).
    """
    if scale == "centre_box":
        width, height = box[..., 2:].clamp_min(min_size).split(1, -1)
        return torch.cat((height, height, width, height), -1)
    sides = (box[..., 2:] - box[..., :2]).clamp_min(min_size)
    return torch.cat((sides, sides), -1)


def at_anchor(
    anchor: Anchor | None,
    *parameters: Tensor,  # mean and deviation of a Gaussian, each (*, T, D)
) -> tuple[Tensor, ...]:  # the same, the anchor's in the first frame
    """Put the anchor's law in the place of the first frame's."""
    if anchor is None:
        return parameters
    firsts = (anchor.loc.unsqueeze(-2), anchor.variance.sqrt().unsqueeze(-2))
    shape = torch.broadcast_shapes(*(p.shape for p in parameters), firsts[0].shape)
    return tuple(
        torch.cat((first.expand(*shape[:-2], 1, shape[-1]), p.expand(shape)[..., 1:, :]), -2)
        for first, p in zip(firsts, parameters, strict=True)
    )
