"""Noise that an invertible map moves, as a distribution."""

import copy
import math

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyromodels.errors import misshapen
from pyromodels.transforms.base import FlowTransform

LOG_2PI = math.log(2 * math.pi)


class FlowDistribution(dist.TorchDistribution):
    r"""p(x) = N(f(x); 0, I) |det df/dx|: a density by one pass, a draw by another.

    Unlike a `TransformedDistribution` it keeps no draw: after a step of an optimiser the density of
    a draw is that of the new parameters.

    Args:
        transform: f^{-1}, from noise to data.
        batch_shape: of independent x.
        event_shape: of one x.
        like: a tensor of the dtype and on the device that draws shall have.

    Example:
        >>> from pyromodels.transforms.actnorm import ActNorm
        >>> like = torch.zeros(())
        >>> law = FlowDistribution(ActNorm(2).eval().given(), (5,), (2, 8), like=like)
        >>> law.log_prob(law.sample()).shape
        torch.Size([5])
    """

    arg_constraints = {}
    has_rsample = True

    def __init__(
        self,
        transform: FlowTransform,
        batch_shape: tuple[int, ...],
        event_shape: tuple[int, ...],
        *,
        like: Tensor,
    ) -> None:
        self.transform, self.like = transform, like
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=False)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        """All numbers."""
        return constraints.independent(constraints.real, self.event_dim)

    def log_prob(
        self,
        value: Tensor,  # x, shape: (*, *event)
    ) -> Tensor:  # nats, shape: (*)
        """Return log p(x)."""
        if value.shape[value.dim() - self.event_dim :] != self.event_shape:
            raise misshapen("value of a flow", value.shape, f"(*, {tuple(self.event_shape)})")
        z, log_det = self.transform.to_noise(value)
        square = z.square().flatten(-self.event_dim).sum(-1)
        log_prob = log_det - 0.5 * (square + self.event_shape.numel() * LOG_2PI)
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    def noise_of(
        self,
        value: Tensor,  # x, shape: (*, *event)
    ) -> Tensor:  # z, shape: (*, *event)
        """Return the noise that drives x."""
        return self.transform.to_noise(value)[0]

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw, with pathwise gradients."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.transform.from_noise(
            torch.randn(shape, dtype=self.like.dtype, device=self.like.device)
        )

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "FlowDistribution":
        """Return this law for a larger batch."""
        expanded = copy.copy(self)
        expanded._batch_shape = torch.Size(batch_shape)
        return expanded
