"""Figures of a tracked sequence: trajectories, who owns which detection, the bound.

Every function returns a matplotlib `Figure` of one size, made without pyplot and its global state.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.experiments.harness.figures import (
    DIM,
    INK,
    PALE,
    PALETTE,
    bulk,
    line_style,
    name_ends,
    new_figure,
    shades,
    tidy,
)
from pyromodels.experiments.tracking.figures.trajectories import plot_trajectories
from pyromodels.experiments.tracking.marginals import Marginals

__all__ = [
    "figures",
    "plot_bound",
    "plot_metric_curves",
    "plot_responsibilities",
    "plot_trajectories",
]


def figures(
    found: Marginals,
    trace: Mapping[str, Sequence[Tensor]],
    data: TrackingData,
    index: int = 0,
) -> dict[str, Figure]:
    """Return "trajectories", "responsibilities" and, with a trace, "bound".

    Args:
        found: the posterior's marginals.
        trace: phase -> bounds after each sweep, tensors of shape (R * B,), from `Progress`.
        data: what was tracked.
        index: which sequence to draw.
    """
    drawn = {
        "trajectories": plot_trajectories(found, data, index),
        "responsibilities": plot_responsibilities(found, data, index),
    }
    if any(trace.values()):
        name = data.names[index]
        drawn["bound"] = plot_bound(trace, data.num_sequences, index, name=name)
    return drawn


def plot_responsibilities(found: Marginals, data: TrackingData, index: int = 0) -> Figure:
    """Draw over time how many detections each source and clutter own, who is seen, and the doubt.

    A slot of a frame says nothing about identity, so rows are sources: the responsibilities of a
    frame summed over its detections, 1 where a source owns one.
    """
    owned = found.responsibilities[index].sum(1).T.detach().cpu()  # (N [+ 1], T)
    num_sources, num_frames = found.mean.shape[2], owned.shape[1]
    has_detector = found.visible is not None
    figure = new_figure(f"Who owns the detections, {data.names[index]}")
    heights = (num_sources + has_detector, num_sources, 2.2) if has_detector else (num_sources, 2.2)
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    panels = [figure.add_subplot(grid[row]) for row in range(len(heights))]

    names = [f"source {n}" for n in range(num_sources)]
    _heat(panels[0], owned, [*names, "clutter"][: len(owned)])
    panels[0].set_title("Detections owned: responsibilities summed over a frame", loc="left")
    scale = ScalarMappable(Normalize(0, 1), shades(INK))  # of every row, whatever its colour
    figure.colorbar(scale, ax=panels[0], pad=0.01, extend="max", aspect=12, label="detections")
    if has_detector:
        panels[0].axhline(num_sources - 0.5, color=INK, linewidth=1)
        visible = found.visible[index].detach().cpu()
        _heat(panels[1], visible, names)
        panels[1].set_title("Seen by the detector: posterior probability", loc="left")
        figure.colorbar(scale, ax=panels[1], pad=0.01, aspect=12, label="probability")
    doubt = _doubt(found.responsibilities[index]).detach().cpu()
    bottom = panels[-1]
    bottom.bar(np.arange(num_frames), doubt.numpy(), width=1.0, color=DIM, linewidth=0)
    bottom.set_ylim(0, max(0.7, 1.1 * float(doubt.max())))
    bottom.set_title("Doubt: entropy of the owners, summed over a frame", loc="left")
    bottom.set_ylabel("nats")
    bottom.set_xlabel("frame")
    tidy(bottom)
    for axes in panels:
        axes.set_xlim(-0.5, num_frames - 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    for axes in panels[:-1]:
        axes.tick_params(labelbottom=False)
    return figure


def plot_bound(
    trace: Mapping[str, Sequence[Tensor]],
    num_sequences: int = 1,
    index: int = 0,
    *,
    name: str = "",
) -> Figure:
    """Draw the bound after each sweep for every start, the best highlighted.

    A phase in which the best start alone goes on, such as that of a deep prior, has another model
    and its bound another meaning: it gets a panel of its own.

    Args:
        trace: phase -> tensors of shape (R * B,), one for each sweep.
        num_sequences: B.
        index: which sequence to draw.
        name: for the title.
    """
    stages = list(_stages(trace, num_sequences, index))
    if not stages:
        raise ValueError("trace: given no sweep; expected phase -> one tensor for each sweep")
    figure = new_figure(f"Evidence lower bound{', ' if name else ''}{name}")
    widths = [max(6, len(stage.values)) for stage in stages]
    grid = figure.add_gridspec(1, len(stages), width_ratios=widths)
    for position, stage in enumerate(stages):
        _draw_stage(figure.add_subplot(grid[position]), stage)
    return figure


def plot_metric_curves(
    iterations: Sequence[int],
    curves: Mapping[str, Sequence[float]],
    *,
    ylabel: str = "MOTA (%)",
    title: str = "",
) -> Figure:
    """Draw a metric over iterations, one line for each label, named at its right end (Figure 4.3).

    Args:
        iterations: when it was measured.
        curves: label -> one value for each iteration; NaN where there is none.
        ylabel: name and unit of the metric.
        title: of the figure.

    Raises:
        ValueError: where a curve has another number of values than there are iterations.
    """
    figure = new_figure(title)
    axes = figure.add_subplot()
    ends = {}
    for position, (label, values) in enumerate(curves.items()):
        if len(values) != len(iterations):
            raise ValueError(
                f"curves[{label!r}]: given {len(values)} values; expected {len(iterations)}, "
                "one for each iteration"
            )
        color, line = line_style(position)
        axes.plot(
            iterations,
            values,
            color=color,
            linestyle=line,
            marker="o",
            markersize=5,
            linewidth=2,
            label=label,
        )
        finite = [v for v in values if np.isfinite(v)]
        ends[label] = (finite[-1] if finite else np.nan, color)
    axes.set_xlabel("iteration")
    axes.set_ylabel(ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes, grid=True)
    name_ends(axes, ends)
    return figure


# ---- responsibilities


def _heat(axes: Axes, values: Tensor, names: Sequence[str]) -> None:
    """A row for each name, in shades of the colour that this source has everywhere."""
    num_frames = values.shape[-1]
    colours = [INK if name == "clutter" else line_style(n)[0] for n, name in enumerate(names)]
    for n, colour in enumerate(colours):
        edges = (-0.5, num_frames - 0.5, n + 0.5, n - 0.5)
        axes.imshow(values[n : n + 1].numpy(), aspect="auto", interpolation="nearest",
                    cmap=shades(colour), vmin=0, vmax=1, extent=edges)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names)
    for label, colour in zip(axes.get_yticklabels(), colours, strict=True):
        label.set_color(colour)
        label.set_fontweight("bold")
    axes.set_yticks([n - 0.5 for n in range(1, len(names))], minor=True)
    axes.grid(which="minor", axis="y", color=PALE, linewidth=0.6)
    axes.tick_params(which="both", length=0)


def _doubt(
    responsibilities: Tensor,  # shape: (T, K, N [+ 1])
) -> Tensor:  # nats, shape: (T,)
    return -torch.special.xlogy(responsibilities, responsibilities).sum((-1, -2))


# ---- the bound


class _Stage(NamedTuple):
    """Sweeps with the same starts."""

    values: np.ndarray  # nats, shape: (sweeps, R)
    phases: list[tuple[str, int]]  # name, and the first sweep of it


def _stages(
    trace: Mapping[str, Sequence[Tensor]], num_sequences: int, index: int
) -> Iterator[_Stage]:
    """Group the sweeps by their number of starts, in the order of the phases."""
    sizes = dict.fromkeys(len(value) for values in trace.values() for value in values)
    for size in sizes:
        values, phases = [], []
        for phase, sweeps in trace.items():
            own = [value for value in sweeps if len(value) == size]
            if own:
                phases.append((phase, len(values)))
            values += [v.detach().cpu().reshape(-1, num_sequences)[:, index] for v in own]
        if phases[0][0] == "final" and len(phases) > 1:  # named before the best start went on
            phases, values = _first_last(phases, values)
        yield _Stage(torch.stack(values).numpy(), phases)


def _first_last(phases: list[tuple[str, int]], values: list[Tensor]) -> tuple[list, list]:
    """Move the first phase to the end."""
    length = phases[1][1]
    moved = [(name, start - length) for name, start in phases[1:]]
    return [*moved, (phases[0][0], len(values) - length)], [*values[length:], *values[:length]]


def _draw_stage(axes: Axes, stage: _Stage) -> None:
    sweeps = np.arange(1, len(stage.values) + 1)
    num_starts = stage.values.shape[1]
    best = int(np.nanargmax(stage.values[-1]))
    for start in range(num_starts):
        if start != best:
            axes.plot(sweeps, stage.values[:, start], color=PALE, linewidth=1.3, marker=".")
    axes.plot(sweeps, stage.values[:, best], color=PALETTE[0], linewidth=2.6, marker="o", zorder=3)
    ends = {}
    for start, value in enumerate(stage.values[-1]):
        name = f"start {start}: " if num_starts > 1 else ""
        ends[f"{name}{value:.1f}"] = (value, PALETTE[0] if start == best else DIM)
    ends_low = (stage.values[-1].min() > stage.values).mean()  # all ends are in view
    low, high, outside = bulk(stage.values, low=min(0.1, ends_low))
    axes.set_ylim(low, high)
    for name, first in stage.phases:
        if first:
            axes.axvline(first + 0.5, color=PALE, linewidth=0.8, linestyle=":")
        axes.annotate(
            name,
            (first + 0.6, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(2, 4),
            textcoords="offset points",
            color=INK,
            style="italic",
            fontsize=10,
        )
    axes.set_xlim(0.5, len(sweeps) + 0.5)
    axes.set_xlabel(f"sweep{outside}")
    axes.set_ylabel("bound (nats)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes, grid=True)
    name_ends(axes, ends)
