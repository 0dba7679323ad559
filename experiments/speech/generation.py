"""`pyromodels table speech-3`: unconditional generation, after thesis Table 7.3.

Every trained model of the table's folder generates power spectrograms; fast Griffin-Lim finds the
phase. The distance to half of the training utterances is `frechet_log_mel`, whose features are of
our own: a number to compare models by, on another scale than the thesis' FDSD. The other half says
what the least to expect is.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from experiments.datasets.audio import SAMPLE_RATE, peak_normalise, write_wav
from experiments.datasets.speech import Utterance
from experiments.metrics.frechet import frechet_log_mel
from experiments.records import open_run, spec_of
from experiments.speech import corpus
from experiments.speech.corpus import load_corpus
from experiments.speech.store import SpeechModel
from experiments.speech.tables import trained_models
from experiments.speech.train import add_training_arguments, training_of
from pyromodels.batch import SequenceBatch
from pyromodels.errors import mismatch
from pyromodels.griffin_lim import griffin_lim
from pyromodels.models.dvae import DynamicalVAE
from pyromodels.stft import STFT

FDSD = {
    "VAE": 70.92, "DKF": 32.78, "RVAE": 45.75, "SRNN (SS)": 25.28, "SRNN (TF)": 25.53,
    "HiT-DVAE": 22.50, "LigHT-DVAE": 29.22,
}
"""Table 7.3, for the order of the models."""


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
    add("--seed", type=int, default=0, help="of the draws; models are the tables' first")
    add_training_arguments(parser, several=True)


def main(args: argparse.Namespace) -> int:
    """Generate, measure, print; 0 when done."""
    torch.set_num_threads(args.threads)
    run = open_run(args.out / "speech-3", "speech-3", spec_of(args))
    data, stft = load_corpus(args, args.out), training_of(args).stft
    models = list(trained_models(args, run, data))
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
    metrics = {
        "train, the other half": frechet_log_mel(reference, other_half),
        "test, exact phase": frechet_log_mel(reference, test),
        "test, Griffin-Lim": frechet_log_mel(reference, without_phase),
    }
    for label, model in models:
        torch.manual_seed(args.seed)
        signals = generate(model, count, num_frames, args.iterations)
        metrics[label] = distance(reference, signals)
        name = label.replace(" ", "-").replace("(", "").replace(")", "")
        sounds = [signal for signal in signals[:3] if signal.isfinite().all()]
        for number, signal in enumerate(sounds, 1):
            write_wav(run.path / f"{name}-{number}.wav", peak_normalise(signal))
    print(f"{f'{count} utterances each':24}{'frechet_log_mel':>18}{'thesis, FDSD':>16}")
    for label, value in metrics.items():
        quoted = f"{FDSD[label]:.2f}" if label in FDSD else "-"
        found = f"{value:.0f}" if math.isfinite(value) else "no sound"
        print(f"{label:24}{found:>18}{quoted:>16}")
    run.write_metrics(metrics)
    print(f"\nsounds and results: {run.path}")
    return 0


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
    model: SpeechModel, count: int, num_frames: int, iterations: int, batch_size: int = 32
) -> list[Tensor]:
    """Draw utterances from a model: its program run with nothing given, then Griffin-Lim."""
    program, signals = DynamicalVAE(model.prior), []
    parameter = next(model.prior.parameters())
    generator = torch.Generator().manual_seed(0)
    for rows in tqdm(torch.arange(count).split(batch_size), desc="generating", leave=False):
        empty = parameter.new_zeros(len(rows), num_frames, model.prior.source_dim)
        batch = SequenceBatch(empty, torch.ones_like(empty[..., 0], dtype=torch.bool))
        power = program(batch, generate=True)[:, 0, 0].cpu()
        signals += griffin_lim(
            power.sqrt(), model.stft, iterations=iterations, generator=generator
        ).unbind(0)
    return signals
