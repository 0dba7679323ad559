"""What MixDVAE asks of a prior over one source, and the coordinates that deep priors see."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyromodels.distributions.message import Anchor, GaussianMessage
from pyromodels.distributions.path import PathDistribution, diagonal_normal
from pyromodels.errors import ShapeError, mismatch

Statement = Callable[[str, PathDistribution], Tensor]
"""`pyro.sample(name, law)`, or what a prior around another one puts in its place."""


class SourcePrior(nn.Module, ABC):
    """p(s_{1:T}), the prior of one source: any density over a trajectory that can send a message.

    Sequences and sources are batch dimensions. The first frame is always the anchor's Gaussian,
    which overrides the prior's own law of s_1; a tiny anchor variance pins it (the published method
    uses 1e-5). A prior opens no plates: the caller has opened those of `anchor.loc.shape[:-1]`.
    """

    source_dim: int
    """D."""
    latent_dim: int = 0
    """L: size of the prior's own latents, 0 where it has none."""
    block_dim: int
    """d: size of the blocks in which the message is dense; 1 for deep priors."""
    message_is_exact: bool
    """Whether p(s_t | s_<t) is linear-Gaussian: the message does not depend on the iterate."""

    contract_specs: ClassVar[tuple[dict[str, Any], ...]] = ({},)
    """Keyword arguments of the variants that the contract suite checks; small ones first."""

    @abstractmethod
    def sample_sources(
        self,
        name: str,
        num_steps: int,
        *,
        anchor: Anchor,
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, N, T)
        sample: Statement = pyro.sample,
    ) -> Tensor:  # s, shape: (*batch, N, T, D)
        """Pyro statements: sample the site `name`, and the prior's own latents `name + "_..."`.

        `sample` draws the site `name`; a prior that adds coordinates to this one passes its own.
        """

    @abstractmethod
    def guide_sources(
        self,
        name: str,
        s: Tensor,  # shape: (*batch, N, T, D)
        *,
        anchor: Anchor,
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, N, T)
    ) -> None:
        """Pyro statements: sample the prior's own latents given the s that q(s) sampled."""

    @abstractmethod
    def gaussian_message(
        self,
        s: Tensor,  # the iterate, shape: (*batch, N, T, D)
        *,
        anchor: Anchor,
        z_noise: Tensor | None = None,  # shape: (*batch, N, T, L)
    ) -> GaussianMessage:
        """Return p(s_t | past), the past taken at the iterate.

        Args:
            s: the trajectory the networks are fed with; calls that need no gradient detach it.
            anchor: p(s_1).
            z_noise: standard normal noise for the prior's latents; None puts them at the encoder
                mean.
        """

    def check(
        self,
        s: Tensor,  # shape: (*batch, T, D)
        anchor: Anchor,
    ) -> None:
        """Raise `ShapeError` where a trajectory and an anchor do not fit this prior."""
        if s.shape[-1] != self.source_dim or s.dim() < 2:
            raise ShapeError(
                mismatch(
                    f"trajectory of {type(self).__name__}",
                    given=f"shape {tuple(s.shape)}",
                    expected=f"(*batch, T, {self.source_dim})",
                )
            )
        if anchor.loc.shape[-1] != self.source_dim:
            raise ShapeError(
                mismatch(
                    f"anchor of {type(self).__name__}",
                    given=f"loc of shape {tuple(anchor.loc.shape)}",
                    expected=f"(*batch, {self.source_dim})",
                    hint="An anchor has no time dimension.",
                )
            )


LARGEST_MOVE = 20.0
"""In typical steps: networks see a larger move as this one, and so are defined for any s."""


