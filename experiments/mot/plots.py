"""Figures of a tracked sequence: trajectories, who owns which detection, the bound.

Every function returns a matplotlib `Figure` of one size, made without pyplot and its global state.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from experiments.datasets import TrackingData
from experiments.mot.boxes import corners_to_centres
from experiments.mot.tracker import Fitted
from experiments.records import replacing

SIZE = (13.0, 7.5)
"""Inches; every figure has it."""
DPI = 110
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours, which colour-blind people tell apart; they repeat with other lines."""
LINES = ("-", (0, (5, 1)), (0, (3, 1, 1, 1)))
INK, DIM, PALE, TRUTH = "#333333", "#6b6b6b", "#9a9a9a", "#111111"
HEAT = "cividis"
MAP_RATIO = 3.6
"""Width over height of the map."""
BAND = 1.959964
"""Half-width of a 95 % interval, in standard deviations."""
ELLIPSE = 2.447747
"""Half-axis of a 95 % ellipse in two dimensions, in standard deviations."""


def write_figures(
    folder: Path,
    fitted: Fitted,
    trace: Mapping[str, Sequence[Tensor]],
    data: TrackingData,
    index: int = 0,
) -> list[Path]:
    """Write `trajectories.png`, `responsibilities.png` and, with a trace, `bound.png`.

    Args:
        folder: where to; it exists.
        fitted: the result of `track` on `data`.
        trace: phase -> bounds after each sweep, tensors of shape (R * B,), from `Progress`.
        data: what was tracked.
        index: which sequence to draw.
    """
    figures = {
        "trajectories": plot_trajectories(fitted, data, index),
        "responsibilities": plot_responsibilities(fitted, data, index),
    }
    if any(trace.values()):
        num_sequences = fitted.batch.num_sequences
        figures["bound"] = plot_bound(trace, num_sequences, index, name=data.names[index])
    return [save(figure, Path(folder) / f"{name}.png") for name, figure in figures.items()]


def save(figure: Figure, path: Path) -> Path:
    """Write a figure, whole or not at all."""
    with replacing(path) as part:
        figure.savefig(part, dpi=DPI)
    return path


def plot_trajectories(fitted: Fitted, data: TrackingData, index: int = 0) -> Figure:
    """Draw the centres: a map with 95 % ellipses, and x, y and their uncertainty over time.

    Detections are dots in the colour of the source that most probably owns them, crosses where
    that is clutter; the truth, where known, is dashed. The view is that of the trajectories:
    clutter far from them lies outside.
    """
    scene = _Scene.of(fitted, data, index)
    figure = _figure(f"Trajectories, {data.names[index]}")
    grid = figure.add_gridspec(2, 3, height_ratios=(1.25, 1.0))
    from_above = figure.add_subplot(grid[0, :])
    over_time = [figure.add_subplot(grid[1, column]) for column in range(3)]
    _draw_map(from_above, scene)
    _draw_coordinate(over_time[0], scene, 0)
    _draw_coordinate(over_time[1], scene, 1)
    _draw_uncertainty(over_time[2], scene)
    for axes in over_time:
        axes.set_xlim(0, max(1, len(scene.frames) - 1))
        axes.set_xlabel("frame")
    handles, labels = from_above.get_legend_handles_labels()
    rows = math.ceil(len(labels) / 9)
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=math.ceil(len(labels) / rows),
        frameon=False,
    )
    return figure


def plot_responsibilities(fitted: Fitted, data: TrackingData, index: int = 0) -> Figure:
    """Draw over time how many detections each source and clutter own, who is seen, and the doubt.

    A slot of a frame says nothing about identity, so rows are sources: the responsibilities of a
    frame summed over its detections, 1 where a source owns one.
    """
    guide = fitted.guide
    owned = guide.responsibilities[index].sum(1).T.detach().cpu()  # (N [+ 1], T)
    num_sources, num_frames = guide.loc.shape[1], owned.shape[1]
    has_detector = fitted.model.detector is not None
    figure = _figure(f"Who owns the detections, {data.names[index]}")
    heights = (num_sources + has_detector, num_sources, 2.2) if has_detector else (num_sources, 2.2)
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    panels = [figure.add_subplot(grid[row]) for row in range(len(heights))]

    names = [f"source {n}" for n in range(num_sources)]
    image = _heat(panels[0], owned, [*names, "clutter"][: len(owned)])
    panels[0].set_title("Detections owned: responsibilities summed over a frame", loc="left")
    bar = figure.colorbar(image, ax=panels[0], pad=0.01, extend="max", aspect=12)
    bar.set_label("detections")
    if has_detector:
        panels[0].axhline(num_sources - 0.5, color="white", linewidth=3)
        visible = guide.visibility.mean[index].detach().cpu()
        image = _heat(panels[1], visible, names)
        panels[1].set_title("Seen by the detector: posterior probability", loc="left")
        figure.colorbar(image, ax=panels[1], pad=0.01, aspect=12).set_label("probability")
    doubt = _doubt(guide.responsibilities[index]).detach().cpu()
    bottom = panels[-1]
    bottom.bar(np.arange(num_frames), doubt.numpy(), width=1.0, color=PALETTE[1], linewidth=0)
    bottom.set_ylim(0, max(0.7, 1.1 * float(doubt.max())))
    bottom.set_title("Doubt: entropy of the owners, summed over a frame", loc="left")
    bottom.set_ylabel("nats")
    bottom.set_xlabel("frame")
    _tidy(bottom)
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
    figure = _figure(f"Evidence lower bound{', ' if name else ''}{name}")
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
    figure = _figure(title)
    axes = figure.add_subplot()
    ends = {}
    for position, (label, values) in enumerate(curves.items()):
        if len(values) != len(iterations):
            raise ValueError(
                f"curves[{label!r}]: given {len(values)} values; expected {len(iterations)}, "
                "one for each iteration"
            )
        color, line = _style(position)
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
    _tidy(axes, grid=True)
    _name_ends(axes, ends)
    return figure


