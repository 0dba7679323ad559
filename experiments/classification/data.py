"""What is to be told apart: the classes, strangers that belong to none, and the best there is."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pyromodels.errors import mismatch
from pyromodels.experiments.datasets.labelled.hidden_markov import (
    BayesFigures,
    bayes_accuracy,
    hidden_markov_problem,
)
from pyromodels.experiments.datasets.labelled.phones import load_labelled
from pyromodels.experiments.datasets.labelled.problem import LabelledData
from pyromodels.experiments.datasets.labelled.timit import load_timit
from pyromodels.labelled import LabelledSequences

PHONES = ("N", "IY", "F", "EY", "P")
"""Of a file with all phones: the paper's five, where HH and OY, too rare in the prompts at hand,
give way to F and EY."""
TIMIT_PHONES = ("n", "iy", "hh", "oy", "p")
"""The paper's five."""


class Problem(NamedTuple):
    """A classification problem, standardised."""

    data: LabelledData
    strangers: LabelledSequences | None  # test sequences of other classes, if the data have some
    bayes: BayesFigures | None  # what the sources themselves reach, where they are known


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that choose the data."""
    parser.add_argument(
        "--data", type=Path, metavar="PATH",
        help="a TIMIT folder or a .npz of labelled sequences; without it, sequences of five "
             "hidden Markov models, whose true likelihoods are known",
    )
    parser.add_argument(
        "--classes", metavar="NAMES",
        help="comma-separated; default: five phones of a corpus of phones, else all",
    )
    parser.add_argument(
        "--split", choices=("official", "theo"),
        help="of spoken digits: by recording (default), or one speaker is the test",
    )


def load_problem(args: argparse.Namespace) -> Problem:
    """Return the problem asked for.

    Raises:
        FileNotFoundError: where there is nothing at `--data`.
        ValueError: for a file of no known layout, unknown classes or a split it does not have.
    """
    classes = args.classes and args.classes.split(",")
    if classes and len(classes) < 2:
        raise ValueError(mismatch("--classes", given=args.classes, expected="two or more"))
    if args.data is None:
        return generated(classes)
    if args.data.is_dir():
        if args.split:
            raise ValueError(f"--split {args.split}: of spoken digits; TIMIT has its own split")
        return standardised(load_timit(args.data, classes=classes or TIMIT_PHONES), None, None)
    options = {"split": args.split} if args.split else {}
    whole = load_labelled(args.data, **options)
    classes = classes or default_classes(whole)
    data = whole.only(classes)
    outside = [name for name in whole.classes if name not in classes]
    strangers = whole.only(outside).test if outside else None
    return standardised(data, strangers, None)


def default_classes(data: LabelledData) -> tuple[str, ...]:
    """Return what stands for the paper's five phones in a corpus of phones, else all classes."""
    return PHONES if set(PHONES) < set(data.classes) else data.classes


def generated(classes: list[str] | None = None) -> Problem:
    """Return sequences of hidden Markov sources, strangers of other sources, and Bayes' figures."""
    data, sources = hidden_markov_problem()
    strangers, _ = hidden_markov_problem(num_train=1, num_valid=1, num_test=100, seed=1)
    if classes:
        kept = [data.classes.index(name) for name in classes if name in data.classes]
        data, sources = data.only(classes), sources[kept]
    return standardised(data, strangers.test, bayes_accuracy(sources, data.test))


def standardised(
    data: LabelledData, strangers: LabelledSequences | None, bayes: BayesFigures | None
) -> Problem:
    """Scale all by the training frames of the classes."""
    if strangers is not None:
        strangers = replace(data, test=strangers).standardised().test
    return Problem(data.standardised(), strangers, bayes)
