"""How clean the speech is, and how often the posterior's regions hold the truth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pyromodels.audio.stft import STFT
from pyromodels.experiments.datasets.mixtures.mixtures import Mixture
from pyromodels.experiments.enhancement.baselines import decision_directed
from pyromodels.experiments.enhancement.enhance import Enhanced
from pyromodels.experiments.metrics.audio.distortion import si_sdr
from pyromodels.experiments.separation.baselines import oracle_wiener
from pyromodels.experiments.separation.calibration import LEVELS, loud_bins

BASELINES = ("noisy", "decision_directed", "oracle_wiener")
"""Methods to compare with."""
ESTIMATE = "enhanced"
"""What inference makes of the noisy signal, among the methods."""

Scores = dict[str, list[float]]
"""Method -> SI-SDR of every signal, dB; the estimate first."""


def heard(spectrum: Tensor, stft: STFT, like: Mixture) -> Tensor:
    """Return the signal of a spectrum (T, F), as long as the noisy one."""
    return stft.synthesise(spectrum, like.signal.shape[-1])


def scores_of(
    mixtures: Sequence[Mixture], made: Sequence[Enhanced], stft: STFT, baselines: Sequence[str]
) -> Scores:
    """Return SI-SDR of the speech by method; where a network started, its own and the mean of both.
    """
    rows: Scores = {}
    for mixture, said in zip(mixtures, made, strict=True):
        sources = stft.analyse(mixture.sources)
        noisy = sources.sum(0)
        gains = {
            "noisy": lambda noisy=noisy: torch.ones_like(noisy.real),
            "decision_directed": lambda noisy=noisy: decision_directed(noisy.abs().square()),
            "oracle_wiener": lambda sources=sources: oracle_wiener(sources[None])[0, 0],
        }
        estimates = {ESTIMATE: said.estimate.cpu()}
        if said.alone is not None:
            estimates["network"] = said.alone.cpu()
            estimates["mean_of_both"] = (said.alone + said.estimate).cpu() / 2
        estimates |= {name: gains[name]() * noisy for name in baselines}
        for method, estimate in estimates.items():
            signal = heard(estimate, stft, mixture)
            rows.setdefault(method, []).append(si_sdr(mixture.sources[0], signal).item())
    return rows


def of_starts(mixtures: Sequence[Mixture], made: Sequence[Enhanced], stft: STFT) -> Tensor:
    """Return SI-SDR of what came of every start, shape (signals, starts)."""
    return torch.stack([
        torch.stack([
            si_sdr(mixture.sources[0], heard(estimate, stft, mixture))
            for estimate in said.estimates.cpu()
        ])
        for mixture, said in zip(mixtures, made, strict=True)
    ])


def coverage(mixtures: Sequence[Mixture], made: Sequence[Enhanced], stft: STFT) -> Tensor:
    r"""Return how often |s - E[s]|^2 <= -Var[s] log(1 - level), shape (levels,).

    That is the region of a circular Gaussian, at loud bins (`loud_bins`).
    """
    held, counted = torch.zeros(len(LEVELS), dtype=torch.float64), 0
    for mixture, said in zip(mixtures, made, strict=True):
        speech, noise = stft.analyse(mixture.sources)
        power = (speech + noise).abs().square()
        loud = loud_bins(power)
        square = (speech - said.estimate.cpu()).abs().square()[loud]
        variance = said.variance.cpu()[loud]
        held += torch.stack([
            (square <= -variance * math.log(1 - level)).double().sum() for level in LEVELS
        ])
        counted += int(loud.sum())
    return held / counted
