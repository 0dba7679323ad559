"""How far a separated coefficient may be from the truth: a law of errors, fitted and checked."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pyromodels.audio.stft import STFT

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Probabilities of the regions that are checked."""
LOUD = 1e-3
"""A bin counts where its power is above so much of the mean power of its mixture."""


class Errors(NamedTuple):
    """How far estimates are from the truth, and how far they said to be."""

    error: Tensor  # s - m, complex, shape: (B, N, T, F)
    variance: Tensor  # that the method itself says, shape: (B, N, T, F)
    level: Tensor  # power of the mixture around the bin, shape: (B, 1, T, F)
    loud: Tensor  # which bins count, shape: (B, T, F)


class ErrorLaw(NamedTuple):
    r"""p(s - m) of a separated coefficient: a circular complex Student law, heavier than Gaussian.

        log p(e) = log(1 / (pi b)) - (nu + 1) log(1 + |e|^2 / (nu b)),
        b = kappa (V + c \bar P)

    V is the variance that the method itself says, \bar P the mixture's power in the mean over 3 by
    3 bins. |e|^2 / b is then Lomax, P(|e|^2 > q b) = (1 + q / nu)^-nu, and as nu grows the law is
    N_c(0, b).
    """

    log_kappa: Tensor  # shape: (N,)
    log_floor: Tensor  # log c, shape: (N,)
    log_nu: Tensor  # shape: (N,)

    def scale(
        self,
        variance: Tensor,  # V, shape: (B, N, T, F)
        level: Tensor,  # \bar P, shape: (B, 1, T, F)
    ) -> Tensor:  # b, shape: (B, N, T, F)
        """Return b."""
        kappa, floor = (p.exp()[:, None, None] for p in (self.log_kappa, self.log_floor))
        return kappa * (variance + floor * level) + 1e-20

    def log_prob(self, square: Tensor, scale: Tensor) -> Tensor:
        """Return log p(e), |e|^2 and b given, each (B, N, T, F)."""
        nu = self.log_nu.exp()[:, None, None]
        return -(torch.pi * scale).log() - (nu + 1) * (square / (nu * scale)).log1p()

    def radii(self) -> Tensor:  # of |e|^2 / b, shape: (levels, N)
        """Return the q whose discs hold the probabilities of `LEVELS`."""
        nu = self.log_nu.exp()
        outside = 1 - torch.tensor(LEVELS, dtype=nu.dtype, device=nu.device)
        return nu * torch.expm1(-outside.log()[:, None] / nu)

    def draw(self, scale: Tensor) -> Tensor:  # complex, shape: (B, N, T, F)
        """Draw errors."""
        share = torch.rand_like(scale).clamp_min(1e-12)
        nu = self.log_nu.exp()[:, None, None]
        square = scale * nu * torch.expm1(-share.log() / nu)
        return torch.polar(square.sqrt(), 2 * torch.pi * torch.rand_like(scale))


FARTHEST = 20.0
"""Logarithms of the law stay within this."""


def level_around(
    power: Tensor,  # shape: (B, T, F)
) -> Tensor:  # \bar P, shape: (B, 1, T, F)
    """Return the power in the mean over 3 by 3 bins."""
    return F.avg_pool2d(power.unsqueeze(1), 3, stride=1, padding=1, count_include_pad=False)


def variance_of_shares(
    mask: Tensor,  # M, shape: (B, N, T, F)
    level: Tensor,  # \bar P, shape: (B, 1, T, F)
) -> Tensor:  # shape: (B, N, T, F)
    """Return M (1 - M) \bar P, the variance of an estimate that is a share of the mixture."""
    return mask * (1 - mask) * level


def errors_of_shares(
    sources: Tensor,  # spectra, complex, shape: (B, N, T, F)
    mask: Tensor,  # M, shape: (B, N, T, F)
) -> Errors:
    """Return the errors of M times the mixture, whose sources are known."""
    mixture = sources.sum(1)
    power = mixture.abs().square()
    level = level_around(power)
    error = sources - mask * mixture.unsqueeze(1)
    return Errors(error, variance_of_shares(mask, level), level, loud_bins(power))


