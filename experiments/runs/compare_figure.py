"""The figure of a comparison: a metric of every cell, with its standard error."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyromodels.experiments.harness.figures import DIM, INK, PALETTE, new_figure, tidy
from pyromodels.experiments.runs.cells import Cell

GROUP_GAP = 0.6
"""Between the groups of the first key, in lines."""


def plot_cells(
    cells: Sequence[Cell],
    columns: Mapping[str, str],  # metric -> its title
    *,
    title: str,
) -> Figure:
    """Draw a panel for each metric, a line for each cell: mean, standard error, single runs.

    Cells that share the value of the first key share a colour and stand together. Seconds are left
    out, and metrics that no cell has. A cell without figures says that it failed.
    """
    drawn = {
        name: heading
        for name, heading in columns.items()
        if name != "seconds" and any(name in cell.summary() for cell in cells)
    }
    figure = new_figure(title)
    heights, colors = _places(cells)
    first = None
    for position, (name, heading) in enumerate((drawn or {"": "no cell has a figure"}).items()):
        axes = figure.add_subplot(1, max(1, len(drawn)), position + 1, sharey=first)
        first = first or axes
        for cell, height, color in zip(cells, heights, colors, strict=True):
            _draw_cell(axes, cell, name, height, color)
        axes.set_xlabel(heading)
        axes.margins(x=0.15)
        tidy(axes, grid=True)
        axes.tick_params(axis="y", length=0, labelleft=position == 0)
    first.set_yticks(heights, [cell.name for cell in cells])
    first.set_ylim(max(heights) + 0.7, min(heights) - 0.7)
    caption = "dot and bar: mean ± standard error; ring: one seed"
    figure.supxlabel(caption, x=0.99, ha="right", color=DIM, fontsize=10)
    return figure


def _draw_cell(axes: Axes, cell: Cell, name: str, height: float, color: str) -> None:
    figures = cell.summary()
    if name not in figures:
        text = "failed" if cell.error else "none"
        axes.text(0.5, height, text, transform=axes.get_yaxis_transform(), ha="center", va="center",
                  color=DIM, style="italic")
        return
    runs = [value for run in cell.runs if (value := run["metrics"].get(name)) is not None]
    if len(runs) > 1:
        axes.plot(runs, [height] * len(runs), "o", mfc="none", color=color, markersize=5, alpha=0.5)
    axes.errorbar(figures[name], height, xerr=figures.get(f"{name}_se"), fmt="o", color=color,
                  markersize=8, capsize=4, linewidth=2)
    axes.annotate(f"{figures[name]:.4g}", (figures[name], height), xytext=(0, 9),
                  textcoords="offset points", ha="center", color=INK, fontsize=10)


def _places(cells: Sequence[Cell]) -> tuple[list[float], list[str]]:
    """Height and colour of every cell; a gap before each new value of the first key."""
    heights, colors, seen = [], [], {}
    height = 0.0
    for before, cell in zip(itertools.chain([None], cells), cells, strict=False):
        value = next(iter(cell.label.values()), "")
        if before is not None:
            changed = value != next(iter(before.label.values()), "") and len(cell.label) > 1
            height += 1 + GROUP_GAP * changed
        heights.append(height)
        seen.setdefault(value, len(seen))
        colors.append(PALETTE[seen[value] % len(PALETTE)])
    return heights, colors
