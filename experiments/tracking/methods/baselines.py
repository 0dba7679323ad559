"""The classical trackers, by name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import torch

from pyromodels.experiments.baselines import hold_last_box, kalman_tracker
from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.experiments.harness.experiment import METHODS
from pyromodels.experiments.tracking.methods.base import Options, Tracked


@METHODS.register("kalman")
@dataclass(frozen=True)
class Kalman:
    """SORT's Kalman filter, detections matched by overlap; see `kalman_tracker`."""

    association: Literal["iou", "mahalanobis"] = "iou"
    gate: float | None = None
    motion: Literal["constant_velocity", "sort"] = "sort"
    smooth: bool = False

    def __call__(self, data: TrackingData, options: Options) -> Tracked:
        """Track."""
        tracks = kalman_tracker(data, num_sources=options.number_of_sources(data), **asdict(self))
        return Tracked(tracks.boxes, torch.diag_embed(tracks.variance))


@METHODS.register("kalman_gated")
@dataclass(frozen=True)
class GatedKalman(Kalman):
    """A Kalman smoother, constant velocity, detections matched by distance within a gate."""

    association: Literal["iou", "mahalanobis"] = "mahalanobis"
    gate: float | None = 20.0
    motion: Literal["constant_velocity", "sort"] = "constant_velocity"
    smooth: bool = True


@METHODS.register("hold")
@dataclass(frozen=True)
class Hold:
    """The last box, until the next detection: no motion, no uncertainty."""

    def __call__(self, data: TrackingData, options: Options) -> Tracked:
        """Track."""
        tracks = hold_last_box(data, num_sources=options.number_of_sources(data))
        return Tracked(tracks.boxes, None)
