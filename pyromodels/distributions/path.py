"""Trajectories as one random variable: distributions with time in the event."""

import copy
from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyromodels.errors import ShapeError, mismatch


class PathDistribution(TorchDistribution, ABC):
    r"""p(v_{1:T}) = \prod_t p(v_t | v_{<t}): one trajectory, one Pyro site, event (T, D).

    A subclass states its conditionals twice: `conditionals`, all frames at once given the values
    (teacher-forced), and `roll_out`, frame by frame from standard normal noise. The two must agree,
    `roll_out(noise_of(v)) == v`, and the contract suite in `pyromodels.testing` holds every
    subclass to it.

    Contexts keep the shape they came with; everything is computed by broadcasting against the
    value, so that values may carry more batch dimensions on the left than the context (vectorised
    particles).

    Args:
        batch_shape: shape of independent trajectories.
        num_steps: T.
        dim: D.
        like: a tensor of the dtype and on the device that samples shall have.
        mask: time mask, broadcastable to `batch_shape + (T,)`; False marks padding, which
            `log_prob` leaves out. It lives inside the distribution because Pyro's `.mask` reaches
            batch dimensions only. `rsample` continues the trajectory through the padding.
    """

    arg_constraints = {}
    support = constraints.independent(constraints.real, 2)
    has_rsample = True
    noise_is_unique = True
    """Whether a trajectory tells the noise that drove it: a mixture's does not."""

    def __init__(
        self,
        batch_shape: torch.Size,
        num_steps: int,
        dim: int,
        *,
        like: Tensor,
        mask: Tensor | None = None,
    ) -> None:
        if mask is not None and mask.shape[-1:] not in ((num_steps,), (1,)):
            raise ShapeError(
                mismatch(
                    "mask",
                    given=f"shape {tuple(mask.shape)}",
                    expected=f"(*batch, T) with T = {num_steps}",
                )
            )
        self.time_mask, self.like, self.noise_dim = mask, like, dim
        super().__init__(torch.Size(batch_shape), torch.Size((num_steps, dim)))

    @abstractmethod
    def conditionals(
        self,
        value: Tensor,  # v, shape: (*, T, D)
    ) -> dist.TorchDistribution:  # batch (*, T), event (D,)
        """Return p(v_t | v_<t) of every frame, in one vectorised call."""

    @abstractmethod
    def roll_out(
        self,
        noise: Tensor,  # standard normal, shape: (*, T, D), or another size: `noise_dim`
    ) -> Tensor:  # v, shape: (*, T, D)
        """Return the trajectory that the noise drives: v_t = loc_t + scale_t noise_t."""

    def noise_of(
        self,
        value: Tensor,  # v, shape: (*, T, D)
    ) -> Tensor:  # shape: (*, T, D)
        """Return the noise that drives v: the inverse of `roll_out`."""
        return noise_of_frames(self.conditionals(value), value)

    def noise(
        self,
        sample_shape: torch.Size = torch.Size(),  # noqa: B008
    ) -> Tensor:  # shape: sample_shape + batch_shape + (T, noise_dim)
        """Draw the noise of `rsample`: after the same seed, the very same numbers."""
        shape = self._extended_shape(torch.Size(sample_shape))[:-1] + (self.noise_dim,)
        return torch.randn(shape, dtype=self.like.dtype, device=self.like.device)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw trajectories with pathwise gradients, shape sample_shape + batch_shape + (T, D)."""
        return self.roll_out(self.noise(sample_shape))

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw trajectories without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape).detach()

    def log_prob(
        self,
        value: Tensor,  # v, shape: (*, T, D)
    ) -> Tensor:  # nats, shape: (*)
        """Return log p(v), padding left out."""
        return self.log_prob_by_frame(value).sum(-1)

    def log_prob_by_frame(
        self,
        value: Tensor,  # v, shape: (*, T, D)
    ) -> Tensor:  # nats, shape: (*, T)
        """Return log p(v_t | v_<t) of every frame, zero in padding."""
        if value.shape[-2:] != self.event_shape:
            raise ShapeError(
                mismatch(
                    f"value of {type(self).__name__}",
                    given=f"shape {tuple(value.shape)}",
                    expected=f"(*, T, D) with (T, D) = {tuple(self.event_shape)}",
                )
            )
        per_frame = self.conditionals(value).log_prob(value)
        if self.time_mask is not None:
            per_frame = torch.where(self.time_mask, per_frame, torch.zeros_like(per_frame))
        batch_shape = torch.broadcast_shapes(per_frame.shape[:-1], self.batch_shape)
        return per_frame.expand(*batch_shape, per_frame.shape[-1])

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "PathDistribution":
        """Return this distribution for a larger batch: same class, contexts and caches shared."""
        expanded = copy.copy(self)
        expanded._batch_shape = torch.Size(batch_shape)
        return expanded


def diagonal_normal(
    loc: Tensor,  # shape: (*, D)
    scale: Tensor,  # shape: (*, D)
) -> dist.TorchDistribution:  # batch (*), event (D,)
    """Independent normals over the last dimension."""
    return dist.Normal(loc, scale, validate_args=False).to_event(1)


def noise_of_frames(
    law: dist.TorchDistribution,  # batch (*), event (D,)
    value: Tensor,  # shape: (*, D)
) -> Tensor:  # shape: (*, D)
    """Return the noise that drives frames: that of normals, or what another law says of itself."""
    normals = isinstance(law, dist.Independent)
    return (value - law.mean) / law.stddev if normals else law.noise_of(value)


def as_wide(
    law: dist.TorchDistribution,  # batch (*, T), event (D,)
    value: Tensor,  # shape: (*, T, D)
) -> dist.TorchDistribution:  # batch (*, T), event (D,)
    """Return a law with the batch of the value too, which it has not where it knows none of it."""
    batch = torch.broadcast_shapes(law.batch_shape, value.shape[:-1])
    return law if batch == law.batch_shape else law.expand(batch)


class IndependentFrames(PathDistribution):
    """Frames that are normal and know nothing of each other.

    Args:
        loc: shape (*batch, T, D).
        scale: likewise.
        mask: time mask, see `PathDistribution`.

    Example:
        >>> path = IndependentFrames(torch.zeros(3, 5, 2), torch.ones(3, 5, 2))
        >>> path.rsample().shape, path.log_prob(torch.zeros(3, 5, 2)).shape
        (torch.Size([3, 5, 2]), torch.Size([3]))
    """

    def __init__(self, loc: Tensor, scale: Tensor, *, mask: Tensor | None = None) -> None:
        super().__init__(loc.shape[:-2], *loc.shape[-2:], like=loc, mask=mask)
        self.loc, self.scale = loc, scale

    def conditionals(self, value: Tensor) -> dist.TorchDistribution:
        """Return p(v_t)."""
        return as_wide(diagonal_normal(self.loc, self.scale), value)

    def roll_out(self, noise: Tensor) -> Tensor:
        """Return the frames that the noise drives."""
        return self.loc + self.scale * noise
