"""Figures of separated sources: which there are, what they need, and what they are of a mixture."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyromodels.errors import SpecError, unknown
from pyromodels.experiments.metrics.audio.distortion import scaled_rmse, si_sdr
from pyromodels.experiments.metrics.audio.perceptual import estoi, pesq_figures

FIGURES = ("si_sdr", "si_sdr_improvement", "rmse", "estoi", "pesq")
"""What may be asked for; "pesq" is `pesq_wb`, `pesq_nb` and `pesq_raw`."""
PESQ = ("pesq_wb", "pesq_nb", "pesq_raw")
"""What `pesq_figures` returns."""
TITLES = {
    "si_sdr": "SI-SDR in dB",
    "si_sdr_improvement": "SI-SDR above that of the mixture in dB",
    "rmse": "RMSE",
    "estoi": "ESTOI",
    "pesq_wb": "PESQ, wide band",
}
"""Those that are printed, in this order."""
PACKAGES = {"estoi": ("pystoi", "audio"), "pesq": ("pesq", "pesq")}
"""Figure -> the package that it needs, and the extra that brings it."""


def check_names(asked: Sequence[str], known: Sequence[str] = FIGURES) -> None:
    """Raise `SpecError` for a figure that is none of those known."""
    for name in asked:
        if name not in known:
            raise SpecError(unknown("figure", given=name, known=known))


def check_packages(asked: Sequence[str]) -> None:
    """Raise `ModuleNotFoundError` for a figure whose package is not installed."""
    for name in asked:
        if name not in installed(asked):
            package, extra = PACKAGES[name]
            raise ModuleNotFoundError(
                f"package {package} is not installed; the figure {name!r} of metrics.figures needs "
                f"the extra `{extra}`: pip install 'pyromodels[{extra}]'"
            )


def installed(asked: Sequence[str]) -> list[str]:
    """Return those figures whose packages are there."""
    return [name for name in asked
            if name not in PACKAGES or importlib.util.find_spec(PACKAGES[name][0]) is not None]


def measured(
    truth: Tensor,  # shape: (B, N, n), 16 kHz
    estimate: Tensor,  # shape: (B, N, n)
    asked: Sequence[str],
) -> dict[str, Tensor]:  # each (B, N)
    """Return figures of all sources; NaN where ESTOI or PESQ refuses to judge one.

    Args:
        truth: the sources; their sum is the mixture.
        estimate: what was made of it.
        asked: of `FIGURES`.
    """
    found: dict[str, Tensor] = {}
    if "si_sdr" in asked:
        found["si_sdr"] = si_sdr(truth, estimate)
    if "si_sdr_improvement" in asked:
        mixture = truth.sum(1, keepdim=True).expand_as(truth)
        found["si_sdr_improvement"] = si_sdr(truth, estimate) - si_sdr(truth, mixture)
    if "rmse" in asked:
        found["rmse"] = scaled_rmse(truth, estimate)
    if "estoi" in asked:
        found["estoi"] = _each(truth, estimate, lambda x, y: [estoi(x, y)])[0]
    if "pesq" in asked:
        each = _each(truth, estimate, lambda x, y: list(pesq_figures(x, y).values()), len(PESQ))
        found |= zip(PESQ, each, strict=True)
    return found


def _each(
    truth: Tensor, estimate: Tensor, judge: Callable[[Tensor, Tensor], list[float]], count: int = 1
) -> Tensor:  # shape: (count, B, N)
    rows = []
    for pair in zip(truth.flatten(0, 1), estimate.flatten(0, 1), strict=True):
        try:
            rows.append(judge(*pair))
        except ValueError:  # silence, too short, or nothing that it takes for speech
            rows.append([math.nan] * count)
    return torch.tensor(rows, dtype=torch.float64).T.reshape(count, *truth.shape[:2])


def mean(values: Sequence[float]) -> float:
    """Return the mean of what is not NaN; NaN where nothing is left."""
    kept = [value for value in values if not math.isnan(value)]
    return sum(kept) / len(kept) if kept else math.nan
