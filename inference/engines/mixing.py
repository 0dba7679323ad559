"""What a mixture says of the sources that add up to it: as a likelihood, or as a subspace."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from pyromodels.errors import mismatch, misshapen


class Mixing(ABC):
    r"""m given sources, at every level of noise :math:`\sigma` that the sources carry.

    .. math:: m = \sum_k \alpha_k s_k + n

    Reference: Frank and Ilse, 2020, eq. 1.

    Args:
        mixture: m, shape (*batch, *event); `*batch` broadcasts to that of the sources, e.g. a
            dimension of chains on their left.
        weights: alpha, shape (N,).
        event_dim: dimensions of one source.

    Raises:
        ShapeError: where the weights are no vector, or m has too few dimensions.
        ValueError: where all weights are zero.
    """

    def __init__(self, mixture: Tensor, weights: Tensor, *, event_dim: int = 1) -> None:
        if weights.dim() != 1:
            raise misshapen("weights", weights.shape, "(N,)")
        if mixture.dim() < event_dim:
            raise misshapen("mixture", mixture.shape, f"(*batch, *event) with {event_dim} of event")
        if not bool((weights != 0).any()):
            raise ValueError(mismatch("weights", given=weights, expected="one that is not zero"))
        self.mixture, self.event_dim = mixture, event_dim
        self.weights = weights.to(mixture).reshape(-1, *[1] * event_dim)  # (N, 1, ..., 1)
        self.power = self.weights.square().sum()  # |alpha|^2

    def residual(
        self,
        x: Tensor,  # sources, shape: (*batch, N, *event)
    ) -> Tensor:  # r, shape: (*batch, *event)
        """Return what the sources leave of the mixture, m - sum_k alpha_k x_k."""
        return self.mixture - self.added(x)

    def added(self, x: Tensor) -> Tensor:  # (*batch, N, *event) -> (*batch, *event)
        """Return sum_k alpha_k x_k."""
        return (self.weights * x).sum(-1 - self.event_dim)

    def back(self, r: Tensor) -> Tensor:  # (*batch, *event) -> (*batch, N, *event)
        """Return alpha_k r of every source."""
        return self.weights * r.unsqueeze(-1 - self.event_dim)

    def onto(self, x: Tensor) -> Tensor:
        """Return the nearest sources that the mixture does not rule out."""
        return x

    def along(self, direction: Tensor) -> Tensor:
        """Return the part of a direction that keeps them so."""
        return direction

    @abstractmethod
    def score(
        self,
        x: Tensor,  # shape: (*batch, N, *event)
        noise_std: float | Tensor,  # sigma
    ) -> Tensor:  # shape: (*batch, N, *event)
        """Return the gradient of log p(m | x)."""

    @abstractmethod
    def log_prob(
        self,
        x: Tensor,  # shape: (*batch, N, *event)
        noise_std: float | Tensor,  # sigma
    ) -> Tensor:  # nats, shape: (*batch)
        """Return log p(m | x)."""


class SoftMixing(Mixing):
    r"""The Gaussian likelihood of the mixture, as wide as the noise of the sources makes it.

    .. math::
        m \mid x \sim N\Big(\sum_k \alpha_k x_k,\; \gamma_\sigma^2 I\Big), \qquad
        \gamma_\sigma^2 = \gamma_0^2 + \sigma^2 \sum_k \alpha_k^2, \qquad
        \nabla_{x_k} \log p(m \mid x) = \frac{\alpha_k}{\gamma_\sigma^2} r

    Departure: eq. 3 has the other sign, which repels from the mixture, and neither alpha nor the
    sum of squares; see `PrintedMixing`.

    Args:
        mixture: m.
        weights: alpha.
        noise_std: gamma_0, of the mixture itself.
        event_dim: dimensions of one source.

    Example:
        >>> mixing = SoftMixing(torch.tensor([1.0]), torch.tensor([0.5, 0.5]), noise_std=1.0)
        >>> mixing.score(torch.zeros(2, 1), 0.0).flatten()
        tensor([0.5000, 0.5000])
    """

    def __init__(
        self, mixture: Tensor, weights: Tensor, *, noise_std: float = 0.0, event_dim: int = 1
    ) -> None:
        super().__init__(mixture, weights, event_dim=event_dim)
        if not noise_std >= 0:
            raise ValueError(mismatch("noise_std", given=noise_std, expected="zero or more"))
        self.noise_std = noise_std

    def score(self, x: Tensor, noise_std: float | Tensor) -> Tensor:
        """Return the gradient of log p(m | x)."""
        variance = _over(self._variance(noise_std), self.event_dim)
        return self.back(self.residual(x) / variance)

    def log_prob(self, x: Tensor, noise_std: float | Tensor) -> Tensor:
        """Return log p(m | x), nats."""
        r = self.residual(x)
        event, variance = tuple(range(-self.event_dim, 0)), self._variance(noise_std)
        size = math.prod(r.shape[-self.event_dim :])
        return -0.5 * (r.square().sum(event) / variance + size * (2 * math.pi * variance).log())

    def _variance(self, noise_std: float | Tensor) -> Tensor:  # shape: (*batch) or ()
        return self.noise_std**2 + noise_std**2 * self.power


class ExactMixing(Mixing):
    r"""Sources that add up exactly: the law of sources given :math:`\sum_k \alpha_k x_k = m`.

    Every step is projected onto that subspace, its noise with it, so that dynamics stay in it and
    have the prior given the mixture as their stationary law.

    .. math:: x \mapsto x + \frac{\alpha}{|\alpha|^2}\Big(m - \sum_k \alpha_k x_k\Big), \qquad
              v \mapsto v - \frac{\alpha}{|\alpha|^2} \sum_k \alpha_k v_k

    Example:
        >>> mixing = ExactMixing(torch.tensor([1.0]), torch.tensor([0.5, 0.5]))
        >>> mixing.onto(torch.zeros(2, 1)).flatten()
        tensor([1., 1.])
    """

    def onto(self, x: Tensor) -> Tensor:
        """Return the nearest sources that add up."""
        return x + self.back(self.residual(x)) / self.power

    def along(self, direction: Tensor) -> Tensor:
        """Return the part of a direction in which the sum does not change."""
        return direction - self.back(self.added(direction)) / self.power

    def score(self, x: Tensor, noise_std: float | Tensor) -> Tensor:
        """Return zero: within the subspace the mixture says nothing more."""
        return torch.zeros_like(x)

    def log_prob(self, x: Tensor, noise_std: float | Tensor) -> Tensor:
        """Return zero likewise."""
        return x.new_zeros(x.shape[: -1 - self.event_dim])


class PrintedMixing(Mixing):
    r"""The mixing term as Algorithm 1 of the paper prints it: it drives sources off the mixture.

    .. math:: -\frac{1}{\sigma^2} \Big(m - \sum_k \alpha_k x_k\Big)

    Its sign is wrong and alpha_k is missing; with it the algorithm has a temperature of 2. It is
    the gradient of no density that could be normalised: it is here to be compared with.
    """

    def score(self, x: Tensor, noise_std: float | Tensor) -> Tensor:
        """Return the printed term, the same for every source."""
        sigma = torch.as_tensor(noise_std, dtype=x.dtype, device=x.device)
        r = self.residual(x) / _over(sigma, self.event_dim).square()
        return -r.unsqueeze(-1 - self.event_dim).expand_as(x)

    def log_prob(self, x: Tensor, noise_std: float | Tensor) -> Tensor:
        """Raise `NotImplementedError`: the printed term is the gradient of no density."""
        raise NotImplementedError("log_prob: the mixing term of Algorithm 1 belongs to no density")


def _over(value: Tensor, event_dim: int) -> Tensor:
    return value.reshape(*value.shape, *[1] * event_dim)
