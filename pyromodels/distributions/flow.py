"""The law of frames that a conditional flow makes of noise."""

import math

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyromodels.transforms.coupling import CouplingTransform

LOG_2PI = math.log(2 * math.pi)


class FlowFrames(TorchDistribution):
    r"""p(x_t | e_t) = N(f(x_t; e_t); 0, I) |det df/dx|, eq. 3; batch (*, T), event (D,).

    Args:
        transform: f^{-1}, told e of every frame.
    """

    arg_constraints = {}
    support = constraints.independent(constraints.real, 1)
    has_rsample = True

    def __init__(self, transform: CouplingTransform) -> None:
        self.transform = transform
        batch, event = transform.e.shape[:-1], torch.Size([transform.flow.dim])
        super().__init__(batch, event, validate_args=False)

    def log_prob(
        self,
        value: Tensor,  # x, shape: (*, T, D)
    ) -> Tensor:  # nats, shape: (*, T)
        """Return log p(x_t | e_t)."""
        z, log_det = self.transform.to_noise(value)
        return log_det - 0.5 * (z.square().sum(-1) + self.transform.flow.dim * LOG_2PI)

    def noise_of(
        self,
        value: Tensor,  # x, shape: (*, T, D)
    ) -> Tensor:  # z, shape: (*, T, D)
        """Return the noise that drives x."""
        return self.transform.to_noise(value)[0]

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw frames, each on its own, with pathwise gradients."""
        shape, e = self._extended_shape(torch.Size(sample_shape)), self.transform.e
        return self.transform(torch.randn(shape, dtype=e.dtype, device=e.device))
