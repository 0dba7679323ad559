"""How clean the speech is, by method and figure."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyromodels.audio.stft import STFT
from pyromodels.experiments.datasets.mixtures.mixtures import Mixture
from pyromodels.experiments.enhancement.baselines import decision_directed
from pyromodels.experiments.enhancement.enhance import Enhanced
from pyromodels.experiments.metrics.audio.distortion import si_sdr
from pyromodels.experiments.separation.baselines.oracles import oracle_wiener
from pyromodels.experiments.separation.measures import measured

BASELINES = ("noisy", "decision_directed", "oracle_wiener")
"""Methods to compare with."""
ESTIMATE = "enhanced"
"""What inference makes of the noisy signal, among the methods."""
INFERRED = {"vem": "variational_em", "mcem": "monte_carlo_em"}
"""What inference says alone, by its method, where the estimate is an average."""
PARTS = (*INFERRED.values(), "network")
"""What an average is made of, or what a network that inference started from says alone."""

Scores = dict[str, dict[str, list[float]]]
"""Method -> figure -> one value a signal; the estimate first."""


def heard(spectrum: Tensor, stft: STFT, like: Mixture) -> Tensor:
    """Return the signal of a spectrum (T, F), as long as the noisy one."""
    return stft.synthesise(spectrum, like.signal.shape[-1])


def scores_of(
    mixtures: Sequence[Mixture],
    made: Sequence[Enhanced],
    stft: STFT,
    baselines: Sequence[str],
    figures: Sequence[str] = ("si_sdr",),
    *,
    inferred: str = INFERRED["vem"],
) -> Scores:
    """Return figures of the speech by method: of the estimate, its parts, and the baselines.

    What inference says alone is called `inferred`.
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
        parts = {inferred: said.inferred, "network": said.alone}
        estimates = {ESTIMATE: said.estimate.cpu()}
        estimates |= {name: part.cpu() for name, part in parts.items() if part is not None}
        estimates |= {name: gains[name]() * noisy for name in baselines}
        truth = mixture.sources[:1][None]
        for method, estimate in estimates.items():
            signal = heard(estimate, stft, mixture)
            for figure, values in measured(truth, signal[None, None], figures).items():
                rows.setdefault(method, {}).setdefault(figure, []).append(values.item())
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
