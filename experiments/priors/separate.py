"""Mixtures taken apart by annealed Langevin dynamics, and how far that went."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyromodels.densities.independent import IndependentSources
from pyromodels.experiments.datasets.waveforms.waveforms import WaveformMixtures
from pyromodels.experiments.metrics.audio.distortion import si_sdr
from pyromodels.experiments.priors.options import CONSTRAINTS, GainMetrics, LangevinInference
from pyromodels.inference.engines.langevin import Langevin, anneal
from pyromodels.inference.objectives.denoising_bound import denoising_bound

RULE_AMPLITUDE = 0.9
"""Of the one-line rule: that of a square in the mean."""


class Sampled(NamedTuple):
    """Sources of every mixture as sampling found them."""

    estimate: Tensor  # shape: (B, N, T)
    diverged: Tensor  # bool, shape: (B,): no chain of the mixture was left


@torch.no_grad()
def sample_sources(
    data: WaveformMixtures,
    density: IndependentSources,
    options: LangevinInference,
    generator: torch.Generator,
    *,
    show_progress: bool = True,
) -> Sampled:
    """Take all mixtures apart at once.

    Raises:
        SpecError: for adjusted steps of densities that cannot be evaluated.
    """
    options.check_density(density.has_density)
    printed = options.constraint == "printed"
    kernel = Langevin(
        density, 1.0, adjusted=options.adjusted, max_abs=options.max_abs * (1 + options.first),
        temperature=2 * options.temperature if printed else options.temperature,
        mixing=CONSTRAINTS[options.constraint](data.mixture, data.weights),
    )
    state = anneal(kernel, options.schedule, _start(data, options, generator), generator,
                   show_progress=show_progress)
    found, kept = state.position, ~state.diverged  # (C, B, N, T), (C, B)
    best = torch.zeros_like(kept[:1], dtype=torch.int64)
    if options.chains > 1:
        probable = _evidence(density, found, options, generator).where(kept, -torch.inf)
        best = probable.argmax(0, keepdim=True)
    found = found.take_along_dim(best[..., None, None], 0)[0]
    if options.denoise:  # of the chains that are left: the score of the others says nothing
        clean = found + options.last**2 * density.score(found, options.last)
        lost = ~kept.any(0)[:, None, None]
        found = torch.where(lost | ~clean.isfinite(), found, clean)
    return Sampled(found, ~kept.any(0))


def _evidence(
    density: IndependentSources,
    found: Tensor,  # shape: (C, B, N, T)
    options: LangevinInference,
    generator: torch.Generator,
) -> Tensor:  # nats, shape: (C, B)
    """Return how probable sources are; of scores alone, a bound on it by how well they denoise."""
    if density.has_density:
        return density.log_prob(found, options.last)
    levels = options.last, options.first
    return denoising_bound(density, found, noise_std=levels, scale=1.0, generator=generator)


def _start(
    data: WaveformMixtures, options: LangevinInference, generator: torch.Generator
) -> Tensor:  # shape: (C, B, N, T)
    like = data.sources
    noise = torch.randn((options.chains, *like.shape), generator=generator, device=like.device,
                        dtype=like.dtype)
    around = {"noise": torch.zeros_like(like), "oracle": like,
              "mixture": data.mixture.unsqueeze(1).expand_as(like)}
    return around[options.start] + options.first * noise


def one_line_rule(
    mixture: Tensor,  # shape: (B, T)
    weights: Tensor,  # shape: (N,), all alike
    kinds: tuple[str, ...],
) -> Tensor | None:  # shape: (B, N, T)
    """Return square = sign m, sine = 2 m - 0.9 sign m, of a mean; None of any other two kinds."""
    if sorted(kinds) != ["sine", "square"]:
        return None
    sign = mixture.sign()
    parts = {"square": sign, "sine": mixture / weights[0] - RULE_AMPLITUDE * sign}
    return torch.stack([parts[kind] for kind in kinds], 1)


def gains(
    data: WaveformMixtures,
    estimate: Tensor,  # shape: (B, N, T)
    cap: float,
) -> Tensor:  # dB, float64, shape: (B, N)
    """Return the SI-SDR of estimates, at most `cap`, above that of the mixture."""
    return si_sdr(data.sources, estimate).clamp_max(cap) - mixture_si_sdr(data)


def mixture_si_sdr(data: WaveformMixtures) -> Tensor:  # dB, float64, shape: (B, N)
    """Return the SI-SDR of the mixture as each of its sources."""
    return si_sdr(data.sources, data.mixture.unsqueeze(1).expand_as(data.sources))


def figures_of(gain: Tensor, options: GainMetrics, prefix: str = "") -> dict[str, float]:
    """Return mean, median and share of mixtures, each the mean over its sources."""
    each = gain.mean(1)
    return {
        f"{prefix}gain": each.mean().item(),
        f"{prefix}gain_median": each.quantile(0.5).item(),
        f"{prefix}above": (each > options.above).double().mean().item(),
    }
