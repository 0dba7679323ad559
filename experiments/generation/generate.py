"""Speech that a model makes of nothing, and how far it is from recordings."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pyromodels.audio.griffin_lim import griffin_lim
from pyromodels.audio.stft import STFT
from pyromodels.batch import SequenceBatch
from pyromodels.errors import mismatch
from pyromodels.experiments.datasets.speech.audio import SAMPLE_RATE, peak_normalise, write_wav
from pyromodels.experiments.datasets.speech.recordings import SpeechData, Utterance
from pyromodels.experiments.metrics.audio.frechet import frechet_log_mel
from pyromodels.experiments.speech.trained_models import SpeechModel
from pyromodels.inference.training.progress import progress
from pyromodels.models.dvae import DynamicalVAE

Told = Literal["drawn", "expected"]
"""What a model that feeds back is told of earlier frames: its draws, or their expectations."""


class Recorded(NamedTuple):
    """Recordings of one length, as many in each set: the distance is biased by their number."""

    reference: list[Tensor]  # half of the training utterances
    other_half: list[Tensor]
    test: list[Tensor]

    def distances(self, stft: STFT, iterations: int, seed: int) -> dict[str, float]:
        """Return how far recordings are from each other, and what Griffin-Lim adds."""
        generator = torch.Generator().manual_seed(seed)
        without_phase = [
            griffin_lim(stft.analyse(s).abs(), stft, iterations=iterations, generator=generator)
            for s in self.test
        ]
        return {
            "other_half": frechet_log_mel(self.reference, self.other_half),
            "exact_phase": frechet_log_mel(self.reference, self.test),
            "griffin_lim": frechet_log_mel(self.reference, without_phase),
        }


def recorded(data: SpeechData, stft: STFT, num_frames: int, count: int) -> Recorded:
    """Return up to so many utterances of each kind."""
    test = pieces(list(data.utterances("test")), stft, num_frames, count)
    train = pieces(list(data.utterances("train")), stft, num_frames, 2 * len(test))
    count = min(len(test), len(train) // 2)
    return Recorded(train[::2][:count], train[1::2][:count], test[:count])


def pieces(
    utterances: Sequence[Utterance],
    stft: STFT,
    num_frames: int,
    count: int,
) -> list[Tensor]:
    """Return the first frames of up to so many utterances, evenly over the corpus, peak one."""
    length = stft.num_samples(num_frames)
    long_enough = [u.signal for u in utterances if len(u.signal) >= length]
    if len(long_enough) < 2:
        given = f"{length / SAMPLE_RATE:.1f}"
        raise ValueError(mismatch("seconds", given=given, expected="two utterances so long"))
    count = min(count, len(long_enough))
    chosen = (i * len(long_enough) // count for i in range(count))
    return [peak_normalise(long_enough[i][:length]) for i in chosen]


def distance(recordings: Sequence[Tensor], generated: Sequence[Tensor]) -> float:
    """Return `frechet_log_mel`, infinite where a model generated silence or nothing finite."""
    if all(0 < signal.abs().max() < math.inf for signal in generated):
        return frechet_log_mel(recordings, generated)
    return math.inf


def generated(
    model: SpeechModel, count: int, num_frames: int, iterations: int, *, seed: int
) -> dict[Told, list[Tensor]]:
    """Return utterances of a model, by what it is told of earlier frames."""
    found: dict[Told, list[Tensor]] = {}
    for told in ("drawn", "expected") if model.prior.feeds_back else ("drawn",):
        torch.manual_seed(seed)
        found[told] = generate(model, count, num_frames, iterations, told=told)
    return found


@torch.no_grad()
def generate(
    model: SpeechModel,
    count: int,
    num_frames: int,
    iterations: int,
    *,
    told: Told,
    batch_size: int = 32,
) -> list[Tensor]:
    """Draw utterances from a model: its program run with nothing given, then Griffin-Lim.

    Args:
        model: what generates.
        count: of utterances.
        num_frames: of an utterance.
        iterations: of Griffin-Lim.
        told: what a model that feeds back is told of earlier frames.
        batch_size: utterances at a time.
    """
    program = DynamicalVAE(model.prior, use_prediction=1.0 if told == "expected" else 0.0)
    parameter, signals = next(model.prior.parameters()), []
    generator = torch.Generator().manual_seed(0)
    for rows in progress(torch.arange(count).split(batch_size), desc="generating", leave=False):
        empty = parameter.new_zeros(len(rows), num_frames, model.prior.source_dim)
        batch = SequenceBatch(empty, torch.ones_like(empty[..., 0], dtype=torch.bool))
        power = program(batch, generate=True)[:, 0, 0].cpu()
        signals += griffin_lim(
            power.sqrt(), model.stft, iterations=iterations, generator=generator
        ).unbind(0)
    return signals


def write_sounds(folder: Path, label: str, made: dict[Told, list[Tensor]], count: int = 3) -> None:
    """Write the first utterances, those that are finite, as `LABEL-told-1.wav` and so on."""
    for told, signals in made.items():
        for number, signal in enumerate(signals[:count], 1):
            if signal.isfinite().all():
                name = f"{label}-{told}-{number}.wav".translate(str.maketrans(" ", "-", "()"))
                write_wav(folder / name, peak_normalise(signal))
