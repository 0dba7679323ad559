"""`pyromodels table speech-3`: unconditional generation, after thesis Table 7.3.

Every trained model of the table's folder generates power spectrograms; fast Griffin-Lim finds the
phase. A model that feeds back is run twice: told of what it drew, which is its law where it was
taught by true frames, and told of what it expected, which is its law where it was taught by its own
predictions. The distance to half of the training utterances is `frechet_log_mel`, whose features
are of our own: a number to compare models by, on another scale than the thesis' FDSD. The other
half says what the least to expect is.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pyromodels.audio.griffin_lim import griffin_lim
from pyromodels.audio.stft import STFT
from pyromodels.batch import SequenceBatch
from pyromodels.errors import mismatch
from pyromodels.experiments.datasets.speech.audio import SAMPLE_RATE, peak_normalise, write_wav
from pyromodels.experiments.datasets.speech.recordings import Utterance
from pyromodels.experiments.harness.devices import use_device
from pyromodels.experiments.harness.records import open_run, spec_of
from pyromodels.experiments.harness.table_rows import heading, line, over_seeds
from pyromodels.experiments.metrics.audio.frechet import frechet_log_mel
from pyromodels.experiments.speech import corpus
from pyromodels.experiments.speech.corpus import load_corpus
from pyromodels.experiments.speech.tables import trained_models
from pyromodels.experiments.speech.train import add_training_arguments, training_of
from pyromodels.experiments.speech.trained_models import SpeechModel
from pyromodels.inference.training.progress import progress
from pyromodels.models.dvae import DynamicalVAE

FDSD = {
    "VAE": 70.92, "DKF": 32.78, "RVAE": 45.75, "SRNN (SS)": 25.28, "SRNN (TF)": 25.53,
    "HiT-DVAE": 22.50, "LigHT-DVAE": 29.22,
}
"""Table 7.3, for the order of the models."""
COLUMNS = {"drawn": ("told of draws", 0), "expected": ("of expectations", 0), "FDSD": ("FDSD", 2)}
"""Key of a figure -> its heading and digits; a model that feeds nothing back is told of nothing."""
WIDTHS = {"label_width": 32, "width": 18}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    corpus.add_arguments(parser)
    add = parser.add_argument
    add("--num-samples", type=int, default=128, metavar="N",
        help="utterances of every model and of the recordings, at most as many as there are")
    add("--seconds", type=float, default=1.6, help="of an utterance")
    add("--iterations", type=int, default=60, help="of Griffin-Lim")
    add("--out", type=Path, metavar="DIR", default=Path("runs/speech"),
        help="where `table speech-1` has put its models")
    add("--seeds", type=int, default=3, metavar="N", help="trainings of every model, where found")
    add("--seed", type=int, default=0, help="of the draws")
    add_training_arguments(parser, several=True)


def main(args: argparse.Namespace) -> int:
    """Generate, measure, print; 0 when done."""
    torch.set_num_threads(args.threads)
    use_device(args.device)
    run = open_run(args.out / "speech-3", "speech-3", spec_of(args))
    data, stft = load_corpus(args, args.out), training_of(args).stft
    models = trained_models(args, data)
    if not models:
        raise FileNotFoundError(f"{args.out} has no model trained with these options on "
                                f"{data.name}; run `pyromodels table speech-1` with them first")
    num_frames = stft.num_frames(round(args.seconds * SAMPLE_RATE))
    test = pieces(list(data.utterances("test")), stft, num_frames, args.num_samples)
    train = pieces(list(data.utterances("train")), stft, num_frames, 2 * len(test))
    count = min(len(test), len(train) // 2)  # of all sets: the distance is biased by their size
    reference, other_half, test = train[::2][:count], train[1::2][:count], test[:count]
    generator = torch.Generator().manual_seed(args.seed)
    without_phase = [
        griffin_lim(stft.analyse(s).abs(), stft, iterations=args.iterations, generator=generator)
        for s in test
    ]
    rows = {
        "train, the other half": {"drawn": frechet_log_mel(reference, other_half)},
        "test, exact phase": {"drawn": frechet_log_mel(reference, test)},
        "test, Griffin-Lim": {"drawn": frechet_log_mel(reference, without_phase)},
    }
    for label, trained in models.items():
        found = [
            distances(model, reference, num_frames, args, None if number else run.path / label)
            for number, model in enumerate(trained)
        ]
        silent = sum(not math.isfinite(value) for figures in found for value in figures.values())
        words = f"{label}, seeds: {len(trained)}" + (f", {silent} without sound" if silent else "")
        rows[words] = over_seeds(found) | ({"FDSD": FDSD[label]} if label in FDSD else {})
    print(f"{count} utterances each; frechet_log_mel, means ± standard errors over seeds; FDSD of "
          f"the thesis\n{heading(COLUMNS, **WIDTHS)}")
    for label, figures in rows.items():
        print(line(label, figures, COLUMNS, **WIDTHS))
    run.write_metrics({f"{label.partition(', seeds')[0]}/{key}": value
                       for label, figures in rows.items() for key, value in figures.items()})
    print(f"\nsounds and results: {run.path}")
    return 0


def distances(
    model: SpeechModel,
    reference: Sequence[Tensor],
    num_frames: int,
    args: argparse.Namespace,
    sounds: Path | None,
) -> dict[str, float]:
    """Return the distance of what a model generates, by what it is told of earlier frames.

    The first few utterances are written to files whose names begin with `sounds`.
    """
    found = {}
    for told in ("drawn", "expected") if model.prior.feeds_back else ("drawn",):
        torch.manual_seed(args.seed)
        signals = generate(model, len(reference), num_frames, args.iterations, told=told)
        found[told] = distance(reference, signals)
        for number, signal in enumerate(signals[:3] if sounds else [], 1):
            if signal.isfinite().all():
                name = f"{sounds.name}-{told}-{number}.wav".translate(str.maketrans(" ", "-", "()"))
                write_wav(sounds.with_name(name), peak_normalise(signal))
    return found


def distance(recorded: Sequence[Tensor], generated: Sequence[Tensor]) -> float:
    """Return `frechet_log_mel`, infinite where a model generated silence or nothing finite."""
    if all(0 < signal.abs().max() < math.inf for signal in generated):
        return frechet_log_mel(recorded, generated)
    return math.inf


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


@torch.no_grad()
def generate(
    model: SpeechModel,
    count: int,
    num_frames: int,
    iterations: int,
    *,
    told: Literal["drawn", "expected"],
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
