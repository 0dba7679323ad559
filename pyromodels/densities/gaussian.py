"""The Gaussian as a density of signals: closed forms for whatever follows a score."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyromodels.densities.base import SmoothedDensity
from pyromodels.errors import check_positive
from pyromodels.registry import DENSITIES


@DENSITIES.register("gaussian")
class GaussianDensity(SmoothedDensity):
    r"""White Gaussian noise, N(mean, std^2 I), as a density of signals.

    .. math:: p_\sigma(x) = N(x; \mu, (s^2 + \sigma^2) I)

    Args:
        mean: mu.
        std: s.

    Raises:
        ValueError: where s is not positive.

    Example:
        >>> density = GaussianDensity(std=1.0)
        >>> density.score(torch.tensor([[2.0, -1.0]]), noise_std=1.0)
        tensor([[-1.0000,  0.5000]])
    """

    def __init__(self, *, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        check_positive(self, "std")

    def log_prob(
        self,
        x: Tensor,  # shape: (*batch, T)
        noise_std: float | Tensor = 0.0,
    ) -> Tensor:  # nats, shape: (*batch)
        """Return log p_sigma(x)."""
        variance = self.std**2 + self.noise_of(x, noise_std).square()
        squares = (x - self.mean).square().sum(-1)
        return -0.5 * (squares / variance + x.shape[-1] * torch.log(2 * math.pi * variance))
