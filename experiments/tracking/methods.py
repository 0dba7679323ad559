"""Every tracker of the tables under one signature: detections in, boxes and covariance out."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from pyromodels.dynamics.base import SourcePrior
from pyromodels.errors import SpecError, unknown
from pyromodels.experiments.baselines import hold_last_box, kalman_tracker
from pyromodels.experiments.datasets.tracking.box_coordinates import (
    centres_to_corners,
    corner_covariance,
)
from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.experiments.tracking.presets import PRESETS, TrackingPreset
from pyromodels.experiments.tracking.published import track_published
from pyromodels.experiments.tracking.tracker import Fitted, Progress, track
from pyromodels.experiments.tracking.trained_priors import load_prior
from pyromodels.experiments.tracking.vkf import track_vkf


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
        progress: see `tracker.Progress`.
        changes: fields of the preset or of the published options to replace.
    """

    num_sources: int | None = None
    weights: str | None = None
    device: str = "cpu"
    seed: int = 0
    chunk: int = 64
    progress: Progress | None = None
    changes: dict[str, object] = field(default_factory=dict)


Method = Callable[[TrackingData, Options], Tracked]


def run_method(name: str, data: TrackingData, options: Options | None = None) -> Tracked:
    """Run a method by name.

    Raises:
        SpecError: where there is no such method.
    """
    if name not in METHODS:
        raise SpecError(unknown("method", given=name, known=METHODS))
    return METHODS[name](data, options or Options())


def number_of_sources(data: TrackingData, options: Options) -> int | None:
    """Return N as the options and the data have it, None where the first frame is to say."""
    return options.num_sources if options.num_sources is not None else data.num_objects


def chunks(data: TrackingData, size: int) -> Iterator[TrackingData]:
    """Yield the sequences, `size` at a time."""
    for start in range(0, data.num_sequences, size):
        yield data.subset(slice(start, start + size))


def _mixdvae(preset: TrackingPreset) -> Method:
    def method(data: TrackingData, options: Options) -> Tracked:
        chosen = dataclasses.replace(preset, **options.changes)
        prior = _prior(chosen, options)
        boxes, covariances = [], []
        for part in chunks(data, options.chunk):
            fitted = track(
                part.detections.to(options.device),
                part.mask.to(options.device),
                chosen,
                num_sources=number_of_sources(data, options),
                prior=prior,
                progress=options.progress,
            )
            mean, variance = fitted.centres
            boxes.append(centres_to_corners(mean).detach().cpu())
            covariances.append(corner_covariance(variance).detach().cpu())
        return Tracked(torch.cat(boxes), torch.cat(covariances), fitted)

    return method


def _prior(preset: TrackingPreset, options: Options) -> SourcePrior | None:
    if preset.dynamics == "linear":
        return None
    prior = load_prior(options.weights or preset.weights).to(options.device)
    if not getattr(prior, "emission", None) or not prior.emission.moves:
        raise ValueError(
            f"weights: the {preset.name} preset needs a prior that predicts increments; these "
            "predict positions. Use --preset reference for the published networks"
        )
    return prior


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
    parts = [
        track_vkf(part, number_of_sources(data, options), device=options.device)
        for part in chunks(data, options.chunk)
    ]
    mean, variance = (torch.cat(piece) for piece in zip(*(p.centres for p in parts), strict=True))
    return Tracked(centres_to_corners(mean).cpu(), corner_covariance(variance).cpu(), parts[-1])


METHODS: dict[str, Method] = {
    **{name: _mixdvae(preset) for name, preset in PRESETS.items()},
    "reference": _published(fine_tune=False),
    "reference_tuned": _published(fine_tune=True),
    "vkf": _vkf,
    "kalman": _kalman(association="iou", motion="sort"),
    "kalman_gated": _kalman(association="mahalanobis", gate=20.0, smooth=True),
    "hold": _hold,
}
BASELINES = ("kalman", "kalman_gated", "hold", "vkf")
"""Methods that need neither weights nor a choice."""
