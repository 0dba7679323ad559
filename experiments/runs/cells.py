"""The cells of a comparison, and the table they are printed in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyromodels.experiments.harness.plain_tables import parse_value
from pyromodels.experiments.harness.table_rows import over_seeds


@dataclass
class Cell:
    """One combination: what was varied, the figures of its seeds, and what went wrong."""

    label: dict[str, str]
    folder: Path
    runs: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""

    @property
    def name(self) -> str:
        """What was varied, in a few words."""
        return ", ".join(map(value_label, self.label.values())) or "the spec itself"

    def add(self, seed: int, folder: Path, metrics: Mapping[str, float | None]) -> None:
        """Add the run of a seed; a figure that is not finite is none."""
        kept = {k: v if v is not None and math.isfinite(v) else None for k, v in metrics.items()}
        self.runs.append({"seed": seed, "folder": str(folder), "metrics": kept})

    @contextmanager
    def trying(self, seed: int) -> Iterator[None]:
        """Keep the first thing that goes wrong within: it ends nothing else."""
        try:
            yield
        except Exception as error:  # whatever it is, it is this cell's
            kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
            said = f"{kind}{' '.join(str(error).split())} (seed {seed})"
            self.error = self.error or said

    def summary(self) -> dict[str, float]:
        """Return mean and, with `_se`, standard error of every finite figure over the seeds."""
        return over_seeds([run["metrics"] for run in self.runs])


def format_cells(
    cells: Sequence[Cell],
    keys: Sequence[str],
    columns: Mapping[str, str],  # metric -> its title
) -> str:
    """Return one line for each cell: what was varied, mean ± standard error; or the error."""
    titles = [key.removesuffix(".name").rpartition(".")[2] for key in keys]
    rows = [[*titles, *columns.values()]]
    for cell in cells:
        figures = cell.summary()
        label = [value_label(cell.label[key]) for key in keys]
        rows.append([*label, *(_figure(figures, name) for name in columns)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row, error in zip(rows, ["", *(cell.error for cell in cells)], strict=True):
        parts = [
            f"{text:<{width}}" if index < len(keys) else f"{text:>{width}}"
            for index, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join([*parts, f"failed: {error}" if error else ""]).rstrip())
    return "\n".join(lines)


def value_label(value: str) -> str:
    """Return a varied value as short as it can be told."""
    read = parse_value(value)
    if isinstance(read, dict) and "name" in read:
        rest = ", ".join(f"{k}={v}" for k, v in read.items() if k != "name")
        return f"{read['name']}({rest})" if rest else str(read["name"])
    return str(read)


def _figure(figures: Mapping[str, float], name: str) -> str:
    if name not in figures:
        return "-"
    error = figures.get(f"{name}_se")
    return f"{figures[name]:.2f}" + (f" ± {error:.2f}" if error is not None else "")