@dataclass(frozen=True)
class Coordinates:
    r"""What a network sees of a trajectory, and how its output becomes p(s_t | s_{<t}).

        x_t = (s_t - o_t) / c_t,    s_t ~ N(o_t + c_t mu_t, (c_t sigma_t)^2)

    with mu_t, log sigma_t^2 the network's output. `"position"`: o = 0, c = 1, as published.
    `"increment"`: o_t = s_{t-1}, and c_t = typical_step * size_{t-1}, so that neither translation
    nor scale of the trajectory reaches the network; x_1 = 0. The size of a box [left, top, right,
    bottom] is (width, height, width, height); with `scale="unit"` it is 1. With
    `scale="centre_box"` a box is s = (centre x, centre y, width, height), y down, and its size is
    (height, height, width, height): a walker's centre moves by heights, not by widths.

    Args:
        predicts: "position" or "increment".
        scale: "box", "centre_box" or "unit"; the unit of increments.
        typical_step: a usual increment in that unit: x is then of order one, as networks like it. A
            walker's box moves by some 0.05 of its size from one frame to the next.
        min_size: floor of a box's sides, in units of s. Boxes in the middle of an inference may be
            degenerate, and a side of zero would make every later frame infinite.
        std_range: bounds of the predicted standard deviation, in the unit of increments (of s
            itself for positions). None: no bounds for positions, (1e-4, 1) for increments.
    """

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
        coordinates = {
            "box": "left, top, right, bottom",
            "centre_box": "centre x, centre y, width, height",
        }
        if self.moves and self.scale in coordinates and source_dim != 4:
            raise ShapeError(
                mismatch(
                    f'source_dim with scale="{self.scale}"',
                    given=source_dim,
                    expected=f"4: {coordinates[self.scale]}",
                    hint='Use scale="unit" for anything else.',
                )
            )

    @property
    def moves(self) -> bool:
        """Whether the network predicts increments."""
        return self.predicts == "increment"

    def origin_and_unit(
        self,
        previous: Tensor,  # s_{t-1}, shape: (*, D)
    ) -> tuple[Tensor | float, Tensor | float]:
        """Return o_t and c_t."""
        if not self.moves:
            return 0.0, 1.0
        if self.scale == "unit":
            return previous, self.typical_step
        if self.scale == "centre_box":
            width, height = previous[..., 2:].clamp_min(self.min_size).split(1, -1)
            return previous, self.typical_step * torch.cat((height, height, width, height), -1)
        sides = (previous[..., 2:] - previous[..., :2]).clamp_min(self.min_size)
        return previous, self.typical_step * torch.cat((sides, sides), -1)

    def relative(
        self,
        s: Tensor,  # s_t, shape: (*, D)
        previous: Tensor,  # s_{t-1}, shape: (*, D)
    ) -> Tensor:  # x_t, shape: (*, D)
        """Return what the networks see of s_t, given s_{t-1}."""
        if not self.moves:
            return s
        origin, unit = self.origin_and_unit(previous)
        return ((s - origin) / unit).clamp(-LARGEST_MOVE, LARGEST_MOVE)

    def absolute(
        self,
        x: Tensor,  # x_t, e.g. the network's mean; shape: (*, D)
        previous: Tensor,  # s_{t-1}, shape: (*, D)
    ) -> Tensor:  # s_t, shape: (*, D)
        """Return the s_t that is x_t relative to s_{t-1}."""
        origin, unit = self.origin_and_unit(previous)
        return origin + unit * x

    def first(
        self,
        s: Tensor,  # s_1, shape: (*, D)
    ) -> Tensor:  # x_1, shape: (*, D)
        """Return what the networks see of the first frame."""
        return torch.zeros_like(s) if self.moves else s

    def see(
        self,
        s: Tensor,  # shape: (*, T, D)
        history: Tensor | None = None,  # what s_t is seen relative to, if not s itself; (*, T, D)
    ) -> Tensor:  # x, shape: (*, T, D)
        """Return x of a whole trajectory."""
        if not self.moves:
            return s
        history = s if history is None else history
        moves = self.relative(s[..., 1:, :], history[..., :-1, :])
        return torch.cat((self.first(s[..., :1, :]), moves), -2)

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
        self,
        mean: Tensor,  # network output, shape: (*, T, D)
        log_variance: Tensor,  # network output, shape: (*, T, D)
        history: Tensor,  # s, shape: (*, T, D)
        anchor: Anchor,
    ) -> dist.TorchDistribution:  # batch (*, T), event (D,)
        """Return p(s_t | past) of every frame; the anchor takes the place of the first."""
        shape = torch.broadcast_shapes(mean.shape, history.shape, anchor.loc.unsqueeze(-2).shape)
        first = (*shape[:-2], 1, shape[-1])
        origin, unit = self.origin_and_unit(history[..., :-1, :])
        loc = origin + unit * mean[..., 1:, :]
        scale = unit * self.scale_of(log_variance[..., 1:, :])
        rest = (*shape[:-2], shape[-2] - 1, shape[-1])
        return diagonal_normal(
            torch.cat((anchor.loc.unsqueeze(-2).expand(first), loc.expand(rest)), -2),
            torch.cat((anchor.variance.sqrt().unsqueeze(-2).expand(first), scale.expand(rest)), -2),
        )

    def message(
        self,
        mean: Tensor,  # network output, shape: (*, T, D)
        log_variance: Tensor,  # network output, shape: (*, T, D)
        history: Tensor,  # s, shape: (*, T, D)
        anchor: Anchor,
    ) -> GaussianMessage:
        """Return A_t = 1 (increments) or 0 (positions), and the offset and variance beside it."""
        given = self.conditionals(mean, log_variance, history, anchor)
        offset, covariance = given.mean, given.variance
        transition = torch.zeros_like(offset)
        if self.moves:
            transition[..., 1:, :] = 1.0
            _, unit = self.origin_and_unit(history[..., :-1, :])
            moves = (unit * mean[..., 1:, :]).expand_as(offset[..., 1:, :])
            offset = torch.cat((offset[..., :1, :], moves), -2)
        return GaussianMessage(
            transition[..., None, None], offset[..., None], covariance[..., None, None]
        )
