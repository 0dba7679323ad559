"""`pyromodels run resynthesis`: speech through a dynamical VAE and back.

Trains a model, or takes the weights it is given, and rebuilds test utterances from what the
encoder says of them, with the phase of the originals. Prints the figures of Table 7.1, writes wav
files to listen to and figures to look at. Without `--data` it runs on speech-like signals of a
synthesiser: figures on those say that everything works, nothing about speech.
"""

import argparse
import dataclasses
from pathlib import Path

import torch

from pyromodels.experiments.datasets.speech.audio import peak_normalise, write_wav
from pyromodels.experiments.harness.devices import use_device
from pyromodels.experiments.harness.records import RunFolder, open_run, spec_of
from pyromodels.experiments.speech import corpus, plots
from pyromodels.experiments.speech import table_rows as rows
from pyromodels.experiments.speech.corpus import Utterance, load_corpus, test_utterances
from pyromodels.experiments.speech.resynthesis import (
    judge,
    mean_figures,
    modes_of,
    prepared,
    resynthesise,
)
from pyromodels.experiments.speech.train import (
    add_training_arguments,
    refuse_training,
    train,
    training_of,
)
from pyromodels.experiments.speech.trained_models import SpeechModel, load_model
from pyromodels.experiments.speech.training import num_parameters

SYNTHETIC_EPOCHS = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    corpus.add_arguments(parser)
    add = parser.add_argument
    add("--weights", type=Path, metavar="PATH",
        help="the folder of `train dvae`, its .safetensors, or published weights (.pt)")
    add("--judged-frames", type=int, default=150, metavar="T",
        help="frames of a test utterance that count, from its first; 0: all of them")
    add("--num-examples", type=int, default=3, help="utterances to write and draw")
    add("--num-draws", type=int, default=3, help="draws of z for each of them")
    add("--out", type=Path, metavar="DIR", help="default: runs/resynthesis-<hash>")
    add_training_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Train or load, judge, write; 0 when done."""
    torch.set_num_threads(args.threads)
    use_device(args.device)
    if args.weights is not None:
        refuse_training(args)
    run = open_run(args.out, "resynthesis", spec_of(args))
    data = load_corpus(args, run.path.parent)
    model = model_of(args, run)
    utterances = test_utterances(data, args.utterances)
    num_frames = args.judged_frames or None
    print(f"\n{len(utterances)} test utterances of {data.name}, "
          f"{num_parameters(model.prior):,} parameters\n{rows.header()}")
    metrics: dict[str, float] = {}
    for mode in modes_of(model.prior):
        figures = mean_figures(list(judge(
            model.prior, utterances, model.stft, mode=mode, num_frames=num_frames, seed=args.seed
        )))
        print(rows.row(mode.replace("_", " "), figures), flush=True)
        metrics |= {f"{mode}/{key}": value for key, value in figures.items()}
    run.write_metrics(metrics)
    for utterance in utterances[: args.num_examples]:
        write_example(run.path, model, utterance, num_frames, args.num_draws)
    print(f"\nsounds and figures: {run.path}")
    return 0


def model_of(args: argparse.Namespace, run: RunFolder) -> SpeechModel:
    """Load the weights asked for, or train them in the run's folder."""
    if args.weights is not None:
        model = load_model(args.weights)
        return model._replace(prior=model.prior.to(args.device))
    spec = training_of(args)
    if args.data is None and args.epochs is None:
        spec = dataclasses.replace(spec, epochs=SYNTHETIC_EPOCHS)
    trained = train(spec, args, run, device=args.device)
    plots.loss_curves(trained.fit.history, run.path / "loss.png")
    return SpeechModel(trained.prior, spec.stft, {})


def write_example(
    folder: Path,
    model: SpeechModel,
    utterance: Utterance,
    num_frames: int | None,
    num_draws: int,
) -> None:
    """Write an utterance, its draws in every mode, and what they look like."""
    torch.manual_seed(0)
    signal = prepared(utterance, model.stft, num_frames)
    write_wav(folder / f"{utterance.name}.wav", signal)
    draws = {
        mode: resynthesise(model.prior, signal, model.stft, mode=mode, num_draws=num_draws)
        for mode in modes_of(model.prior)
    }
    for mode, made in draws.items():
        for number, rebuilt in enumerate(peak_normalise(made.signal.cpu()), 1):
            write_wav(folder / f"{utterance.name}-{mode}-{number}.wav", rebuilt)
    plots.resynthesis(signal, draws, model.stft, folder / f"{utterance.name}.png")
