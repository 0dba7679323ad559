"""Numbers that say how good an approximate posterior is: tensors or arrays in, numbers out.

References:
    Yao, Vehtari, Simpson and Gelman, 2018, Yes, but did it work? (k-hat of a guide, VSBC).
    Vehtari, Simpson, Gelman, Yao and Gabry, 2024, Pareto smoothed importance sampling (k-hat, its
    threshold for n draws).
    Vehtari, Gelman, Simpson, Carpenter and Bürkner, 2021, Rank-normalization, folding, and
    localization.
    Talts, Betancourt, Simpson, Vehtari and Gelman, 2018, Simulation-based calibration.
    Gneiting and Raftery, 2007, Strictly proper scoring rules (CRPS, PIT).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp, ndtr
from torch import Tensor

from pyromodels.errors import ShapeError, mismatch, misshapen
from pyromodels.inference.posterior.arviz_io import pareto_shape, rank_rhat

Values = Tensor | np.ndarray
"""Numbers, of torch or numpy."""

CONSTANT = 1e-3
"""Nats: log weights that span less are equal, and have no tail."""

ZERO = -700.0
"""Nats below the largest at which a weight counts as zero; its exponential is still a number."""

LEVELS = (0.5, 0.8, 0.95)
"""Probabilities of the central intervals whose coverage is counted."""


def pareto_k(
    log_weights: Values,  # log p(o, latents) - log q(latents) of draws of q, nats; (n, *batch)
) -> np.ndarray:  # shape: (*batch,)
    """k-hat: how heavy the tail of the importance weights p / q is.

    Below 0.5 their variance is finite, below 0.7 they still serve n in the thousands, above 1 their
    mean does not exist in practice: q lacks mass where p has it. A constant weight (q = p) counts
    as 0. So does a tail too full of ties to be fitted, as discrete latents make it, if no weight is
    above sqrt(n) times the mean, where importance sampling is truncated (Ionides, 2008); else it is
    infinite. Weights of zero, draws where p has no mass, have no part in the tail; where all are
    zero it is infinite.

    It only sees where the draws of q are: a mode that q has missed altogether leaves it small.
    """
    weights = np.moveaxis(_draws(log_weights, "log_weights", least=20), 0, -1)
    if np.isnan(weights).any() or np.isposinf(weights).any():
        raise ValueError("log_weights: NaN or +inf; does q have no mass at a draw of its own?")
    top = weights.max(-1, keepdims=True)
    shape = np.where(np.isneginf(top[..., 0]), np.inf, 0.0)
    top = np.where(np.isneginf(top), 0.0, top)
    varied = (top - np.where(np.isneginf(weights), top, weights)).max(-1) >= CONSTANT
    weights = np.maximum(weights, top + ZERO)
    if varied.any():
        weights = weights[varied]
        largest = weights.max(-1) - logsumexp(weights, axis=-1)  # log of its share
        tame = largest <= -0.5 * math.log(weights.shape[-1])
        with np.errstate(all="ignore"):  # of ties
            found = np.asarray(pareto_shape(weights), dtype=float)
        shape[varied] = np.where(np.isfinite(found), found, np.where(tame, 0.0, np.inf))
    return shape


def pareto_k_threshold(num_draws: int) -> float:
    """min(1 - 1 / log10 n, 0.7): the k-hat up to which n draws do (Vehtari et al., 2024)."""
    return min(1 - 1 / math.log10(num_draws), 0.7)


class Estimate(NamedTuple):
    """A number and its Monte-Carlo standard error, arrays of one shape."""

    value: np.ndarray
    error: np.ndarray


def importance_gap(
    log_weights: Values,  # nats, shape: (n, *batch)
    num_particles: int = 20,
) -> Estimate:  # nats, each (*batch,)
    """IWAE bound of K particles minus the ELBO: a lower bound of KL(q || p), from the same draws.

    Zero where q = p, infinite where p has no mass at a draw. Groups of K draws are independent; the
    error is that of their mean.
    """
    weights = _draws(log_weights, "log_weights", least=2 * num_particles)
    groups = len(weights) // num_particles
    grouped = weights[: groups * num_particles].reshape(groups, num_particles, *weights.shape[1:])
    outside = np.isneginf(weights).any(0)
    grouped = np.where(outside, 0.0, grouped)
    gap = logsumexp(grouped, axis=1) - math.log(num_particles) - grouped.mean(1)
    error = gap.std(0, ddof=1) / math.sqrt(groups)
    return Estimate(np.where(outside, np.inf, gap.mean(0)), error)


def rhat(
    values: Values,  # shape: (fits, n, *batch)
) -> np.ndarray:  # shape: (*batch,)
    """R-hat with independent fits as chains: 1 where they agree.

    NaN where a number is constant; infinite where it is in every fit, and another in some.
    """
    chains = _array(values)
    if chains.ndim < 2 or chains.shape[0] < 2 or chains.shape[1] < 4:
        expected = "(2 or more fits, 4 or more draws, *batch)"
        raise misshapen("values", chains.shape, expected)
    columns = np.moveaxis(chains.reshape(*chains.shape[:2], -1), -1, 0)
    found = np.full(len(columns), np.nan)
    for i, column in enumerate(columns):
        if np.ptp(column, axis=1).any():
            found[i] = rank_rhat(column)
        elif np.ptp(column) > 0:
            found[i] = np.inf
    return found.reshape(chains.shape[2:])


def align_sources(
    loc: Values,  # mean trajectories of every fit, shape: (fits, N, T, D)
) -> np.ndarray:  # shape: (fits, N)
    """Return which source of a fit is which of the first fit: least squares over whole paths.

    `loc[f][order[f]]` is in the order of `loc[0]` (the Hungarian algorithm).
    """
    paths = _array(loc)
    if paths.ndim != 4:
        raise ShapeError(mismatch("loc", given=paths.shape, expected="(fits, N, T, D)"))
    cost = np.square(paths[0][None, :, None] - paths[:, None]).sum((-1, -2))  # (fits, N, N)
    return np.stack([linear_sum_assignment(table)[1] for table in cost])


def uniform_ranks(
    truth: Values,  # shape: (*batch,)
    draws: Values,  # shape: (n, *batch)
    seed: int = 0,
) -> np.ndarray:  # in (0, 1), shape: (*batch,)
    """Rank of the truth among the draws over n + 1, spread over its cell and over ties.

    Exactly uniform where truth and draws come from one law, continuous or not (Talts et al.).
    """
    truth, draws = _array(truth), _draws(draws, "draws")
    if truth.shape != draws.shape[1:]:
        raise misshapen("truth", truth.shape, f"{draws.shape[1:]}, as a draw")
    below, ties = (draws < truth).sum(0), (draws == truth).sum(0)
    spread = np.random.default_rng(seed).uniform(size=truth.shape)
    return (below + spread * (ties + 1)) / (len(draws) + 1)


class Uniformity(NamedTuple):
    """What is wrong with numbers that should be uniform on (0, 1), if anything."""

    bias: float
    """z of the mean: positive where the truth lies above what q expects. Asymmetry."""
    dispersion: float
    """z of the spread around 1/2: positive for a U (q too narrow), negative for a hump (wide)."""
    ks_p: float
    """Kolmogorov-Smirnov."""
    chi_square_p: float
    """Chi square over ten bins, or fewer so that one expects five."""

    @property
    def p_value(self) -> float:
        """The least p-value of bias, dispersion and Kolmogorov-Smirnov, times three."""
        normal = [2 * stats.norm.sf(abs(z)) for z in (self.bias, self.dispersion)]
        return float(min(1.0, 3 * min(*normal, self.ks_p)))


def uniformity(
    ranks: Values,  # in (0, 1), shape: (R,)
) -> Uniformity:
    """Test independent ranks or PIT values for uniformity, asymmetry apart from U-shape.

    A shifted q slopes the histogram (moment u - 1/2, variance 1/12), a narrow one makes it a U
    (moment (u - 1/2)^2, mean 1/12, variance 1/180): two moments that do not correlate.
    """
    u = _array(ranks).ravel()
    if len(u) < 10 or not ((u >= 0) & (u <= 1)).all():
        given = f"{len(u)} between {u.min(initial=0):.3g} and {u.max(initial=0):.3g}"
        raise ValueError(mismatch("ranks", given=given, expected="10 or more in [0, 1]"))
    root = math.sqrt(len(u))
    counts = np.histogram(u, bins=min(10, len(u) // 5), range=(0, 1))[0]
    return Uniformity(
        bias=math.sqrt(12) * root * float(u.mean() - 0.5),
        dispersion=math.sqrt(180) * root * float(np.square(u - 0.5).mean() - 1 / 12),
        ks_p=float(stats.kstest(u, "uniform").pvalue),
        chi_square_p=float(stats.chisquare(counts).pvalue),
    )


def interval_coverage(
    ranks: Values,  # ranks or PIT values in (0, 1), shape: (R,)
    levels: Sequence[float] = LEVELS,
) -> dict[float, Estimate]:
    """How often the central intervals hold the truth; the error is that of a calibrated law."""
    distance = 2 * np.abs(_array(ranks).ravel() - 0.5)
    return {
        level: Estimate(
            np.mean(distance <= level), np.sqrt(level * (1 - level) / max(1, len(distance)))
        )
        for level in levels
    }


def mixture_pit(
    observed: Values,  # shape: (*batch,)
    loc: Values,  # of the components, in equal parts; shape: (n, *batch)
    scale: Values,  # standard deviations, shape: broadcastable to (n, *batch)
) -> np.ndarray:  # shape: (*batch,)
    """P(o' <= o) under a mixture of Gaussians, one component for each draw of the latents."""
    return ndtr((_array(observed) - _array(loc)) / _array(scale)).mean(0)


def crps(
    draws: Values,  # of the predictive, shape: (n, *batch)
    observed: Values,  # shape: (*batch,)
) -> np.ndarray:  # in the unit of the data, shape: (*batch,)
    """E|o' - o| - E|o' - o''| / 2: continuous ranked probability score, the fair estimate."""
    ordered, observed = np.sort(_draws(draws, "draws", least=2), axis=0), _array(observed)
    n = len(ordered)
    weight = (2 * np.arange(1, n + 1) - n - 1).reshape(-1, *[1] * (ordered.ndim - 1))
    return np.abs(ordered - observed).mean(0) - (weight * ordered).sum(0) / (n * (n - 1))


class Moments(NamedTuple):
    """Draws of a guide against those of a reference, arrays of one shape."""

    shift: np.ndarray  # difference of means, in standard deviations of the reference
    ratio: np.ndarray  # standard deviation of the guide over that of the reference


def compare_moments(
    draws: Values,  # shape: (n, *batch)
    reference: Values,  # of NUTS, of an exact sampler; shape: (n', *batch)
) -> Moments:
    """Compare means and standard deviations number by number; constants that agree are equal."""
    draws, reference = _draws(draws, "draws", least=2), _draws(reference, "reference", least=2)
    if draws.shape[1:] != reference.shape[1:]:
        expected = f"(n, *{draws.shape[1:]})"
        raise misshapen("reference", reference.shape, expected)
    tiny = np.finfo(float).tiny
    std = [np.maximum(part.std(0, ddof=1), tiny) for part in (draws, reference)]
    return Moments((draws.mean(0) - reference.mean(0)) / std[1], std[0] / std[1])


def _array(values: Values) -> np.ndarray:
    values = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    return values.astype(float)


def _draws(values: Values, name: str, *, least: int = 1) -> np.ndarray:
    array = _array(values)
    if array.ndim < 1 or len(array) < least:
        raise misshapen(name, array.shape, f"{least} or more draws first")
    return array
