"""`pyromodels compare SPEC --vary KEY=A,B ...`: every combination over seeds, in one table.

The table is printed, drawn (`comparison.png`) and kept (`comparison.json`).
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pyromodels.errors import SpecError, mismatch, shown
from pyromodels.experiments.harness.devices import use_device
from pyromodels.experiments.harness.experiment import experiment
from pyromodels.experiments.harness.figures import save
from pyromodels.experiments.harness.plain_tables import (
    Plain,
    parse_setting,
    parse_value,
    split_values,
)
from pyromodels.experiments.harness.records import replacing
from pyromodels.experiments.runs.cells import Cell, format_cells
from pyromodels.experiments.runs.compare_figure import plot_cells
from pyromodels.experiments.runs.runner import add_spec, run_spec
from pyromodels.experiments.runs.spec import Spec, make_spec, read_table
from pyromodels.inference.training.progress import progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_spec(parser)
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="KEY=A,B,...",
        help="e.g. model.prior.dynamics=srnn,linear or inference=vem,svi; several multiply",
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of a cell (default: 3)")
    parser.add_argument("--out", type=Path, help="folder for the results (default: runs/...)")


def main(args: argparse.Namespace) -> int:
    """Run every cell; 0 if every cell has a figure, 1 if not."""
    if args.seeds < 1:
        raise SpecError(mismatch("--seeds", given=args.seeds, expected="at least 1"))
    table = read_table(args.spec)
    axes = dict(map(parse_axis, args.vary))
    base = make_spec(table, args.settings, device=args.device)  # wrong before any cell is wrong
    use_device(base.device)
    task = experiment(base.experiment)
    folder = args.out or _folder(base.name, table, args.settings, args.vary)
    combinations = list(itertools.product(*axes.values()))
    cells = []
    with progress(total=len(combinations) * args.seeds, desc="compare", unit="run") as bar:
        for number, combination in enumerate(combinations, 1):
            inner = f"{number:02}-{_slug('-'.join(combination))}".rstrip("-")
            cell = Cell(dict(zip(axes, combination, strict=True)), folder / inner)
            cells.append(cell)
            for offset in range(args.seeds):
                bar.set_postfix_str(" ".join(combination))
                _run(cell, table, args.settings, base.seed + offset, base.device)
                bar.update()
            _write(folder / "comparison.json", base, axes, cells)
    print(format_cells(cells, list(axes), task.columns))
    save(plot_cells(cells, task.columns, title=f"{base.name}, {args.seeds} seeds"),
         folder / "comparison.png")
    print(f"\n{task.footnote}\n\nresults: {folder}")
    return 1 if any(cell.error for cell in cells) else 0


def parse_axis(text: str) -> tuple[str, list[str]]:
    """Return key and values of `"inference=vem,svi"`.

    Raises:
        SpecError: where there is no key or no value.
    """
    keys, _ = parse_setting(text)
    values = split_values(text.partition("=")[2])
    if not values:
        given, expected = shown(text), "KEY=A,B,... with one value at least"
        raise SpecError(mismatch("--vary", given=given, expected=expected))
    return ".".join(keys), values


def _run(
    cell: Cell, table: Plain, settings: Iterable[str], seed: int, device: str
) -> None:
    """Make one run of a cell; what goes wrong is kept in the cell and ends nothing else."""
    changes = [f"{key}={value}" for key, value in cell.label.items()]
    out = cell.folder / f"seed-{seed}"
    with cell.trying(seed):
        spec = make_spec(table, [*settings, *changes], seed, device)
        cell.add(seed, out, run_spec(spec, out)[1].metrics)


def _write(path: Path, base: Spec, axes: Mapping[str, list[str]], cells: Sequence[Cell]) -> None:
    content = {
        "spec": base.to_table(),
        "vary": {key: [parse_value(value) for value in values] for key, values in axes.items()},
        "cells": [
            {
                "vary": {key: parse_value(value) for key, value in cell.label.items()},
                "summary": cell.summary(),
                "runs": cell.runs,
                "error": cell.error or None,
            }
            for cell in cells
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _folder(name: str, *content: object) -> Path:
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    return Path("runs") / f"compare-{name}-{digest}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("._")[:80]