# ---- what is drawn of a sequence


class _Scene(NamedTuple):
    """One sequence in the units of its plots, y pointing down."""

    frames: np.ndarray  # shape: (T,)
    mean: np.ndarray  # centres, shape: (N, T, 2)
    std: np.ndarray  # shape: (N, T, 2)
    detections: np.ndarray  # centres, shape: (M, 2)
    detection_frames: np.ndarray  # shape: (M,)
    owners: np.ndarray  # 0..N-1, N for clutter, shape: (M,)
    truth: np.ndarray | None  # centres, NaN where absent, shape: (N', T, 2)
    image: np.ndarray  # width and height, shape: (2,)
    unit: str

    @classmethod
    def of(cls, fitted: Fitted, data: TrackingData, index: int) -> "_Scene":
        sized = data.image_size is not None
        image = data.image_size[index].cpu().double() if sized else torch.ones(2).double()
        mean, variance = (part[index, :, :, :2].detach().cpu() for part in fitted.centres)
        present = fitted.batch.mask[index].cpu()
        centres = fitted.batch.observations[index, ..., :2].cpu()[present]
        owners = fitted.guide.responsibilities[index].argmax(-1).cpu()[present]
        truth = None
        if data.truth is not None:
            truth = corners_to_centres(data.truth[index])[..., :2]
            truth = truth.masked_fill(~data.truth_mask[index][..., None], torch.nan)
            truth = (truth.transpose(0, 1) * image).numpy()
        return cls(
            frames=np.arange(mean.shape[0]),
            mean=(mean.transpose(0, 1) * image).numpy(),
            std=(variance.clamp_min(0).sqrt().transpose(0, 1) * image).numpy(),
            detections=(centres * image).numpy(),
            detection_frames=present.nonzero()[:, 0].numpy(),
            owners=owners.numpy(),
            truth=truth,
            image=image.numpy(),
            unit="px" if sized else "image sizes",
        )

    @property
    def num_sources(self) -> int:
        return len(self.mean)


def _draw_map(axes: Axes, scene: _Scene) -> None:
    for owner in range(scene.num_sources + 1):
        _dots(axes, scene, owner, scene.detections.T[:, scene.owners == owner])
    every = max(1, round(len(scene.frames) / 20))
    for n in range(scene.num_sources):
        color, line = _style(n)
        x, y = scene.mean[n].T
        width, height = 2 * ELLIPSE * scene.std[n, ::every].T
        ellipses = EllipseCollection(
            width,
            height,
            np.zeros_like(width),
            units="xy",
            offsets=scene.mean[n, ::every],
            offset_transform=axes.transData,
            facecolor=color,
            edgecolor=color,
            alpha=0.22,
        )
        axes.add_collection(ellipses)
        axes.plot(x, y, color=color, linestyle=line, linewidth=2, label=f"source {n}", zorder=3)
        axes.plot(
            x[-1],
            y[-1],
            color=color,
            marker=(3, 0, _heading(scene.mean[n])),
            markersize=13,
            markeredgecolor="white",
            zorder=5,
        )
        axes.text(
            x[0],
            y[0],
            str(n),
            color="white",
            fontsize=9,
            fontweight="bold",
            ha="center",
            va="center",
            zorder=5,
            clip_on=True,
            bbox={"boxstyle": "circle,pad=0.25", "facecolor": color, "edgecolor": "white"},
        )
    if scene.truth is not None:
        for n, path in enumerate(scene.truth):
            _draw_truth(axes, *path.T, label="truth" if n == 0 else None)
    low, high = _view(scene)
    if scene.unit == "px":  # parts of a width and of a height are no common unit
        low, high = _widened(low, high, MAP_RATIO)
        axes.set_aspect("equal")
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(high[1], low[1])
    axes.set_title("In the image, from number to arrowhead, with 95 % ellipses", loc="left")
    axes.set_xlabel(f"x ({scene.unit})")
    axes.set_ylabel(f"y ({scene.unit})")
    _tidy(axes)


