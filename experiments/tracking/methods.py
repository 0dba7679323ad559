"""Every tracker of the tables under one signature: detections in, boxes and covariance out."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyromodels.errors import SpecError, mismatch, shown, unknown
from pyromodels.experiments.baselines import hold_last_box, kalman_tracker
from pyromodels.experiments.datasets.tracking.box_coordinates import (
    centres_to_corners,
    corner_covariance,
)
from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.experiments.harness.plain_tables import Plain, nested
from pyromodels.experiments.metrics.tracking.mot import tracking_metrics
from pyromodels.experiments.tracking.marginals import Marginals
from pyromodels.experiments.tracking.model_spec import ModelSpec, PriorSpec
from pyromodels.experiments.tracking.published import track_published
from pyromodels.experiments.tracking.setup import box_program
from pyromodels.experiments.tracking.stages import TUNED, Progress
from pyromodels.experiments.tracking.tracker import Fitted, joined, parts, track
from pyromodels.experiments.tracking.trained_priors import load_prior
from pyromodels.experiments.tracking.vkf import track_vkf
from pyromodels.inference.training.progress import progress


class Tracked(NamedTuple):
    """What a method returns."""

    boxes: Tensor  # [left, top, right, bottom], shape: (S, T, N, 4)
    covariance: Tensor | None  # of the corners, shape: (S, T, N, 4, 4); None where none is claimed
    fitted: Fitted | None = None  # the last chunk's posterior, of methods that have one


@dataclass(frozen=True)
class Options:
    """What a method may be told.

    Args:
        num_sources: N; None takes the number of true objects where there are any, else the number
            of detections in the first frame.
        weights: of a deep prior: a shipped name or a path.
        device: where MixDVAE runs.
        seed: of whatever a method draws.
        chunk: sequences tracked at once.
        progress: see `stages.Progress`.
        changes: "stages", or fields of `ModelSpec`, of the tuned tracker to replace; fields of the
            published options of the published one.
    """

    num_sources: int | None = None
    weights: str | None = None
    device: str = "cpu"
    seed: int = 0
    chunk: int = 64
    progress: Progress | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)


Method = Callable[[TrackingData, Options], Tracked]


def run_method(name: str, data: TrackingData, options: Options | None = None) -> Tracked:
    """Run a method by name.

    Raises:
        SpecError: where there is no such method.
    """
    check_method(name)
    return METHODS[name](data, options or Options())


def check_method(name: str) -> None:
    """Raise `SpecError`, with the nearest name, where there is no such method."""
    if name not in METHODS:
        raise SpecError(unknown("method", given=name, known=METHODS))


def measured(name: str, data: TrackingData, options: Options) -> dict[str, float]:
    """Run a method, with a progress bar where somebody is looking; return its figures."""
    with progress(desc=f"{data.name} {name}", unit="sweep") as bar:

        def tell(phase: str, sweep: int, elbo: Tensor) -> None:
            bar.set_postfix_str(f"{phase}, bound {elbo.mean():.1f} nats", refresh=False)
            bar.update()

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


def corners_of(found: Marginals, data: TrackingData) -> tuple[Tensor, Tensor | None]:
    """Return boxes and the covariance of their corners, None where the posterior is a point."""
    boxes = centres_to_corners(found.mean).detach().to(data.detections)
    if (found.variance <= 0).any():
        return boxes, None
    return boxes, corner_covariance(found.variance).detach().to(data.detections)


def number_of_sources(data: TrackingData, options: Options) -> int | None:
    """Return N as the options and the data have it, None where the first frame is to say."""
    return options.num_sources if options.num_sources is not None else data.num_objects


def chunks(data: TrackingData, size: int) -> Iterator[TrackingData]:
    """Yield the sequences, `size` at a time."""
    for start in range(0, data.num_sequences, size):
        yield data.subset(slice(start, start + size))


class MetricsTable:
    """The `[metrics]` table of a spec: `baselines`, methods to measure beside it."""

    def read(self, value: Any, where: str) -> Plain:
        """Return the table, its methods known."""
        table = nested({} if value is None else value, where)
        for key in table:
            if key != "baselines":
                raise SpecError(f"{where}: {unknown('key', given=key, known=['baselines'])}")
        baselines = table.get("baselines", [])
        if not isinstance(baselines, list) or not all(isinstance(n, str) for n in baselines):
            given, expected = shown(baselines), f"a list of {', '.join(METHODS)}"
            raise SpecError(mismatch(f"{where}.baselines", given=given, expected=expected))
        for name in baselines:
            check_method(name)
        return {"baselines": baselines}

    def write(self, held: Plain, seed: int) -> Plain:
        """Return the table."""
        return held


def _tuned(prior: PriorSpec) -> Method:
    def method(data: TrackingData, options: Options) -> Tracked:
        said = {"num_sources": options.num_sources, "prior": prior, **options.changes}
        if options.weights is not None:
            said["prior"] = replace(prior, weights=options.weights)
        stages = said.pop("stages", TUNED)
        batch, model = box_program(
            data, ModelSpec(**said), dtype=data.detections.dtype, device=options.device
        )
        found = []
        for part in parts(batch, options.chunk):
            fitted = track(model, part, stages, progress=options.progress)
            found.append(fitted.marginals)
        return Tracked(*corners_of(joined(found), data), fitted)

    return method


def _published(fine_tune: bool) -> Method:
    def method(data: TrackingData, options: Options) -> Tracked:
        if options.weights is None:
            raise ValueError(
                "weights: the published method needs the published networks, which are not "
                "shipped; pass --weights with their state dict"
            )
        prior = load_prior(options.weights).to(options.device)
        return Tracked(
            *track_published(
                data,
                prior,
                num_sources=number_of_sources(data, options),
                device=options.device,
                seed=options.seed,
                fine_tune=fine_tune,
                **options.changes,
            )
        )

    return method


def _kalman(**how: object) -> Method:
    def method(data: TrackingData, options: Options) -> Tracked:
        tracks = kalman_tracker(data, num_sources=number_of_sources(data, options), **how)
        return Tracked(tracks.boxes, torch.diag_embed(tracks.variance))

    return method


def _hold(data: TrackingData, options: Options) -> Tracked:
    return Tracked(hold_last_box(data, num_sources=number_of_sources(data, options)).boxes, None)


def _vkf(data: TrackingData, options: Options) -> Tracked:
    fitted = [
        track_vkf(part, number_of_sources(data, options), device=options.device)
        for part in chunks(data, options.chunk)
    ]
    return Tracked(*corners_of(joined([f.marginals for f in fitted]), data), fitted[-1])


UNFITTED: dict[str, Method] = {
    "reference": _published(fine_tune=False),
    "reference_tuned": _published(fine_tune=True),
    "vkf": _vkf,
    "kalman": _kalman(association="iou", motion="sort"),
    "kalman_gated": _kalman(association="mahalanobis", gate=20.0, smooth=True),
    "hold": _hold,
}
"""Methods that bring a model of their own, or none."""
AS_TRAINED = 1e-4
"""Floor of a deep prior's deviation: that of its training."""
METHODS: dict[str, Method] = {
    "linear": _tuned(PriorSpec()),
    "srnn": _tuned(PriorSpec({"name": "srnn"}, least_std=AS_TRAINED)),
    "deep_ar": _tuned(PriorSpec({"name": "deep_ar"}, least_std=AS_TRAINED)),
    **UNFITTED,
}
BASELINES = ("kalman", "kalman_gated", "hold", "vkf")
"""Methods that need neither weights nor a choice."""
