"""How sure an enhancement may be: a law of errors, fitted to drawn noisy speech, and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pyromodels.audio.stft import STFT
from pyromodels.experiments.datasets.mixtures.mixtures import Mixture, MixtureData
from pyromodels.experiments.datasets.mixtures.simulate import Simulation
from pyromodels.experiments.enhancement.enhance import Enhanced, Recipe, enhance
from pyromodels.experiments.enhancement.training import noisy
from pyromodels.experiments.separation.calibration import (
    Errors,
    coverage,
    gaussian_law,
    level_around,
    loud_bins,
    waveform_coverage,
)
from pyromodels.experiments.separation.outcome import Regions
from pyromodels.experiments.separation.regions import regions_from

DRAWN = Simulation(num_frames=100, level_db=(-5.0, 5.0), speed=1.0, equalisation_db=0.0)
"""Of what the law is fitted to; shorter where recordings are."""


def regions_of(
    data: MixtureData, stft: STFT, recipe: Recipe, num_checked: int, seed: int, device: str
) -> Regions | None:
    """Return the law of the posterior's errors, fitted on drawn signals of validation recordings.

    None without recordings, or where no signal is to be drawn.
    """
    if data.unheard or not num_checked:
        return None
    torch.manual_seed(seed)
    recorded = data.recorded("valid")
    longest = stft.num_frames(min(map(len, recorded)))
    drawn = replace(DRAWN, num_frames=min(DRAWN.num_frames, longest))
    sources = noisy(recorded, num_checked, stft, drawn).to(device)
    made = enhance(list(sources.sum(1)), recipe, what="checking")
    errors = zip(*map(errors_of, sources.cpu(), made), strict=True)
    return regions_from(Errors(*map(torch.cat, errors)), stft)


def errors_of(
    sources: Tensor,  # spectra of speech and noise, complex, shape: (2, T, F)
    said: Enhanced,
) -> Errors:
    """Return how far the estimate of one signal is from its speech; B = N = 1."""
    power = sources.sum(0).abs().square()[None]
    error = (sources[0] - said.estimate.cpu())[None, None]
    variance = said.variance.cpu()[None, None]
    return Errors(error, variance, level_around(power), loud_bins(power))


def calibrations(
    mixtures: Sequence[Mixture], made: Sequence[Enhanced], stft: STFT, regions: Regions | None
) -> dict[str, Tensor]:
    """Return law -> how often its regions hold the truth, over the loud bins of all signals.

    "posterior" is the Gaussian law of the posterior as it is; the others are there with `regions`,
    among them "waveform", of samples.
    """
    plain = gaussian_law(1, torch.zeros(()))
    laws = {"posterior": (plain, plain.radii())}
    if regions is not None:
        law = regions.law
        laws = {"recalibrated": (law, regions.radii), "student": (law, law.radii())} | laws
    found: dict[str, list[Tensor]] = {}
    counts: dict[str, list[int]] = {}
    for mixture, said in zip(mixtures, made, strict=True):
        errors = errors_of(stft.analyse(mixture.sources), said)
        held = {name: coverage(*each, errors) for name, each in laws.items()}
        size = dict.fromkeys(laws, int(errors.loud.sum()))
        if regions is not None:
            held["waveform"] = waveform_coverage(regions.law, regions.widths, errors, stft)
            size["waveform"] = len(mixture.signal)
        for name, share in held.items():
            found.setdefault(name, []).append(share[:, 0].double() * size[name])
            counts.setdefault(name, []).append(size[name])
    return {name: torch.stack(parts).sum(0) / sum(counts[name]) for name, parts in found.items()}


def variance_of(
    said: Enhanced,
    heard: Tensor,  # complex, shape: (T, F)
    regions: Regions | None,
) -> Tensor:  # shape: (T, F)
    """Return the scale of the fitted law at every bin; the posterior's variance without one."""
    variance = said.variance.cpu()
    if regions is None:
        return variance
    level = level_around(heard.abs().square()[None])
    return regions.law.scale(variance[None, None], level)[0, 0]
