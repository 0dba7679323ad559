"""The friendly options of the classification commands: each one changes a spec."""

import argparse
from dataclasses import replace
from pathlib import Path

from pyromodels.errors import mismatch
from pyromodels.experiments.classification.table_models import Variant
from pyromodels.experiments.harness.devices import add_device_argument
from pyromodels.experiments.harness.plain_tables import Plain
from pyromodels.experiments.runs.runner import add_settings
from pyromodels.experiments.runs.spec import Spec, make_spec

INFERENCE = ("updates", "batch_size", "learning_rate", "input_noise")
"""Options that are keys of the spec's table."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of data and training."""
    add = parser.add_argument
    add("--data", type=Path, metavar="PATH",
        help="a TIMIT folder or a .npz of labelled sequences; without it, sequences of five "
             "hidden Markov models, whose true likelihoods are known")
    add("--classes", metavar="NAMES",
        help="comma-separated; default: five phones of a corpus of phones, else all")
    add("--split", choices=("official", "theo"),
        help="of spoken digits: by recording (default), or one speaker is the test")
    add("--updates", type=int, help="of every class; default: the model's own")
    add("--batch-size", type=int, help="sequences of a class; default: the model's own")
    add("--learning-rate", type=float, help="default: the model's own")
    add("--input-noise", type=float, help="deviation, of standardised data; default: the model's")
    add("--offset-std", type=float, default=0.0, metavar="NATS",
        help="how far calibration may move the prior of a class; default: not at all")
    add("--threads", type=int, default=1, help="of torch on a CPU")
    add("--resume", action="store_true", help="continue an interrupted training")
    add_settings(parser)
    add_device_argument(parser)


def data_of(args: argparse.Namespace) -> Plain:
    """Return the data set that the options name.

    Raises:
        ValueError: fewer than two classes, or a split of data that have their own.
    """
    classes = args.classes.split(",") if args.classes else None
    if classes and len(classes) < 2:
        raise ValueError(mismatch("--classes", given=args.classes, expected="two or more"))
    said: Plain = {"classes": classes} if classes else {}
    if args.split and (args.data is None or args.data.is_dir()):
        raise ValueError(f"--split {args.split}: of spoken digits; these data have their own split")
    if args.data is None:
        return {"name": "hidden_markov_sources", **said}
    if args.data.is_dir():
        return {"name": "timit", "path": str(args.data), **said}
    split = {"split": args.split} if args.split else {}
    return {"name": "labelled_file", "path": str(args.data), **said, **split}


def classification_spec(args: argparse.Namespace, name: str, chosen: Variant, seed: int) -> Spec:
    """Return what the options ask for, for one of the models of the tables."""
    table = {"experiment": "classification", "name": name, "data": data_of(args)}
    spec = chosen.of(make_spec(table, [], seed, args.device))
    given = vars(args)
    said = {name: given[name] for name in INFERENCE if given[name] is not None}
    spec = replace(
        spec,
        inference=replace(spec.inference, **said),
        metrics=replace(spec.metrics, offset_std=args.offset_std, hidden_markov_states=0),
    )
    return make_spec(spec.to_table(), args.settings)
