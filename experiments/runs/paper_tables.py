"""Tables of the papers as declarations: rows that are runs of a shipped spec, beside the figures
that the paper prints.

A row says what it changes in the spec, and which of the run's methods it shows. Rows that change
the same share one run. Runs lie where `run` would put them, and are found there again: by another
row, another table, or the same table after it was interrupted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyromodels.errors import SpecError, mismatch
from pyromodels.experiments.harness.devices import add_device_argument, use_device
from pyromodels.experiments.harness.experiment import Outcome
from pyromodels.experiments.harness.records import (
    environment,
    open_run,
    run_folder,
    spec_of,
    to_toml,
)
from pyromodels.experiments.harness.table_rows import Columns
from pyromodels.experiments.runs.cells import Cell
from pyromodels.experiments.runs.runner import add_settings, run_spec
from pyromodels.experiments.runs.spec import Spec, make_spec, read_table
from pyromodels.inference.training.progress import progress

Figures = Mapping[str, float]
"""Key of a column -> number."""


class Row(NamedTuple):
    """A row of ours, and below it what the paper prints in its place."""

    label: str
    method: str | None = ""
    """Whose figures of the run it shows: "" what inference ends with, else a prefix in
    `metrics.json`, e.g. "nmf"; None: nothing of ours stands here."""
    quoted: Mapping[str, Figures] = {}
    """Where the paper measured -> its figures."""
    settings: tuple[str, ...] = ()
    """What the run changes in the spec; `--set` may change it again."""
    fixed: tuple[str, ...] = ()
    """What it changes after `--set`: what the row is about."""

    @property
    def run(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What rows of the same run have in common."""
        return self.settings, self.fixed

    def spec(self, base: Mapping[str, Any], args: argparse.Namespace, offset: int = 0) -> Spec:
        """Return the spec of its run.

        Args:
            base: the table that it changes.
            args: those of `add_source`.
            offset: to the seed.
        """
        settings = [*self.settings, *args.settings, *self.fixed]
        return make_spec(base, settings, args.seed + offset, args.device)


class PaperTable(NamedTuple):
    """A table of a paper."""

    title: str
    spec: str
    """The shipped spec that its rows change."""
    columns: Mapping[str, tuple[str, int]]
    """Key of a figure -> its heading and digits; a column without a figure of ours is left out."""
    rows: Sequence[Row]
    note: str = ""


class MixtureList(NamedTuple):
    """Where mixtures come from: a JSON list below the folder of `--data`, or the spec's own."""

    path: str
    """Of the list, below that folder."""
    kinds: tuple[str, ...]

    def settings(self, folder: Path | None, most: int | None = None) -> tuple[str, ...]:
        """Return what takes the first so many of them.

        Args:
            folder: that of `--data`; None: what the spec generates.
            most: None: all of the list, or as many as the spec says.
        """
        if folder is None:
            return () if most is None else (f"data.num_mixtures={most}",)
        found = ["data.name=mixture_list", f"data.path={json.dumps(str(folder / self.path))}",
                 f"data.kinds={json.dumps(self.kinds)}"]
        return (*found, *([] if most is None else [f"data.most={most}"]))


def of_run(
    settings: Sequence[str],
    rows: Iterable[Row],
    baselines: Collection[str],
    *,
    always: Sequence[str] = (),
    fixed: Sequence[str] = (),
) -> list[Row]:
    """Return rows of one run, which measures those of their methods that are baselines.

    Args:
        settings: of the run.
        rows: without settings.
        baselines: names that the experiment knows.
        always: those that are measured though no row shows them.
        fixed: settings of the run, which `--set` does not change.
    """
    rows = list(rows)
    asked = dict.fromkeys([*always, *(row.method for row in rows if row.method in baselines)])
    said = (*settings, f"metrics.baselines={json.dumps(list(asked))}")
    return [row._replace(settings=said, fixed=tuple(fixed)) for row in rows]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a table."""
    add_source(parser)
    add_runs(parser)
    parser.add_argument("--seeds", type=int, default=1, metavar="N",
                        help="runs of a row (default: 1)")


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Declare how many mixtures runs take, and whether those that are there serve."""
    add = parser.add_argument
    add("--most", type=int, metavar="N", help="take so many mixtures, to try it")
    add("--anew", action="store_true",
        help="make runs again that are there, e.g. once files of --data have changed")
    add("--resume", action="store_true", help="go on with trainings that ran out of time")


