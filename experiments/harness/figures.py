"""What all figures share: one size, colours for every eye, no global state."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pyromodels.experiments.harness.records import replacing

SIZE = (13.0, 7.5)
"""Inches; every figure has it."""
DPI = 110
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours, which colour-blind people tell apart; they repeat with other lines."""
LINES = ("-", (0, (5, 1)), (0, (3, 1, 1, 1)))
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


def source_style(n: int) -> tuple[str, object]:
    """Colour and line of source n."""
    return PALETTE[n % len(PALETTE)], LINES[n // len(PALETTE) % len(LINES)]


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
