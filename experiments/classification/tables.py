"""`pyromodels table tvnf-1` ... `tvnf-4`: Tables I to IV of the paper on time-varying flows.

Tables I to III compare configurations by their accuracy on the validation data, Table IV the chosen
ones on the test data, ours and hidden Markov models beside them. The paper's figures are from
TIMIT; those of `OTHERS` from the data of that name, measured by a restatement of the published code
in short budgets.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from pyromodels.errors import mismatch
from pyromodels.experiments.classification import options
from pyromodels.experiments.classification import table_rows as rows
from pyromodels.experiments.classification.experiment import training_of
from pyromodels.experiments.classification.scores import (
    Scores,
    hidden_markov_scores,
    judge,
    scores_of,
)
from pyromodels.experiments.classification.table_models import (
    CONFIGURATIONS,
    VARIANTS,
    Variant,
    variant,
)
from pyromodels.experiments.datasets.labelled.problems import PHONES, Problem
from pyromodels.experiments.harness.devices import use_device
from pyromodels.experiments.harness.experiment import experiment
from pyromodels.experiments.harness.records import open_run, runs_folder, spec_of
from pyromodels.experiments.harness.table_rows import over_seeds

HIDDEN_MARKOV = {"hidden Markov, 1 state": 1, "hidden Markov, 3 states": 3}
"""States of the baselines; one is a Gaussian a class."""


class Other(NamedTuple):
    """Figures of others on the same data."""

    accuracy: float
    nats_per_frame: float


DIGITS = tuple("0123456789")
OTHERS: dict[tuple[str, tuple[str, ...]], dict[str, Other]] = {
    ("hmm5", tuple("12345")): {
        "hidden Markov, 1 state": Other(92.36, -4.3208),
        "hidden Markov, 3 states": Other(99.46, -3.6066),
        "tvgmm1": Other(90.64, -4.3350),
        "tvgmm3": Other(97.09, -4.0673),
        "tvnf": Other(99.30, -3.6484),
    },
    ("digits-official", DIGITS): {
        "hidden Markov, 3 states": Other(96.0, -51.97),
        "tvnf": Other(98.7, -36.31),
    },
    ("digits-theo", DIGITS): {
        "hidden Markov, 3 states": Other(95.8, -55.07),
        "tvnf": Other(93.0, -45.12),
    },
    ("phones", PHONES): {
        "hidden Markov, 1 state": Other(94.1, -52.84),
        "hidden Markov, 3 states": Other(94.8, -48.05),
        "tvgmm1": Other(95.1, -39.61),
        "tvgmm3": Other(94.4, -38.57),
        "tvnf": Other(90.9, -26.24),
    },
}
"""By data and classes, then by model; nats a frame standardised, but those of hmm5 as recorded."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--models", metavar="NAMES",
        help=f"of tvnf-4, comma-separated, of {', '.join(VARIANTS)}; default: all")
    add("--seeds", type=int, default=3, metavar="N", help="trainings of every model")
    add("--out", type=Path, metavar="DIR", help="default: runs/phones")
    options.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Train what is missing, judge, print; 0 when done."""
    torch.set_num_threads(args.threads)
    use_device(args.device)
    models = chosen_models(args)
    if args.seeds < 1:
        raise ValueError(mismatch("--seeds", given=args.seeds, expected="1 or more"))
    specs = {name: [options.classification_spec(args, name, model, seed)
                    for seed in range(args.seeds)] for name, model in models.items()}
    first = next(iter(specs.values()))[0]
    given = experiment(first.experiment).data(first)
    place = given.data.name.replace(" ", "-")
    folder = args.out or runs_folder() / "phones"
    run = open_run(folder / f"{args.name}-{place}", args.name, spec_of(args))
    others = OTHERS.get((given.data.name, given.data.classes), {})
    print(rows.describe(given))
    print(rows.header(given))
    metrics: dict[str, float] = {}
    if args.name == "tvnf-4":
        for label, num_states in HIDDEN_MARKOV.items():
            scores = [hidden_markov_scores(given, num_states)]
            metrics |= show(label, label, scores, given, args, others)
    for name, model in models.items():
        trained = (
            training_of(spec, given).find_or_train(
                given.data, device=args.device, resume=args.resume
            )
            for spec in specs[name]
        )
        seeds = [scores_of(made.prior) for made in trained]
        metrics |= show(name, model.label, seeds, given, args, others)
        if model.quoted is not None:
            print(f"  the paper, on TIMIT: {model.quoted:.2f} %")
    run.write_metrics(metrics)
    print(f"\nresults: {run.path}")
    return 0


def chosen_models(args: argparse.Namespace) -> dict[str, Variant]:
    """Return the models of a table by name.

    Raises:
        SpecError: for an unknown model.
        ValueError: for models of a table that has its own.
    """
    if args.name == "tvnf-4":
        names = VARIANTS if args.models is None else args.models.split(",")
        return {name: variant(name) for name in names}
    if args.models:
        raise ValueError("--models: Tables I to III have their own; it belongs to tvnf-4")
    return {
        f"{args.name}-row{number}": model
        for number, model in enumerate(CONFIGURATIONS[args.name], start=1)
    }


def show(
    name: str,
    label: str,
    seeds: Sequence[Scores],
    given: Problem,
    args: argparse.Namespace,
    others: Mapping[str, Other],
) -> dict[str, float]:
    """Print the line of a model, and what others measured; return its metrics."""
    figures = over_seeds(
        [judge(scores, given, offset_std=args.offset_std).figures for scores in seeds]
    )
    print(rows.row(label, figures), flush=True)
    if name in others:
        print(f"  others, on the same data: {others[name].accuracy:.2f} %, "
              f"{others[name].nats_per_frame:.3f} nats a frame"
              f"{' as recorded' if given.data.name == 'hmm5' else ''}")
    return {f"{name}/{key}": value for key, value in figures.items()}
