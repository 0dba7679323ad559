r"""Spectra of signals: the circular complex Gaussian and the law of its power.

A short-time spectrum is modelled as s ~ N_c(0, v) at every bin. Its power |s|^2 is then exponential
with mean v, and its phase uniform: what is known of s beyond its power says nothing about v.
"""

import math

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyromodels.errors import mismatch


class PowerSpectrum(TorchDistribution):
    r"""p(P | v) of a power spectrum P = |s|^2, s ~ N_c(0, v) at every bin.

        log p(P | v) = \sum_f -log v_f - P_f / v_f
        d_IS(P, v)   = \sum_f P_f / v_f - log(P_f / v_f) - 1

    so that -log p and the Itakura-Saito divergence differ by what does not depend on v. The density
    of the complex spectrum is p(P | v) / pi at every bin.

    Reference: Févotte, Bertin and Durrieu, 2009, Nonnegative matrix factorization with the
    Itakura-Saito divergence; Lin, 2024 (thesis), eq. 7.3 and 7.10.

    Args:
        log_variance: log v, shape (*batch, F).

    Example:
        >>> law = PowerSpectrum(torch.zeros(3, 513))
        >>> law.log_prob(torch.ones(513))
        tensor([-513., -513., -513.])
    """

    arg_constraints = {"log_variance": constraints.real_vector}
    support = constraints.independent(constraints.nonnegative, 1)
    has_rsample = True

    def __init__(self, log_variance: Tensor, *, validate_args: bool | None = None) -> None:
        self.log_variance = log_variance
        super().__init__(
            log_variance.shape[:-1], log_variance.shape[-1:], validate_args=validate_args
        )

    @property
    def mean(self) -> Tensor:
        """v, shape (*batch, F)."""
        return self.log_variance.exp()

    @property
    def variance(self) -> Tensor:
        """v^2, shape (*batch, F)."""
        return (2 * self.log_variance).exp()

    def expand(
        self, batch_shape: torch.Size, _instance: "PowerSpectrum | None" = None
    ) -> "PowerSpectrum":
        """Return this law for a larger batch."""
        wide = self.log_variance.expand(*batch_shape, *self.event_shape)
        return PowerSpectrum(wide, validate_args=False)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw powers with pathwise gradients."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.mean * torch.empty_like(self.mean.expand(shape)).exponential_()

    def log_prob(
        self,
        value: Tensor,  # P, shape: (*, F)
    ) -> Tensor:  # nats, shape: (*)
        """Return log p(P | v)."""
        if self._validate_args:
            self._validate_sample(value)
        return -(self.log_variance + value * (-self.log_variance).exp()).sum(-1)

    @staticmethod
    def from_noise(
        mean: Tensor,  # v, shape: (*)
        noise: Tensor,  # standard normal, shape: (*)
    ) -> Tensor:  # P, shape: (*)
        """Return the power at the same quantile as the noise."""
        return -mean * torch.special.log_ndtr(-noise)

    def noise_of(
        self,
        value: Tensor,  # P, shape: (*, F)
    ) -> Tensor:  # shape: (*, F)
        """Return the standard normal noise at the same quantile as the power."""
        return -torch.special.ndtri((-value * (-self.log_variance).exp()).exp())


def itakura_saito(
    power: Tensor,  # P, positive, shape: (*, F)
    variance: Tensor,  # v, positive, shape: (*, F)
) -> Tensor:  # shape: (*)
    """Return the Itakura-Saito divergence d_IS(P, v) of every frame, summed over its bins.

    Raises:
        ValueError: for a power that is not positive: the divergence is then infinite.
    """
    if not (power > 0).all():
        raise ValueError(
            mismatch(
                "power",
                given=f"{int((power <= 0).sum())} bins without any",
                expected="positive powers",
                hint="Digital silence is infinitely far from every spectrum; add a small floor.",
            )
        )
    ratio = power / variance
    return (ratio - ratio.log() - 1).sum(-1)


class ComplexNormal(TorchDistribution):
    r"""N_c(s; 0, v), circularly symmetric, independent at every bin.

        log p(s | v) = \sum_f -log(pi v_f) - |s_f|^2 / v_f

    Args:
        log_variance: log v, shape (*batch, F); v is that of real and imaginary part together.

    Example:
        >>> ComplexNormal(torch.zeros(2, 4)).sample().dtype
        torch.complex64
    """

    arg_constraints = {"log_variance": constraints.real_vector}
    has_rsample = True

    def __init__(self, log_variance: Tensor, *, validate_args: bool | None = None) -> None:
        self.power = PowerSpectrum(log_variance, validate_args=validate_args)
        self.log_variance = log_variance
        super().__init__(log_variance.shape[:-1], log_variance.shape[-1:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Any complex vector."""
        return _ComplexVector()

    def expand(
        self, batch_shape: torch.Size, _instance: "ComplexNormal | None" = None
    ) -> "ComplexNormal":
        """Return this law for a larger batch."""
        return ComplexNormal(self.log_variance.expand(*batch_shape, *self.event_shape))

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw spectra with pathwise gradients."""
        shape = (*self._extended_shape(torch.Size(sample_shape)), 2)
        like = self.log_variance
        parts = torch.randn(shape, dtype=like.dtype, device=like.device)
        deviation = (0.5 * (self.log_variance - math.log(2))).exp()
        return torch.view_as_complex(parts * deviation.unsqueeze(-1))

    def log_prob(
        self,
        value: Tensor,  # s, complex, shape: (*, F)
    ) -> Tensor:  # nats, shape: (*)
        """Return log p(s | v)."""
        power = value.real.square() + value.imag.square()
        return self.power.log_prob(power) - value.shape[-1] * math.log(math.pi)


class _ComplexVector(constraints.Constraint):
    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return value.isfinite().all(-1)