def _draw_coordinate(axes: Axes, scene: _Scene, coordinate: int) -> None:
    for owner in range(scene.num_sources + 1):
        own = scene.owners == owner
        points = scene.detection_frames[own], scene.detections[own, coordinate]
        _dots(axes, scene, owner, points)
    for n in range(scene.num_sources):
        color, line = _style(n)
        mean, half = scene.mean[n, :, coordinate], BAND * scene.std[n, :, coordinate]
        axes.fill_between(
            scene.frames, mean - half, mean + half, color=color, alpha=0.3, linewidth=0
        )
        axes.plot(scene.frames, mean, color=color, linestyle=line, linewidth=1.6, zorder=3)
    if scene.truth is not None:
        for path in scene.truth:
            _draw_truth(axes, scene.frames, path[:, coordinate])
    low, high = (corner[coordinate] for corner in _view(scene))
    axes.set_ylim(*((low, high) if coordinate == 0 else (high, low)))  # as on the map, y down
    axes.set_title(f"{'xy'[coordinate]} over time, with 95 % bands", loc="left")
    axes.set_ylabel(f"{'xy'[coordinate]} ({scene.unit})")
    _tidy(axes, grid=True)


def _draw_uncertainty(axes: Axes, scene: _Scene) -> None:
    for n in range(scene.num_sources):
        color, line = _style(n)
        half = ELLIPSE * np.sqrt(scene.std[n].prod(-1))
        axes.plot(scene.frames, half, color=color, linestyle=line, linewidth=1.6)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"radius ({scene.unit})")
    axes.set_title("Radius of the 95 % ellipse (geometric mean)", loc="left")
    _tidy(axes, grid=True)


def _dots(axes: Axes, scene: _Scene, owner: int, points: Sequence[np.ndarray]) -> None:
    """Detections of one owner."""
    if owner == scene.num_sources:
        axes.scatter(
            *points, s=26, color=PALE, marker="x", linewidth=1.2, label="clutter", zorder=1
        )
    else:
        axes.scatter(*points, s=9, color=_style(owner)[0], alpha=0.45, linewidth=0, zorder=2)


def _draw_truth(axes: Axes, x: np.ndarray, y: np.ndarray, label: str | None = None) -> None:
    axes.plot(x, y, color=TRUTH, linewidth=1.0, linestyle=(0, (4, 3)), label=label, zorder=4)


def _view(scene: _Scene) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the part of the plane that holds the trajectories, with a margin."""
    reach = ELLIPSE * scene.std
    parts = [(scene.mean - reach).reshape(-1, 2), (scene.mean + reach).reshape(-1, 2)]
    if scene.truth is not None:
        parts.append(scene.truth.reshape(-1, 2))
    points = np.concatenate(parts)
    low, high = np.nanmin(points, 0), np.nanmax(points, 0)
    margin = 0.08 * (high - low)
    return low - margin, high + margin


def _widened(low: np.ndarray, high: np.ndarray, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the smallest box around a box whose width is `ratio` times its height."""
    width, height = high - low
    more = np.array([max(width, ratio * height) - width, max(height, width / ratio) - height]) / 2
    return low - more, high + more


def _heading(path: np.ndarray) -> float:
    """Angle of a triangle, in degrees from up, that points where a path ends, y pointing down."""
    x, y = path[-1] - path[max(0, len(path) - 1 - len(path) // 10)]
    return float(np.degrees(np.arctan2(-y, x))) - 90.0


# ---- responsibilities


def _heat(axes: Axes, values: Tensor, names: Sequence[str]) -> object:
    image = axes.imshow(
        values.numpy(), aspect="auto", interpolation="nearest", cmap=HEAT, vmin=0, vmax=1
    )
    axes.set_yticks(range(len(names)), names)
    for n, label in enumerate(axes.get_yticklabels()):
        clutter = names[n] == "clutter"
        label.set_color(INK if clutter else _style(n)[0])
        label.set_fontweight("bold")
    axes.set_yticks([n - 0.5 for n in range(1, len(names))], minor=True)
    axes.grid(which="minor", axis="y", color="white", linewidth=1)
    axes.tick_params(which="both", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return image


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
    axes.set_ylim(*_bound_limits(stage.values))
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
    axes.set_xlabel("sweep")
    axes.set_ylabel("bound (nats)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _tidy(axes, grid=True)
    _name_ends(axes, ends)


def _bound_limits(values: np.ndarray) -> tuple[float, float]:
    """Limits that show where the starts end; the first sweeps may lie far below."""
    finite = values[np.isfinite(values)]
    high, low = finite.max(), values[-1][np.isfinite(values[-1])].min()
    low = min(low, np.quantile(finite, 0.1))
    margin = 0.08 * max(high - low, 1.0)
    return low - margin, high + margin


# ---- style


def _figure(title: str) -> Figure:
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.012, ha="left", fontsize=15, fontweight="bold", color=INK)
    return figure


def _style(n: int) -> tuple[str, object]:
    """Colour and line of source n."""
    return PALETTE[n % len(PALETTE)], LINES[n // len(PALETTE) % len(LINES)]


def _tidy(axes: Axes, *, grid: bool = False) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)


def _name_ends(axes: Axes, ends: Mapping[str, tuple[float, str]]) -> None:
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
