"""What all figures share: one size, colours for every eye, no global state."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from pyromodels.experiments.harness.records import replacing
from pyromodels.inference.adequacy.figures import PALETTE as PALETTE
from pyromodels.inference.adequacy.figures import line_style as line_style

SIZE = (13.0, 7.5)
"""Inches; every figure has it."""
DPI = 110
INK, DIM, PALE, TRUTH = "#333333", "#6b6b6b", "#9a9a9a", "#111111"
HEAT = "cividis"


def save(figure: Figure, path: Path) -> Path:
    """Write a figure, whole or not at all."""
    with replacing(path) as part:
        figure.savefig(part, dpi=DPI)
    return path


def new_figure(title: str) -> Figure:
    """Return an empty figure with a title and a canvas of its own."""
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.012, ha="left", fontsize=15, fontweight="bold", color=INK)
    return figure


def shades(colour: str) -> LinearSegmentedColormap:
    """From white, 0, to a colour, 1: what belongs to a source is drawn in its own."""
    return LinearSegmentedColormap.from_list(colour, ("white", colour))


def bulk(values: np.ndarray, low: float = 0.0, high: float = 1.0) -> tuple[float, float, str]:
    """Limits of an axis that hold these quantiles, a margin, and words for what lies outside.

    A quantile is a value that is there: of a few values none is left out.
    """
    found = values[np.isfinite(values)]
    bottom = float(np.quantile(found, low, method="lower"))
    top = float(np.quantile(found, high, method="higher"))
    margin = 0.06 * max(top - bottom, 1e-3 * abs(top), 1e-9)
    above, below = int((found > top + margin).sum()), int((found < bottom - margin).sum())
    words = [f"{above} above, up to {found.max():.4g}"] if above else []
    words += [f"{below} below, down to {found.min():.4g}"] if below else []
    said = f"; of {found.size} values outside: {', '.join(words)}" if words else ""
    return bottom - margin, top + margin, said


def tidy(axes: Axes, *, grid: bool = False) -> None:
    """Take away the frame's top and right; with `grid`, lay a pale grid under the data."""
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)


def name_ends(axes: Axes, ends: Mapping[str, tuple[float, str]]) -> None:
    """Write each label at the right of its line's end, pushed apart where ends lie close."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    gap = 0.035
    placed = -np.inf
    order = sorted((kv for kv in ends.items() if np.isfinite(kv[1][0])), key=lambda kv: kv[1][0])
    spots = []
    for label, (value, color) in order:
        placed = max((value - low) / (high - low), placed + gap)
        spots.append((label, placed, color))
    overflow = max(0.0, placed - 1.0)
    for label, height, color in spots:
        axes.annotate(
            label,
            (1.0, height - overflow),
            xycoords="axes fraction",
            xytext=(8, 0),
            textcoords="offset points",
            color=color,
            va="center",
            fontsize=10,
        )
