"""`pyromodels train dvae`: train a dynamical VAE on speech.

Progress is a line an epoch; checkpoints, `metrics.jsonl` and the weights lie in the run's folder.
With several processes, `torchrun --nproc-per-node N -m pyromodels train dvae ...`, every
minibatch is cut over them.
"""

import argparse
import dataclasses
import math
from pathlib import Path
from typing import get_args

import torch

from pyromodels.errors import SpecError
from pyromodels.experiments.harness.devices import add_device_argument, use_device
from pyromodels.experiments.harness.records import RunFolder, open_run
from pyromodels.experiments.speech import corpus
from pyromodels.experiments.speech.table_models import VARIANTS
from pyromodels.experiments.speech.training import (
    SpeechTraining,
    TrainedSpeech,
    num_parameters,
    train_speech,
)
from pyromodels.inference.training import distributed
from pyromodels.inference.training.options import Autocast

DEFAULT = SpeechTraining()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    corpus.add_arguments(parser)
    add_training_arguments(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/train-dvae-<hash>")


def add_training_arguments(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Options of `SpeechTraining`, and of the run of it; `several` trains more than one model."""
    add = parser.add_argument
    if not several:
        add("--model", choices=tuple(VARIANTS), default=DEFAULT.model)
        add("--seed", type=int, default=DEFAULT.seed)
    add("--size", default=DEFAULT.size, help="small, paper, or another of the model's sizes")
    add("--sees", choices=("power", "log_power"), default=DEFAULT.sees,
        help="what the networks read; the published ones read power")
    add("--num-frames", type=int, metavar="T", help="of a segment; default: the model's own")
    add("--window", type=int, default=DEFAULT.window, help="of the transform, samples")
    add("--hop", type=int, default=DEFAULT.hop, help="samples")
    add("--epochs", type=int, help="default: the model's own")
    add("--batch-size", type=int, help="default: the model's own")
    add("--learning-rate", type=float, help="default: the model's own")
    add("--patience", type=int, default=DEFAULT.patience,
        help="epochs without a better validation bound")
    add("--autocast", choices=get_args(Autocast), default=DEFAULT.autocast)
    add_device_argument(parser)
    add("--threads", type=int, default=1, help="of torch on a CPU")
    add("--resume", action="store_true", help="continue from the last checkpoint in DIR")
    add("--max-seconds", type=float, default=math.inf, help="of training")


def training_of(args: argparse.Namespace) -> SpeechTraining:
    """Return what the options ask for."""
    given = {f.name: getattr(args, f.name, None) for f in dataclasses.fields(SpeechTraining)}
    return SpeechTraining(**{name: value for name, value in given.items() if value is not None})


def refuse_training(args: argparse.Namespace) -> None:
    """Raise where weights are given, and options say how to train other ones.

    Raises:
        SpecError: naming them.
    """
    said = vars(training_of(args))
    asked = [name for name in said if name != "seed" and said[name] != getattr(DEFAULT, name)]
    if asked:
        options = ", ".join("--" + name.replace("_", "-") for name in asked)
        raise SpecError(f"--weights: a trained model is what it was trained as; without {options}")


def main(args: argparse.Namespace) -> int:
    """Train and save; 0 when done."""
    torch.set_num_threads(args.threads)
    with distributed.start(use_device(args.device)) as device:
        spec = training_of(args)
        asked = {
            **dataclasses.asdict(spec), "prior": spec.prior(), "layout": args.layout,
            "data": str(args.data or "synthetic"), "options": dataclasses.asdict(spec.options()),
        }
        run = distributed.is_first() and open_run(args.out, "train-dvae", asked)
        run = distributed.from_first(run)
        trained = train(spec, args, run, device=device)
        if distributed.is_first():
            run.write_metrics({
                "loss_nats_per_frame": trained.fit.best_loss,
                "best_epoch": trained.fit.best_epoch,
                "parameters": num_parameters(trained.prior),
            })
            print(f"weights: {run.path / 'weights.safetensors'}")
    return 0


def train(
    spec: SpeechTraining,
    args: argparse.Namespace,
    run: RunFolder,
    *,
    device: str | torch.device,
) -> TrainedSpeech:
    """Train on the data asked for, with a line an epoch."""
    data = corpus.load_corpus(args, run.path.parent)
    if distributed.is_first():
        print(f"{spec.model} ({spec.size}) on {data.name}; record in {run.path}", flush=True)
    trained = train_speech(
        spec, data, run.path, device=device, resume=args.resume, max_seconds=args.max_seconds,
        on_epoch=print_epoch,
    )
    if distributed.is_first():
        print(f"{num_parameters(trained.prior):,} parameters; stopped by {trained.fit.stopped}; "
              f"best epoch {trained.fit.best_epoch}")
    return trained


def print_epoch(record: dict[str, float]) -> None:
    """Print one line."""
    print(f"epoch {record['epoch']:3d}  nats a frame: train {record['train_loss']:9.2f}  "
          f"validation {record['valid_loss']:9.2f}  own history "
          f"{100 * record['use_prediction']:3.0f} %  {record['seconds']:6.1f} s", flush=True)
