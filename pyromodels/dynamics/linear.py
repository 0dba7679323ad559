"""Linear-Gaussian source priors: the family whose message is exact and posterior is known."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyromodels.distributions.chain import matvec
from pyromodels.distributions.message import Anchor, GaussianMessage
from pyromodels.distributions.path import PathDistribution, diagonal_normal
from pyromodels.dynamics.base import SourcePrior, Statement
from pyromodels.emissions.gaussian import box_unit
from pyromodels.errors import ShapeError, mismatch
from pyromodels.registry import DYNAMICS

SMALLEST_SIDE = 1e-3
"""Floor of a box's sides where they scale the process noise, in units of s."""


class LinearGaussianPath(PathDistribution):
    """p(s_t | s_{t-1}) = N(A s_{t-1}, diag(q)) in blocks, s_1 from the anchor."""

    def __init__(
        self,
        transition: Tensor,  # A, shape: (G, d, d)
        scale: Tensor,  # sqrt(q), shape: broadcastable to (*batch, D)
        anchor: Anchor,
        num_steps: int,
        mask: Tensor | None = None,
    ) -> None:
        self.transition, self.scale, self.anchor = transition, scale, anchor
        super().__init__(
            anchor.loc.shape[:-1], num_steps, anchor.loc.shape[-1], like=anchor.loc, mask=mask
        )

    def _step(self, previous: Tensor) -> Tensor:
        blocks = previous.unflatten(-1, self.transition.shape[:2])
        return matvec(self.transition, blocks).flatten(-2)

    def conditionals(self, value: Tensor) -> dist.TorchDistribution:
        """Return p(s_t | s_{t-1}) of every frame, batch (*, T), event (D,)."""
        first = self.anchor.loc.unsqueeze(-2).expand_as(value[..., :1, :])
        loc = torch.cat((first, self._step(value[..., :-1, :])), -2)
        first_scale = self.anchor.variance.sqrt().unsqueeze(-2).expand_as(first)
        rest_scale = self.scale.unsqueeze(-2).expand_as(value[..., :-1, :])
        return diagonal_normal(loc, torch.cat((first_scale, rest_scale), -2))

    def roll_out(self, noise: Tensor) -> Tensor:
        """Return the trajectory that standard normal noise makes, shape (*, T, D)."""
        steps = [self.anchor.driven(noise[..., 0, :])]
        for shock in (self.scale.unsqueeze(-2) * noise[..., 1:, :]).unbind(-2):
            steps.append(self._step(steps[-1]) + shock)
        return torch.stack(steps, -2)


def linear_message(
    transition: Tensor,  # A, shape: (G, d, d)
    scale: Tensor,  # sqrt(q), shape: broadcastable to (*batch, N, D)
    anchor: Anchor,
    shape: torch.Size,  # (*batch, N, T)
) -> GaussianMessage:
    """Return A, 0 and diag(q), and in the first frame 0 and the anchor's mean and variance."""
    blocks = transition.shape[:2]
    transition = transition.expand(*shape, *blocks, blocks[1]).clone()
    transition[..., 0, :, :, :] = 0.0
    offset = anchor.loc.new_zeros(*shape, *blocks)
    offset[..., 0, :, :] = anchor.loc.unflatten(-1, blocks)
    variance = scale.unflatten(-1, blocks).square().unsqueeze(-3).expand_as(offset).clone()
    variance[..., 0, :, :] = anchor.variance.unflatten(-1, blocks)
    return GaussianMessage(transition, offset, torch.diag_embed(variance))


