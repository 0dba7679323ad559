"""What a run leaves to listen to and to look at: estimates, draws, and how sure they are."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pyromodels.experiments.datasets.mixtures.mixtures import Mixture
from pyromodels.experiments.datasets.speech.audio import write_wav
from pyromodels.experiments.harness.experiment import Outcome
from pyromodels.experiments.separation.calibration import (
    ErrorLaw,
    level_around,
    variance_of_shares,
)
from pyromodels.experiments.separation.regions import law_of, share_of

SHOWN_FRAMES = 1250
"""Of a mixture that are drawn, 20 s, from its beginning."""
PIECE_FRAMES = 1000
"""That the law of errors is asked for at once."""


class Example(NamedTuple):
    """A mixture, what was made of it, and how sure that is: q(s), or the law of errors."""

    mixture: Mixture
    estimate: Tensor  # complex, shape: (N, T, F)
    deviation: Tensor  # of the first `SHOWN_FRAMES`, shape: (N, t, F)
    draws: Iterable[Tensor]  # complex, each (N, T, F), made when asked for


def examples(outcome: Outcome) -> Iterator[Example]:
    """Go through the first mixtures, as many as the spec says."""
    asked = outcome.spec.metrics
    rows = (
        (mixture, made, row)
        for mixtures, made in outcome.fitted.groups for row, mixture in enumerate(mixtures)
    )
    for mixture, made, row in itertools.islice(rows, asked.num_examples):
        estimate = made.estimate[row].cpu()
        if made.variance is not None:
            deviation = made.variance[row, :, :SHOWN_FRAMES].cpu().sqrt()
            yield Example(mixture, estimate, deviation, made.draws[:, row].cpu())
        else:
            law = law_of(outcome)
            deviation = scale_of(law, estimate[:, :SHOWN_FRAMES]).sqrt()
            torch.manual_seed(outcome.spec.seed)
            drawn = (_drawn(law, estimate) for _ in range(asked.num_draws))
            yield Example(mixture, estimate, deviation, drawn)


def scale_of(law: ErrorLaw, estimate: Tensor) -> Tensor:  # (N, T, F); returns the same
    """Return the scale of the errors of the sources of one mixture."""
    level = level_around(estimate.sum(0).abs().square()[None])
    return law.scale(variance_of_shares(share_of(estimate[None]), level), level)[0]


def _drawn(law: ErrorLaw, estimate: Tensor) -> Tensor:  # (N, T, F); returns the same
    pieces = estimate.split(PIECE_FRAMES, -2)
    return torch.cat([piece + law.draw(scale_of(law, piece)) for piece in pieces], -2)


def write_sounds(folder: Path, outcome: Outcome) -> None:
    """Write the mixtures of the examples, their estimates and draws, at the mixture's level.

    Of mixtures whose truth nobody knows, all are written, draws of the examples alone.
    """
    kinds, asked = outcome.data.kinds, outcome.spec.metrics.num_examples
    synthesise = outcome.model.model.stft.synthesise
    rows = ((m, e) for mixtures, made in outcome.fitted.groups
            for m, e in zip(mixtures, made.estimate, strict=True))
    for mixture, estimate in itertools.islice(rows, asked if outcome.data.has_truth else None):
        heard = synthesise(estimate.cpu(), len(mixture.signal))
        named = {f"{mixture.name}-{kind}": signal
                 for kind, signal in zip(kinds, heard, strict=True)}
        write_together(folder, {mixture.name: mixture.signal, **named}, mixture.name)
    for example in examples(outcome):
        name, length = example.mixture.name, len(example.mixture.signal)
        for number, draw in enumerate(example.draws, 1):
            named = {f"{name}-{kind}-draw{number}": signal
                     for kind, signal in zip(kinds, synthesise(draw, length), strict=True)}
            write_together(folder, named, f"{name}, draw {number}")


def write_together(folder: Path, signals: Mapping[str, Tensor], what: str) -> float:
    """Write wav files of signals (n,) as loud as they are; return the gain, 1 unless one clips.

    Where one would, all are made quieter by the same factor, and a line on stderr says so.
    """
    peak = max(signal.abs().max().item() for signal in signals.values())
    gain = min(1.0, 1 / peak) if peak > 0 else 1.0
    if gain < 1:
        print(f"{what}: a peak of {peak:.2f} would clip; all written {gain:.3f} times as loud",
              file=sys.stderr)
    for name, signal in signals.items():
        write_wav(folder / f"{name}.wav", (gain * signal).clamp(-1, 1))
    return gain