def add_source(parser: argparse.ArgumentParser) -> None:
    """Declare what tables and plots share: where data come from, and where results go."""
    add = parser.add_argument
    add("--data", type=Path, metavar="DIR",
        help="a folder with lists of mixtures and their recordings in DIR/audio (default: the "
             "data that the shipped spec generates, and small budgets)")
    add("--seed", type=int, default=0, help="of everything random; of several runs the first")
    add("--out", type=Path, metavar="DIR", help="folder of the result (default: runs/...)")
    add_settings(parser)
    add_device_argument(parser)


def add_mixture(parser: argparse.ArgumentParser) -> None:
    """Declare which mixture a figure shows."""
    parser.add_argument("--mixture", metavar="NAME", help="of the list of --data, another one")


def named_mixture(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the settings that take the mixture of `add_mixture`; () where none is named.

    Raises:
        SpecError: for a name without a list that it is in.
    """
    if args.mixture is None:
        return ()
    if args.data is None:
        expected = "--data DIR beside it, whose list has that name"
        raise SpecError(mismatch("--mixture", given=args.mixture, expected=expected))
    return (f"data.names={json.dumps([args.mixture])}",)


def print_table(name: str, table: PaperTable, args: argparse.Namespace) -> int:
    """Make the runs of a table, print it and keep its figures; 1 where a run failed, else 0.

    Raises:
        SpecError: for an option or a setting that no run can have; nothing is run then.
    """
    check_counts(args)
    use_device(args.device)
    cells = _cells(table, args)
    folder = open_run(args.out, name, spec_of(args))
    asked = [(cell, spec) for cell, specs in cells.values() for spec in specs]
    found = 0
    with progress(total=len(asked), desc=name, unit="run") as bar:
        for cell, spec in asked:
            bar.set_postfix_str(cell.label["row"])
            found += _run(cell, spec, args)
            bar.update()
    print(f"{table.title}\n{data_line(args)}")
    lines, metrics = _lines(table, cells, seeds=args.seeds)
    print("\n".join(lines))
    folder.write_metrics(metrics)
    print(f"\n{table.note}".rstrip())
    print(f"\nruns: {len(asked)}, {found} of them found\nresults: {folder.path}")
    return 1 if any(cell.error for cell, _ in asked) else 0


def check_counts(args: argparse.Namespace) -> None:
    """Refuse no mixtures, and no runs."""
    for option in ("most", "seeds"):
        value = getattr(args, option, None)
        if value is not None and value < 1:
            raise SpecError(mismatch(f"--{option}", given=value, expected="at least 1"))


def data_line(args: argparse.Namespace) -> str:
    """Return what is to be known of the data that figures are from."""
    if args.data is None:
        return ("Data: generated, with small budgets; these figures try the programs, and say "
                "nothing of sound. Give --data DIR.")
    return f"Data: {args.data}; the paper's figures are from other recordings."


Cells = dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[Cell, list[Spec]]]
"""`Row.run` -> its cell, and a spec for each seed."""


def specs_of(table: PaperTable, args: argparse.Namespace) -> Iterator[tuple[Row, Spec]]:
    """Yield the first row of every run, and its spec with the first seed."""
    base, seen = read_table(table.spec), set()
    for row in table.rows:
        if row.method is not None and row.run not in seen:
            seen.add(row.run)
            yield row, row.spec(base, args)


def outcomes(
    table: PaperTable, args: argparse.Namespace, changes: Sequence[str]
) -> Iterator[tuple[list[Row], Outcome]]:
    """Run the rows of a table for a figure; yield those of each run, and what came of it.

    Args:
        table: its rows.
        args: those of `add_source`.
        changes: settings of all runs, before those of `--set`.
    """
    told = argparse.Namespace(**vars(args) | {"settings": [*changes, *args.settings]})
    runs = list(specs_of(table, told))  # what is wrong is said before the first run
    for first, spec in progress(runs, desc=args.name, unit="run"):
        own = [row for row in table.rows if row.method is not None and row.run == first.run]
        yield own, run_spec(spec, draw=False)[1]


def figures_of(
    spec: Spec, args: argparse.Namespace
) -> tuple[Mapping[str, float | None], bool]:
    """Return the figures of one run, and whether it was there; `args` are those of `add_runs`."""
    known = None if args.anew else finished(spec)
    if known is not None:
        return known, True
    return run_spec(spec, resume=args.resume, draw=False)[1].metrics, False


def _cells(table: PaperTable, args: argparse.Namespace) -> Cells:
    base, cells = read_table(table.spec), {}
    for row, first in specs_of(table, args):
        others = [row.spec(base, args, offset) for offset in range(1, args.seeds)]
        cells[row.run] = (Cell({"row": row.label}, Path()), [first, *others])
    return cells


def _run(cell: Cell, spec: Spec, args: argparse.Namespace) -> bool:
    """Find or make a run; return whether it was there. What goes wrong is kept in the cell."""
    place, known = run_folder(spec.name, spec.to_table()), False
    with cell.trying(spec.seed):
        figures, known = figures_of(spec, args)
        cell.add(spec.seed, place, figures)
    return known


def finished(spec: Spec) -> dict[str, float | None] | None:
    """Return the figures of a finished run of this spec, by the versions installed; else None."""
    place = run_folder(spec.name, spec.to_table())
    paths = [place / name for name in ("metrics.json", "spec.toml", "environment.json")]
    if not all(path.is_file() for path in paths):
        return None
    metrics, said, made = (path.read_text(encoding="utf-8") for path in paths)
    same = json.loads(made)["versions"] == environment()["versions"]
    return json.loads(metrics) if same and said == to_toml(spec.to_table()) else None


def _lines(
    table: PaperTable, cells: Cells, *, seeds: int
) -> tuple[list[str], dict[str, float]]:
    """Return the lines of a table, and its figures by row."""
    ours = [
        {} if row.method is None else _of_method(cells[row.run][0].summary(), row.method)
        for row in table.rows
    ]
    shown = {key: said for key, said in table.columns.items()
             if any(key in figures for figures in ours)}
    labelled: list[tuple[str, Figures, str]] = []
    metrics: dict[str, float] = {}
    for row, figures in zip(table.rows, ours, strict=True):
        if row.method is not None:
            labelled.append((row.label, figures, cells[row.run][0].error))
        before = f"{row.label}, " if row.method is None else "  "
        labelled += [(f"{before}{where}", said, "") for where, said in row.quoted.items()]
        metrics |= {f"{row.label}/{key}": value for key, value in figures.items()
                    if key.removesuffix("_se") in shown}
    headings = [len(heading) for heading, _ in shown.values()]
    columns = Columns(shown, 2 + max(len(label) for label, *_ in labelled),
                      2 + max([16 if seeds > 1 else 7, *headings]))
    lines = [columns.header()]
    for label, figures, error in labelled:
        line = columns.row(label, figures)
        lines.append(f"{line}  failed: {error}" if error else line)
    return lines, metrics


def _of_method(figures: Figures, method: str) -> dict[str, float]:
    """Return the figures of a method under the names that those of the estimate have."""
    prefix = f"{method}/" if method else ""
    return {key.removeprefix(prefix): value for key, value in figures.items()
            if key.startswith(prefix)}
