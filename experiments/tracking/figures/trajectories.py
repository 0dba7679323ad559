"""The figure of a tracked sequence: where everybody was, and how sure the posterior is of it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

from pyromodels.experiments.datasets.tracking.box_coordinates import corners_to_centres
from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.experiments.harness.figures import PALE, TRUTH, line_style, new_figure, tidy
from pyromodels.experiments.tracking.marginals import Marginals

MAP_RATIO = 3.6
"""Width over height of the map."""
BAND = 1.959964
"""Half-width of a 95 % interval, in standard deviations."""
ELLIPSE = 2.447747
"""Half-axis of a 95 % ellipse in two dimensions, in standard deviations."""


def plot_trajectories(found: Marginals, data: TrackingData, index: int = 0) -> Figure:
    """Draw the centres: a map with 95 % ellipses, and x, y and their uncertainty over time.

    Detections are dots in the colour of the source that most probably owns them, crosses where
    that is clutter; the truth, where known, is dashed. The view is that of the trajectories:
    clutter far from them lies outside.
    """
    scene = _Scene.of(found, data, index)
    figure = new_figure(f"Trajectories, {data.names[index]}")
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
    def of(cls, found: Marginals, data: TrackingData, index: int) -> "_Scene":
        sized = data.image_size is not None
        image = data.image_size[index].cpu().double() if sized else torch.ones(2).double()
        mean, variance = (part[index, :, :, :2].detach().cpu() for part in found[:2])
        present = data.mask[index].cpu()
        centres = corners_to_centres(data.detections[index])[..., :2].to(mean)[present]
        owners = found.responsibilities[index].argmax(-1).cpu()[present]
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
        color, line = line_style(n)
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
    tidy(axes)


def _draw_coordinate(axes: Axes, scene: _Scene, coordinate: int) -> None:
    for owner in range(scene.num_sources + 1):
        own = scene.owners == owner
        points = scene.detection_frames[own], scene.detections[own, coordinate]
        _dots(axes, scene, owner, points)
    for n in range(scene.num_sources):
        color, line = line_style(n)
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
    tidy(axes, grid=True)


def _draw_uncertainty(axes: Axes, scene: _Scene) -> None:
    for n in range(scene.num_sources):
        color, line = line_style(n)
        half = ELLIPSE * np.sqrt(scene.std[n].prod(-1))
        axes.plot(scene.frames, half, color=color, linestyle=line, linewidth=1.6)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"radius ({scene.unit})")
    axes.set_title("Radius of the 95 % ellipse (geometric mean)", loc="left")
    tidy(axes, grid=True)


def _dots(axes: Axes, scene: _Scene, owner: int, points: Sequence[np.ndarray]) -> None:
    """Detections of one owner."""
    if owner == scene.num_sources:
        axes.scatter(
            *points, s=26, color=PALE, marker="x", linewidth=1.2, label="clutter", zorder=1
        )
    else:
        axes.scatter(*points, s=9, color=line_style(owner)[0], alpha=0.45, linewidth=0, zorder=2)


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
