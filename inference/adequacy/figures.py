"""Figures of the guide-adequacy report: `matplotlib` figures made without pyplot's global state."""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter
from scipy import stats

from pyromodels.inference.adequacy.statistics import LEVELS, interval_coverage
from pyromodels.inference.adequacy.verdict import MAX_BAD_SHARE, judged_rhat

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours, which colour-blind people tell apart."""
BLUE, ORANGE, GREEN = PALETTE[:3]
INK, PALE = "#333333", "#d9d9d9"
COLUMNS = 4


def line_style(n: int) -> tuple[str, str | tuple[int, tuple[float, ...]]]:
    """Colour and dashes of line n, no two alike: dashes, then dots too, once colours repeat."""
    turn = n // len(PALETTE)
    dashes = (0, (5.0, 1.5) + (1.5, 1.5) * (turn - 1)) if turn else "-"
    return PALETTE[n % len(PALETTE)], dashes


def pareto_k_figure(
    k: Mapping[str, np.ndarray],  # block -> k-hat of every sequence, (B,)
    limit: float,
) -> Figure:
    """k-hat of every sequence, a row of dots for each block."""
    figure, (axes,) = _figure("Importance weights: k-hat of every sequence", 1)
    for row, (block, values) in enumerate(k.items()):
        values = np.atleast_1d(values)
        top = max(1.5, limit)
        offset = np.linspace(-0.25, 0.25, values.size) if values.size > 1 else 0.0
        colours = np.where(values > limit, ORANGE, BLUE)
        axes.scatter(np.clip(values, -0.5, top), row + offset, c=colours, s=18, linewidths=0)
        axes.text(1.52, row, block, va="center", color=INK)
    axes.axvline(limit, color=INK, linestyle="--", linewidth=1)
    axes.set_xlim(-0.55, 1.55)
    axes.set_ylim(len(k) - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_xlabel(f"k-hat, cut at -0.5 and 1.5; dashed: {limit:.2f}, above which weights fail")
    return figure


def rank_figure(
    ranks: Mapping[str, np.ndarray],  # summary -> ranks in (0, 1), (R,)
    title: str = "Rank of the truth among draws of the guide",
) -> Figure:
    """Rank histograms; a calibrated guide stays in the band in 99 of 100 bins."""
    figure, panels = _figure(title, len(ranks))
    for axes, (name, values) in zip(panels, ranks.items(), strict=True):
        bins = max(2, min(10, len(values) // 5))
        low, high = stats.binom.ppf((0.005, 0.995), len(values), 1 / bins)
        axes.axhspan(low, high, color=PALE, zorder=0)
        counts = np.histogram(values, bins=bins, range=(0, 1))[0]
        out = (counts < low) | (counts > high)
        axes.bar((np.arange(bins) + 0.5) / bins, counts, width=0.94 / bins,
                 color=np.where(out, ORANGE, BLUE), linewidth=0)
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.1 * max(high, counts.max()))
    panels[0].set_ylabel("count")
    figure.supxlabel("U: too narrow, hump: too wide, slope: biased", fontsize=9)
    return figure


def coverage_figure(
    ranks: Mapping[str, np.ndarray],  # line -> ranks or PIT values, (R,)
) -> Figure:
    """How often central intervals hold the truth, against what they promise."""
    figure, (axes,) = _figure("Coverage of central intervals", 1)
    grid = np.linspace(0.02, 0.98, 49)
    axes.plot((0, 1), (0, 1), color=INK, linewidth=1, linestyle="--")
    fewest = min(len(values) for values in ranks.values())
    error = 2.58 * np.sqrt(grid * (1 - grid) / fewest)
    axes.fill_between(grid, grid - error, grid + error, color=PALE, zorder=0)
    for i, (name, values) in enumerate(ranks.items()):
        found = interval_coverage(values, grid)
        colour, dashes = line_style(i)
        held = [found[level].value for level in grid]
        axes.plot(grid, held, color=colour, linestyle=dashes, label=name)
    axes.set_xticks((0, *LEVELS, 1))
    axes.set_xlabel("promised")
    axes.set_ylabel("held")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def rhat_figure(
    as_labelled: Mapping[str, np.ndarray],  # summary -> (B,)
    aligned: Mapping[str, np.ndarray],
    limit: float,
) -> Figure:
    """R-hat of every summary over repeated fits: as labelled, and with aligned sources.

    A bar across the dots is what `check_rhat` compares with the limit; triangles at the top are
    infinite.
    """
    figure, (axes,) = _figure("R-hat over fits from different starts", 1)
    axes.set_yscale("log")
    for i, name in enumerate(as_labelled):
        for table, shift, colour in ((as_labelled, -0.15, BLUE), (aligned, 0.15, GREEN)):
            values = np.atleast_1d(table[name])
            drawn = values[np.isfinite(values)]
            axes.scatter(np.full(drawn.size, i + shift), drawn, s=14, color=colour, linewidths=0)
            if np.isinf(values).any():
                axes.scatter([i + shift], [1.0], marker="^", color=colour, clip_on=False,
                             transform=axes.get_xaxis_transform())
            if np.isfinite(judged := judged_rhat(values)):
                axes.hlines(judged, i + shift - 0.12, i + shift + 0.12, color=INK, linewidth=1.5)
    axes.axhline(limit, color=INK, linestyle="--", linewidth=1)
    for axis_format in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        axis_format(FormatStrFormatter("%.2f"))
    axes.set_xticks(range(len(as_labelled)), list(as_labelled), rotation=30, fontsize=8)
    axes.set_ylabel("R-hat")
    axes.set_title(f"blue: as labelled, green: sources aligned; bar: {1 - MAX_BAD_SHARE:.0%} of "
                   "sequences lie below", loc="left", fontsize=10)
    return figure


def _figure(title: str, count: int) -> tuple[Figure, list[Axes]]:
    """An empty figure of so many panels, with a canvas of its own."""
    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    size = (8.0, 4.2) if count == 1 else (2.9 * columns + 1, 2.2 * rows + 1.2)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.012, ha="left", fontweight="bold", color=INK)
    panels = []
    for index in range(count):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.spines[["top", "right"]].set_visible(False)
        panels.append(axes)
    return figure, panels
