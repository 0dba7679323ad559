"""What is reached by estimates, by what they start from, and by other methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyromodels.audio.stft import STFT
from pyromodels.errors import SpecError, check_positive, unknown
from pyromodels.experiments.datasets.mixtures.mixtures import Mixture, MixtureData
from pyromodels.experiments.separation.baselines.nmf import NMF
from pyromodels.experiments.separation.baselines.oracles import ideal_binary_mask, oracle_wiener
from pyromodels.experiments.separation.baselines.temporal_nmf import TemporalNMF
from pyromodels.experiments.separation.measures import check_names, measured
from pyromodels.experiments.separation.separate import Separated

BASELINES = ("mixture", "ideal_binary_mask", "oracle_wiener", "nmf", "temporal_nmf")
"""Methods to compare with."""
ESTIMATE, START = "estimate", "start"
"""What inference ends with, and what it began with, among the methods."""

Scores = dict[str, dict[str, list[float]]]
"""Method -> "kind/figure" -> one value a mixture; the estimate first."""
Group = tuple[tuple[Mixture, ...], Separated]
"""Mixtures of one length, and what was made of them."""


@dataclass(frozen=True)
class SeparationMetrics:
    """What is measured of a separation.

    Args:
        baselines: of `BASELINES`.
        figures: of every source, of `measures.FIGURES`; "estoi" and "pesq" need packages of their
            names, and what these refuse to judge is left out of the mean.
        nmf_atoms: of the dictionary of each kind of source, of the baselines "nmf" and
            "temporal_nmf".
        num_examples: mixtures that are written as sounds and drawn; where nobody knows the truth,
            all estimates are written.
        num_draws: posterior draws of each of them.
        after: sweeps of variational EM after which SI-SDR is measured as well.
        checked: mixtures of the validation recordings that the law of errors is fitted to.
    """

    baselines: tuple[str, ...] = ("mixture", "ideal_binary_mask")
    figures: tuple[str, ...] = ("si_sdr", "rmse")
    nmf_atoms: int = 128
    num_examples: int = 2
    num_draws: int = 2
    after: tuple[int, ...] = ()
    checked: int = 64

    def __post_init__(self) -> None:
        """Refuse a baseline, or figure, that is none."""
        check_names(self.figures)
        check_positive(self, "nmf_atoms")
        for name in self.baselines:
            if name not in BASELINES:
                raise SpecError(unknown("baseline", given=name, known=BASELINES))


def scores_of(
    data: MixtureData, stft: STFT, groups: Sequence[Group], asked: SeparationMetrics
) -> Scores:
    """Return figures of estimates, of their start, and of the baselines.

    Nothing is returned where nobody knows the truth.
    """
    rows: Scores = {}
    if not data.has_truth:
        return rows
    masks = masks_of(data, stft, asked)
    for mixtures, made in groups:
        truth = torch.stack([m.sources for m in mixtures])
        spectra = stft.analyse(truth)
        for method, estimate in estimates_of(made, spectra, masks).items():
            signals = stft.synthesise(estimate, truth.shape[-1])
            for key, values in measured(truth, signals, asked.figures).items():
                for n, kind in enumerate(data.kinds):
                    row = rows.setdefault(method, {})
                    row.setdefault(f"{kind}/{key}", []).extend(values[:, n].tolist())
    return rows


def estimates_of(
    made: Separated,
    spectra: Tensor,  # of the sources, complex, shape: (B, N, T, F)
    masks: Mapping[str, Callable[[Tensor], Tensor]],  # those of `masks_of`
) -> dict[str, Tensor]:
    """Return method -> spectra of the sources, (B, N, T, F), the estimate first."""
    found = {ESTIMATE: made.estimate.cpu()}
    if made.program is not None:
        found[START] = made.start.cpu()
    mixture = spectra.sum(1, keepdim=True)
    return found | {name: mask(spectra) * mixture for name, mask in masks.items()}


def masks_of(
    data: MixtureData, stft: STFT, asked: SeparationMetrics
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return baseline -> spectra of the sources (B, N, T, F) -> masks of the same shape."""
    found: dict[str, Callable[[Tensor], Tensor]] = {
        "mixture": lambda spectra: torch.ones_like(spectra.real),
        "ideal_binary_mask": ideal_binary_mask,
        "oracle_wiener": oracle_wiener,
    }
    if {"nmf", "temporal_nmf"} & set(asked.baselines):
        recordings = [stft.analyse(signal) for signal in data.recorded("train")]
        learnt = NMF(recordings, num_atoms=asked.nmf_atoms)
        found["nmf"] = lambda spectra: learnt.masks(spectra.sum(1))
        found["temporal_nmf"] = lambda spectra: TemporalNMF(learnt).masks(spectra.sum(1))
    return {name: found[name] for name in asked.baselines}
