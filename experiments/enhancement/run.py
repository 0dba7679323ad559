"""`pyromodels run enhancement`: the shipped spec of that name, or noisy speech of your own.

With `--noisy` files of any rate and number of channels are made clean, each into a folder of its
own. A prior of clean speech, and a network that tells speech from noise, ship with the package; the
noise is each file's own.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pyromodels.experiments.datasets.mixtures.files import sound_files
from pyromodels.experiments.runs.runner import add_changes, report_run, run_each
from pyromodels.experiments.runs.spec import load_spec, read_table

SPEC = "enhancement"
SHIPPED = "rvae_speech"
"""Weights of a prior of clean speech, which ship with the package."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--noisy", type=Path, metavar="PATH",
                        help="noisy speech, or a folder of it (wav, flac, ogg), to be made clean")
    add_changes(parser)


def main(args: argparse.Namespace) -> int:
    """Run the spec; with `--noisy` once for every file, each into a folder of its own."""
    if args.noisy is None:
        spec = load_spec(SPEC, settings=args.settings, seed=args.seed, device=args.device)
        return report_run(spec, args)
    return run_each(args, sound_files(args.noisy), table_of)


def table_of(path: Path) -> dict[str, Any]:
    """Return the table of the spec of one file."""
    table = read_table(SPEC)
    kinds = ["speech", "noise"]
    table["data"] = {"name": "mixture_files", "path": str(path), "kinds": kinds}
    table["model"] = {"prior": {"weights": SHIPPED}, "noise": "nmf", "gain": True}
    table["inference"] = {"starts": ["network"], "average": True}
    table["metrics"] = {"baselines": []}
    return table