def gaussian_law(num_sources: int, like: Tensor) -> ErrorLaw:
    """Return what the method itself says: N_c(0, V), before anything is fitted."""
    zeros = like.new_zeros(num_sources)
    return ErrorLaw(zeros, zeros - 9.0, zeros + 12.0)


def fit_error_law(errors: Errors, *, steps: int = 60) -> ErrorLaw:
    """Return the law of maximum likelihood on the loud bins of mixtures whose sources are known."""
    error, variance, level, loud = errors
    square = error.abs().square()
    everywhere = loud.unsqueeze(1).expand_as(square)
    num = square.shape[1]
    start = (torch.zeros(num), torch.full((num,), -4.0), torch.full((num,), 1.0))
    parameters = [p.to(square).requires_grad_() for p in start]
    optimizer = torch.optim.LBFGS(parameters, max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        law = ErrorLaw(*(p.clamp(-FARTHEST, FARTHEST) for p in parameters))
        value = -law.log_prob(square, law.scale(variance, level))[everywhere].mean()
        # errors may say nothing of a number, and a line search would follow it to infinity
        value = value + sum((p.abs() - FARTHEST).clamp_min(0).square().sum() for p in parameters)
        value.backward()
        return value

    optimizer.step(loss)
    return ErrorLaw(*(p.detach() for p in parameters))


def measured_radii(law: ErrorLaw, errors: Errors) -> Tensor:  # of |e|^2 / b, shape: (levels, N)
    """Return the q whose discs have held these shares of the truth: a conformal recalibration.

    It needs no law to be right, only the errors of new mixtures to be like those of these.
    """
    ratio = of_bins(law, errors)
    return torch.stack([quantiles(each[errors.loud]) for each in ratio.unbind(1)], 1)


def coverage(
    law: ErrorLaw,
    radii: Tensor,  # of |e|^2 / b, shape: (levels, N)
    errors: Errors,
) -> Tensor:  # shape: (levels, N)
    """Return how often the disc of each level holds the truth, over loud bins."""
    ratio, loud = of_bins(law, errors), errors.loud.unsqueeze(1)
    held = [((ratio <= q[:, None, None]) & loud).sum((0, 2, 3)) for q in radii]
    return torch.stack(held) / errors.loud.sum()


def measured_widths(law: ErrorLaw, errors: Errors, stft: STFT) -> Tensor:  # shape: (levels, N)
    """Return the q of `measured_radii` for samples of the waveform: intervals, of e_n^2 / v_n."""
    ratio = of_samples(law, errors, stft)
    return torch.stack([quantiles(each.flatten()) for each in ratio.unbind(1)], 1)


def waveform_coverage(
    law: ErrorLaw,
    widths: Tensor,  # of e_n^2 / v_n, shape: (levels, N)
    errors: Errors,
    stft: STFT,
) -> Tensor:  # shape: (levels, N)
    """Return how often the interval of each level holds a sample of the truth."""
    ratio = of_samples(law, errors, stft)
    return torch.stack([(ratio <= q[:, None]).double().mean((0, 2)) for q in widths])


def of_bins(law: ErrorLaw, errors: Errors) -> Tensor:  # |e|^2 / b, shape: (B, N, T, F)
    """Return squared errors in units of what the law says of them."""
    return errors.error.abs().square() / law.scale(errors.variance, errors.level)


def of_samples(law: ErrorLaw, errors: Errors, stft: STFT) -> Tensor:  # shape: (B, N, n)
    """Return squared errors of the waveform, in units of what the law says of its bins."""
    scale = stft.signal_variance(law.scale(errors.variance, errors.level))
    return stft.synthesise(errors.error).square() / scale


def quantiles(values: Tensor) -> Tensor:  # (n,); shape: (levels,)
    """Return the values below which `LEVELS` of them lie."""
    return torch.from_numpy(np.quantile(values.double().numpy(), LEVELS)).to(values)


def loud_bins(power: Tensor) -> Tensor:  # shape: (*, T, F)
    """Return which bins count: not those where recordings hold rounding."""
    return power > LOUD * power.mean((-2, -1), keepdim=True)
