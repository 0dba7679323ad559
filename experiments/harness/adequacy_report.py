"""`pyromodels report EXAMPLE`: the guide-adequacy report on a guide whose adequacy is known."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.experiments.demonstrations.report_examples import EXAMPLES, Example
from pyromodels.experiments.harness.records import open_run, spec_of
from pyromodels.inference.adequacy.page import plain
from pyromodels.inference.adequacy.report import Report, guide_report
from pyromodels.inference.engines.nuts import sample_nuts
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.inference.training.seeding import seed_all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_options(parser)
    parser.add_argument(
        "--reference",
        choices=("enumeration", "nuts"),
        default="enumeration",
        help="what the guide is compared with, on a few sequences (nuts: one, in half a minute)",
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what every report takes."""
    parser.add_argument("--out", type=Path, help="folder of the page; default: runs/report-...")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-simulations", type=int, default=200, help="0: no calibration")
    parser.add_argument("--num-draws", type=int, default=1000)


def main(args: argparse.Namespace) -> None:
    """Make the report, print the verdicts, write the page."""
    check_options(args)
    seed_all(args.seed)
    example = EXAMPLES[args.name]()
    write_report(
        args,
        f"report-{args.name}",
        {"example": args.name, **spec_of(args)},
        lambda: guide_report(
            example.fit,
            example.data,
            reference=nuts_reference(example) if args.reference == "nuts" else example.reference,
            num_simulations=args.num_simulations,
            num_draws=args.num_draws,
            seed=args.seed,
            title=example.title,
        ),
    )


def nuts_reference(example: Example) -> tuple[MixtureBatch, dict[str, Tensor]]:
    """Return draws of NUTS, owners summed out, for the first sequence of an example."""
    one = example.data.take(torch.arange(1))
    quiet = not sys.stderr.isatty()
    chains = sample_nuts(
        example.model, one, num_samples=500, num_warmup=300, jit=True, progress=not quiet
    )
    return one, Posterior(example.model, chains, one).sample()


def check_options(args: argparse.Namespace) -> None:
    """Raise `ValueError` for numbers that no report can be made of."""
    if args.num_draws < 100:
        raise ValueError(f"--num-draws: given {args.num_draws}; expected 100 or more")
    if args.num_simulations != 0 and args.num_simulations < 10:
        given = args.num_simulations
        raise ValueError(f"--num-simulations: given {given}; expected 0, or 10 or more")


def write_report(
    args: argparse.Namespace, name: str, spec: dict[str, Any], make: Callable[[], Report]
) -> None:
    """Make a report, print its verdicts, write the page into a run folder."""
    start = time.perf_counter()
    report = make()
    print(f"{report.title}\n\n{plain(report.overall, report.verdicts)}\n")
    for note in report.notes:
        print(f"not done: {note}")
    page = report.write(open_run(args.out, name, spec).path)
    print(f"{time.perf_counter() - start:.1f} s", file=sys.stderr)
    print(f"page: {page}")