@DYNAMICS.register("linear")
class LinearGaussian(SourcePrior):
    r"""Random walk or constant velocity with process noise: exact messages, Kalman smoother.

        s_1 ~ N(anchor),    s_t ~ N(A s_{t-1}, diag(q)),    q = (process_std * unit)^2

    `order=1` is the random walk s_t = s_{t-1} + noise, the dynamics of the variational Kalman
    filter (thesis 4.4.5, D = I). `order=2` carries a velocity beside every coordinate, so that D =
    2 num_coordinates, block-major (x, velocity of x, y, velocity of y, ...):

        x_t = x_{t-1} + v_{t-1},    v_t = velocity_decay * v_{t-1}

    ============  ===========  =======================  =============================
    symbol        name         shape                    unit
    ============  ===========  =======================  =============================
    s             s            (*batch, N, T, D)        as the data; velocity: a frame
    sqrt(q)/unit  process_std  (G, d), (*, N, G, d)     the unit of `scale`
    ============  ===========  =======================  =============================

    Args:
        num_coordinates: G, the coordinates that are observed.
        order: 1 or 2, the block size d.
        process_std: standard deviation of the noise of one frame in the unit of `scale`; d numbers,
            G rows of d numbers, or a tensor that gives every sequence (*batch, 1, G, d) or source
            (*batch, N, G, d) its own.
        velocity_decay: one number or G of them; read with `order=2`.
        scale: the unit of the process noise: 1 ("unit"), (width, height, width, height) of an
            anchor [left, top, right, bottom] ("box"), or (height, height, width, height) of an
            anchor (centre x, centre y, width, height) ("centre_box").

    Example:
        >>> prior = LinearGaussian(num_coordinates=1, process_std=(0.1, 0.01))
        >>> anchor = Anchor(torch.zeros(3, 2), torch.ones(3, 2))
        >>> prior.sample_sources("s", 5, anchor=anchor).shape
        torch.Size([3, 5, 2])
    """

    message_is_exact = True
    contract_specs: ClassVar[tuple[dict[str, Any], ...]] = (
        {"num_coordinates": 1, "order": 1, "process_std": (0.3,), "scale": "unit"},
        {"num_coordinates": 4, "order": 1, "process_std": (0.3,), "scale": "box"},
        {"num_coordinates": 2, "order": 2, "process_std": (0.3, 0.1), "scale": "unit"},
    )

    def __init__(
        self,
        *,
        num_coordinates: int = 4,
        order: int = 2,
        process_std: Sequence[float] | Sequence[Sequence[float]] | Tensor = (0.01, 0.003),
        velocity_decay: float | Sequence[float] = 1.0,
        scale: Literal["unit", "box", "centre_box"] = "unit",
    ) -> None:
        super().__init__()
        if order not in (1, 2):
            raise ValueError(
                mismatch("order", given=order, expected="1 (random walk) or 2 (velocity)")
            )
        if scale not in ("unit", "box", "centre_box"):
            raise ValueError(
                mismatch("scale", given=repr(scale), expected="unit, box or centre_box")
            )
        if scale != "unit" and num_coordinates != 4:
            raise ShapeError(
                mismatch(f"num_coordinates with scale={scale!r}", given=num_coordinates, expected=4)
            )
        std = process_std
        if not isinstance(std, Tensor):
            std = torch.tensor(std, dtype=torch.get_default_dtype())
        if std.shape[-1:] != (order,):
            rows = f"({num_coordinates}, {order})"
            raise ShapeError(
                mismatch(
                    "process_std",
                    given=f"shape {tuple(std.shape)}",
                    expected=f"({order},), {rows} or (*batch, 1 or N, {rows[1:]}",
                )
            )
        if not (std > 0).all():
            raise ValueError(
                mismatch("process_std", given=std.tolist(), expected="positive numbers")
            )
        if std.dim() == 1:
            std = std.expand(num_coordinates, order)
        self.block_dim, self.source_dim, self.scale = order, num_coordinates * order, scale
        self.log_process_std = nn.Parameter(std.log().clone())
        transition = torch.zeros(num_coordinates, order, order, dtype=std.dtype)
        transition[:, 0, 0] = 1.0
        if order == 2:
            transition[:, 0, 1] = 1.0
            transition[:, 1, 1] = torch.as_tensor(velocity_decay, dtype=std.dtype)
        self.register_buffer("transition", transition)
        projection = torch.zeros(num_coordinates, num_coordinates, order)
        projection[range(num_coordinates), range(num_coordinates), 0] = 1.0
        self.register_buffer("projection", projection.flatten(-2), persistent=False)

    @property
    def process_std(self) -> Tensor:
        """Standard deviation of the noise in the unit of `scale`, shape as it was given."""
        return self.log_process_std.exp()

    @process_std.setter
    def process_std(self, value: Tensor) -> None:
        log_std = value.detach().log()
        if log_std.shape == self.log_process_std.shape:  # the same parameter, for who holds it
            self.log_process_std.data.copy_(log_std)
        else:
            self.log_process_std = nn.Parameter(log_std)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any
    ) -> None:
        """Take over a noise of another shape too: one for each sequence."""
        stored = state_dict.get(f"{prefix}log_process_std")
        if stored is not None and stored.shape != self.log_process_std.shape:
            self.log_process_std = nn.Parameter(stored.to(self.log_process_std))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def positions(self, s: Tensor) -> Tensor:
        """Return the observed coordinates of s, shape (*, D) -> (*, G)."""
        return s[..., :: self.block_dim]

    def unit(self, anchor: Anchor) -> Tensor:
        """Return the unit of the process noise, shape (*batch, N, G, 1)."""
        position = self.positions(anchor.loc)
        if self.scale == "unit":
            return torch.ones_like(position).unsqueeze(-1)
        return box_unit(position, self.scale, SMALLEST_SIDE).unsqueeze(-1)

    def process_scale(self, anchor: Anchor) -> Tensor:
        """Return sqrt(q) in the units of s, shape (*batch, N, G, d).

        Noises that differ by sequence keep their place where a program has put further batch
        dimensions between the sequences and the sources.
        """
        unit, std = self.unit(anchor), self.process_std
        if std.dim() > 2:
            std = std.reshape(*std.shape[:-3], *[1] * (unit.dim() - std.dim()), *std.shape[-3:])
        return std * unit

    def path(
        self, num_steps: int, anchor: Anchor, mask: Tensor | None = None
    ) -> LinearGaussianPath:
        """Return p(s_{1:T}), batch shape that of the anchor."""
        self.check(anchor.loc.unsqueeze(-2), anchor)
        scale = self.process_scale(anchor).flatten(-2)
        return LinearGaussianPath(self.transition, scale, anchor, num_steps, mask)

    def sample_sources(
        self,
        name: str,
        num_steps: int,
        *,
        anchor: Anchor,
        mask: Tensor | None = None,
        sample: Statement = pyro.sample,
    ) -> Tensor:
        """Sample the site `name`."""
        # p(s_{1:T}) = N(s_1; anchor) prod_t N(s_t; A s_{t-1}, diag(q))
        return sample(name, self.path(num_steps, anchor, mask))

    def gaussian_message(
        self, s: Tensor, *, anchor: Anchor, z_noise: Tensor | None = None
    ) -> GaussianMessage:
        """Return A, 0 and diag(q), exact: of the iterate only its shape is read."""
        self.check(s, anchor)
        scale = self.process_scale(anchor).flatten(-2)
        return linear_message(self.transition, scale, anchor, s.shape[:-1])
