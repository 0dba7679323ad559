"""How far a separated coefficient may be from the truth: a law of errors, fitted and checked."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Probabilities of the regions that are checked."""
LOUD = 1e-3
"""A bin counts where its power is above so much of the mean power of its mixture."""


class ErrorLaw(NamedTuple):
    r"""p(s - m) of a separated coefficient: a circular complex Student law, heavier than Gaussian.

        log p(e) = log(1 / (pi b)) - (nu + 1) log(1 + |e|^2 / (nu b)),
        b = kappa (M (1 - M) + c) \bar P

    M is the share of the source in the bin, \bar P the mixture's power in the mean over 3 by 3
    bins. |e|^2 / b is then Lomax, P(|e|^2 > q b) = (1 + q / nu)^-nu, and as nu grows the law is
    N_c(0, b).
    """

    log_kappa: Tensor  # shape: (N,)
    log_floor: Tensor  # log c, shape: (N,)
    log_nu: Tensor  # shape: (N,)

    def scale(
        self,
        mask: Tensor,  # M, shape: (B, N, T, F)
        power: Tensor,  # of the mixture, shape: (B, T, F)
    ) -> Tensor:  # b, shape: (B, N, T, F)
        """Return b."""
        around = F.avg_pool2d(power.unsqueeze(1), 3, stride=1, padding=1, count_include_pad=False)
        kappa, floor = (p.exp()[:, None, None] for p in (self.log_kappa, self.log_floor))
        return kappa * (mask * (1 - mask) + floor) * around + 1e-20

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


def gaussian_law(num_sources: int, like: Tensor) -> ErrorLaw:
    """Return what the assignment alone says: N_c(0, M (1 - M) P), before anything is fitted."""
    zeros = like.new_zeros(num_sources)
    return ErrorLaw(zeros, zeros - 9.0, zeros + 12.0)


def fit_error_law(
    sources: Tensor,  # spectra, complex, shape: (B, N, T, F)
    mask: Tensor,  # M, shape: (B, N, T, F)
    *,
    steps: int = 60,
) -> ErrorLaw:
    """Return the law of maximum likelihood on loud bins of mixtures whose sources are known."""
    mixture = sources.sum(1)
    power, square = mixture.abs().square(), (sources - mask * mixture.unsqueeze(1)).abs().square()
    loud = loud_bins(power).unsqueeze(1).expand_as(square)
    num = sources.shape[1]
    start = (torch.zeros(num), torch.full((num,), -4.0), torch.full((num,), 1.0))
    parameters = [p.to(power).requires_grad_() for p in start]
    optimizer = torch.optim.LBFGS(parameters, max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        law = ErrorLaw(*(p.clamp(-FARTHEST, FARTHEST) for p in parameters))
        value = -law.log_prob(square, law.scale(mask, power))[loud].mean()
        # errors may say nothing of a number, and a line search would follow it to infinity
        value = value + sum((p.abs() - FARTHEST).clamp_min(0).square().sum() for p in parameters)
        value.backward()
        return value

    optimizer.step(loss)
    return ErrorLaw(*(p.detach() for p in parameters))


def measured_radii(
    law: ErrorLaw,
    sources: Tensor,  # complex, shape: (B, N, T, F)
    mask: Tensor,  # shape: (B, N, T, F)
) -> Tensor:  # of |e|^2 / b, shape: (levels, N)
    """Return the q whose discs have held these shares of the truth: a conformal recalibration.

    It needs no law to be right, only the errors of new mixtures to be like those of these.
    """
    ratio, loud = _ratio(law, sources, mask)
    shares = torch.tensor(LEVELS, dtype=torch.float64).numpy()
    return torch.stack([
        torch.from_numpy(np.quantile(ratio[:, n][loud].double().numpy(), shares)).to(ratio)
        for n in range(ratio.shape[1])
    ], 1)


def coverage(
    law: ErrorLaw,
    radii: Tensor,  # of |e|^2 / b, shape: (levels, N)
    sources: Tensor,  # complex, shape: (B, N, T, F)
    mask: Tensor,  # shape: (B, N, T, F)
) -> Tensor:  # shape: (levels, N)
    """Return how often the disc of each level holds the truth, over loud bins."""
    ratio, loud = _ratio(law, sources, mask)
    held = [((ratio <= q[:, None, None]) & loud.unsqueeze(1)).sum((0, 2, 3)) for q in radii]
    return torch.stack(held) / loud.sum()


def _ratio(
    law: ErrorLaw, sources: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:  # |e|^2 / b, shape: (B, N, T, F); which bins count, (B, T, F)
    mixture = sources.sum(1)
    power = mixture.abs().square()
    square = (sources - mask * mixture.unsqueeze(1)).abs().square()
    return square / law.scale(mask, power), loud_bins(power)


def loud_bins(power: Tensor) -> Tensor:  # shape: (*, T, F)
    """Return which bins count: not those where recordings hold rounding."""
    return power > LOUD * power.mean((-2, -1), keepdim=True)
