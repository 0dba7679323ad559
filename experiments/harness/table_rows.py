"""Figures over several trainings that differ in their seed, and the lines they are printed in."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Columns(NamedTuple):
    """The columns of a table, and how wide they are."""

    headings: Mapping[str, tuple[str, int]]
    """Key of a figure -> its heading and digits."""
    label_width: int
    width: int

    def header(self) -> str:
        """Return the line of headings."""
        names = "".join(f"{name:>{self.width}}" for name, _ in self.headings.values())
        return f"{'':{self.label_width}}{names}"

    def row(self, label: str, figures: Mapping[str, float]) -> str:
        """Return a line: figures, and under their name with `_se` their standard errors, if any."""
        cells = []
        for key, (_, digits) in self.headings.items():
            value = f"{figures[key]:.{digits}f}" if key in figures else "-"
            if f"{key}_se" in figures:
                value += f" ± {figures[f'{key}_se']:.{digits}f}"
            cells.append(f"{value:>{self.width}}")
        return f"{label:{self.label_width}}" + "".join(cells)


def over_seeds(figures: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """Return the mean of every figure and, under its name with `_se`, its standard error.

    What is missing or not finite is left out; one number has no error.

    Example:
        >>> over_seeds([{"accuracy": 96.0}, {"accuracy": 98.0}])
        {'accuracy': 97.0, 'accuracy_se': 1.0}
    """
    found: dict[str, float] = {}
    for name in {name: None for run in figures for name in run}:
        values = [v for run in figures if (v := run.get(name)) is not None and math.isfinite(v)]
        if values:
            found[name] = statistics.fmean(values)
        if len(values) > 1:
            found[f"{name}_se"] = statistics.stdev(values) / math.sqrt(len(values))
    return found
