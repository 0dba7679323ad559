"""The friendly options of the speech commands: each one changes a spec."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from pyromodels.errors import SpecError
from pyromodels.experiments.datasets import DATASETS
from pyromodels.experiments.datasets.speech.corpora import with_tests
from pyromodels.experiments.datasets.speech.recordings import SpeechData
from pyromodels.experiments.harness.devices import add_device_argument
from pyromodels.experiments.harness.plain_tables import Plain
from pyromodels.experiments.runs.runner import add_settings
from pyromodels.experiments.runs.spec import Spec, make_spec, read_table
from pyromodels.experiments.speech.table_models import VARIANTS, variant
from pyromodels.inference.training.options import Autocast

LAYOUTS = {"folder": "speech_folder", "wsj0": "wsj0", "voicebank": "voicebank"}
"""Word of `--layout` -> data set."""
MODEL = ("size", "window", "hop")
INFERENCE = ("num_frames", "epochs", "batch_size", "learning_rate", "patience", "autocast",
             "max_seconds")
"""Options that are keys of the spec's tables."""


def add_data(parser: argparse.ArgumentParser) -> None:
    """Declare the options that choose the data."""
    parser.add_argument(
        "--data", type=Path, metavar="DIR",
        help="recordings; without it, speech-like signals of a source-filter synthesiser",
    )
    parser.add_argument("--layout", choices=tuple(LAYOUTS), default="folder", help="of --data")
    parser.add_argument(
        "--utterances", type=Path, metavar="JSON",
        help="a list of the names of the test files that count; default: all of them",
    )


def add_training(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Declare the options of a model and its training; `several` trains more than one model."""
    add = parser.add_argument
    if not several:
        add("--model", choices=tuple(VARIANTS), help="default: srnn_ss")
        add("--seed", type=int)
    add("--size", help="small (default), paper, or another of the model's sizes")
    add("--sees", choices=("power", "log_power"),
        help="what the networks read (default: log_power); the published ones read power")
    add("--num-frames", type=int, metavar="T", help="of a segment; default: the model's own")
    add("--window", type=int, help="of the transform, samples (default: 1024)")
    add("--hop", type=int, help="samples (default: 256)")
    add("--epochs", type=int, help="default: the model's own")
    add("--batch-size", type=int, help="default: the model's own")
    add("--learning-rate", type=float, help="default: the model's own")
    add("--patience", type=int, help="epochs without a better validation bound (default: 20)")
    add("--autocast", choices=get_args(Autocast))
    add("--threads", type=int, default=1, help="of torch on a CPU")
    add("--max-seconds", type=float, help="of training")
    add_settings(parser)
    add_device_argument(parser)


def add_resume(parser: argparse.ArgumentParser) -> None:
    """Declare `--resume`, of commands that train."""
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")


def data_of(args: argparse.Namespace) -> Plain | None:
    """Return the data set that the options name, None where they name none."""
    return args.data and {"name": LAYOUTS[args.layout], "path": str(args.data)}


def chosen_data(args: argparse.Namespace) -> SpeechData:
    """Return the corpus of the options of `add_data`, with the test files that count."""
    data = DATASETS.build(data_of(args) or {"name": "synthetic_speech"})
    return with_tests(data, args.utterances)


def speech_spec(args: argparse.Namespace, shipped: str | None = None) -> Spec:
    """Return what the options ask for.

    Args:
        args: those of `add_data` and `add_training`.
        shipped: the spec they change; None: the defaults of resynthesis.
    """
    table = read_table(shipped) if shipped else {"experiment": "resynthesis", "name": "speech"}
    spec = make_spec(table, [], getattr(args, "seed", None), args.device)
    name = getattr(args, "model", None) or (None if shipped else "srnn_ss")
    if name is not None:
        spec = variant(name).of(spec)
    model = said(args, MODEL)
    if args.sees is not None:
        model["emission"] = {**spec.model.emission, "sees": args.sees}
    spec = replace(
        spec,
        data=data_of(args) or spec.data,
        model=replace(spec.model, **model),
        inference=replace(spec.inference, **said(args, INFERENCE)),
    )
    return make_spec(spec.to_table(), args.settings)


def said(args: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    """Return those of the options that are not left at None."""
    given = vars(args)
    return {name: given[name] for name in names if given.get(name) is not None}


def refuse_training(args: argparse.Namespace) -> None:
    """Raise where weights are given, and options say how to train other ones.

    Raises:
        SpecError: naming them.
    """
    if asked := said(args, ("model", *MODEL, "sees", *INFERENCE)):
        options = ", ".join("--" + name.replace("_", "-") for name in asked)
        raise SpecError(f"--weights: a trained model is what it was trained as; without {options}")
