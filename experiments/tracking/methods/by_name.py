"""Every tracker of the tables under one signature: detections in, boxes and covariance out."""

import time
from dataclasses import dataclass, field, replace

from torch import Tensor

from pyromodels.errors import SpecError, unknown
from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.experiments.harness.experiment import METHODS
from pyromodels.experiments.metrics.tracking.mot import tracking_metrics
from pyromodels.experiments.tracking.marginals import corners_of
from pyromodels.experiments.tracking.methods.base import Options, Tracked
from pyromodels.experiments.tracking.model_spec import ModelSpec, PriorSpec
from pyromodels.experiments.tracking.setup import box_program
from pyromodels.experiments.tracking.stages import TUNED
from pyromodels.experiments.tracking.tracker import sweeps_bar, track_in_chunks


def run_method(name: str, data: TrackingData, options: Options | None = None) -> Tracked:
    """Run a method by name.

    Raises:
        SpecError: where there is no such method.
    """
    check_method(name)
    options = options or Options()
    if name in PRESETS:
        return _tuned(PRESETS[name], data, options)
    return METHODS.build({"name": name, **options.changes})(data, options)


def check_method(name: str) -> None:
    """Raise `SpecError`, with the nearest name, where there is no such method."""
    if name not in PRESETS and name not in METHODS:
        raise SpecError(unknown("method", given=name, known=[*PRESETS, *METHODS]))


def measured(name: str, data: TrackingData, options: Options) -> dict[str, float]:
    """Run a method, with a progress bar where somebody is looking; return its figures."""
    with sweeps_bar(f"{data.name} {name}") as tell:
        started = time.perf_counter()
        tracks = run_method(name, data, replace(options, progress=tell))
        seconds = time.perf_counter() - started
    return judged_boxes(data, tracks.boxes, tracks.covariance, seconds)


def judged_boxes(
    data: TrackingData,
    boxes: Tensor,                    # shape: (S, T, N, 4)
    covariance: Tensor | None,        # shape: (S, T, N, 4, 4)
    seconds: float,
) -> dict[str, float]:
    """Return seconds a sequence and, where the truth is known, the measures of tracking."""
    metrics = {"seconds_per_sequence": seconds / data.num_sequences}
    if data.truth is None:
        return metrics
    return metrics | tracking_metrics(data.truth, data.truth_mask, boxes, variance=covariance)


@dataclass(frozen=True)
class TrackingMetrics:
    """What is measured beside the figures of the run itself.

    Args:
        baselines: methods to measure on the same data.

    Raises:
        SpecError: where there is no such method.
    """

    baselines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse what is no method."""
        for name in self.baselines:
            check_method(name)


def _tuned(prior: PriorSpec, data: TrackingData, options: Options) -> Tracked:
    said = {"num_sources": options.num_sources, "prior": prior, **options.changes}
    if options.weights is not None:
        said["prior"] = replace(prior, weights=options.weights)
    stages = said.pop("stages", TUNED)
    batch, model = box_program(
        data, ModelSpec(**said), dtype=data.detections.dtype, device=options.device
    )
    fitted, found, _ = track_in_chunks(
        model, batch, stages, chunk=options.chunk, progress=options.progress
    )
    return Tracked(*corners_of(found, data), fitted)


AS_TRAINED = 1e-4
"""Floor of a deep prior's deviation: that of its training."""
PRESETS = {
    "linear": PriorSpec(),
    "srnn": PriorSpec({"name": "srnn"}, least_std=AS_TRAINED),
    "deep_ar": PriorSpec({"name": "deep_ar"}, least_std=AS_TRAINED),
}
"""The tuned tracker by its prior; the other methods bring a model of their own, or none."""
BASELINES = ("kalman", "kalman_gated", "hold", "vkf")
"""Methods that need neither weights nor a choice."""
