"""What is to be told apart: the classes, strangers that belong to none, and the best there is."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pyromodels.errors import mismatch
from pyromodels.experiments.datasets import DATASETS
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


@DATASETS.register("hidden_markov_sources")
def hidden_markov_sources(
    classes: list[str] | None = None,
    num_train: int = 600,
    num_valid: int = 200,
    num_test: int = 400,
) -> Problem:
    """Sequences of five hidden Markov models, whose true likelihoods are known; made, not read.

    Args:
        classes: some of "source 1" ... "source 5", in this order; None: all.
        num_train, num_valid, num_test: sequences of every class.

    Raises:
        ValueError: fewer than two classes, or unknown ones.
    """
    _check(classes)
    data, sources = hidden_markov_problem(
        num_train=num_train, num_valid=num_valid, num_test=num_test
    )
    strangers, _ = hidden_markov_problem(num_train=1, num_valid=1, num_test=100, seed=1)
    if classes:
        kept = [data.classes.index(name) for name in classes if name in data.classes]
        data, sources = data.only(classes), sources[kept]
    return standardised(data, strangers.test, bayes_accuracy(sources, data.test))


@DATASETS.register("labelled_file")
def labelled_file(
    path: str | Path, classes: list[str] | None = None, split: str | None = None
) -> Problem:
    """A .npz file of labelled sequences: phones, digits, or of hidden Markov models.

    Args:
        path: the file.
        classes: some of its classes, in this order; None: five phones of a corpus of phones, else
            all. The other classes are strangers.
        split: of spoken digits, "official" by recording, the default, or "theo", the test speaker.

    Raises:
        FileNotFoundError: where there is nothing.
        ValueError: for a file of no known layout, unknown classes or a split it does not have.
    """
    _check(classes)
    whole = load_labelled(path, **({"split": split} if split else {}))
    kept = tuple(classes or default_classes(whole))
    outside = [name for name in whole.classes if name not in kept]
    strangers = whole.only(outside).test if outside else None
    return standardised(whole.only(kept), strangers, None)


@DATASETS.register("timit")
def timit(path: str | Path, classes: list[str] | None = None) -> Problem:
    """The phones of a TIMIT folder; by default the paper's five.

    Raises:
        FileNotFoundError: where the folder, or what belongs in it, is missing.
        ValueError: for fewer than two classes, or unknown ones.
    """
    _check(classes)
    return standardised(load_timit(path, classes=classes or TIMIT_PHONES), None, None)


def default_classes(data: LabelledData) -> tuple[str, ...]:
    """Return what stands for the paper's five phones in a corpus of phones, else all classes."""
    return PHONES if set(PHONES) < set(data.classes) else data.classes


def standardised(
    data: LabelledData, strangers: LabelledSequences | None, bayes: BayesFigures | None
) -> Problem:
    """Scale all by the training frames of the classes."""
    if strangers is not None:
        strangers = replace(data, test=strangers).standardised().test
    return Problem(data.standardised(), strangers, bayes)


def _check(classes: list[str] | None) -> None:
    if classes is not None and len(classes) < 2:
        raise ValueError(mismatch("classes", given=classes, expected="two or more"))
