"""Multi-object tracking as an experiment: detections in, boxes with their uncertainty out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.dynamics.base import SourcePrior
from pyromodels.errors import SpecError, mismatch
from pyromodels.experiments.datasets import DATASETS
from pyromodels.experiments.datasets.tracking.box_coordinates import (
    centres_to_corners,
    corner_covariance,
)
from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.experiments.harness.devices import use_device
from pyromodels.experiments.harness.experiment import (
    EXPERIMENTS,
    Experiment,
    Judged,
    Outcome,
    Program,
    naming,
)
from pyromodels.experiments.harness.records import RunFolder
from pyromodels.experiments.harness.spec_tables import ComponentTable, seeded
from pyromodels.experiments.metrics import tracking_metrics
from pyromodels.experiments.tracking.marginals import Marginals, marginals
from pyromodels.experiments.tracking.model_spec import ModelTable, PriorSpec
from pyromodels.experiments.tracking.setup import DTYPES, box_batch, started_guide, trained_prior
from pyromodels.experiments.tracking.table_rows import format_table
from pyromodels.experiments.tracking.tracks import write_tracks
from pyromodels.inference.engines.by_name import STEPPERS
from pyromodels.inference.engines.engine import Engine, mean_bound
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.registry import DYNAMICS, GUIDES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyromodels.experiments.runs.spec import Spec

FEATURES = ("centre x", "centre y", "width", "height")
MOST_DRAWS = 1600
"""Draws of `posterior.nc`, over all sequences; 100 each at most, 10 at least."""


class Ready(NamedTuple):
    """A fit before its first step."""

    batch: MixtureBatch
    model: MixDVAE
    engine: Engine


class Tracked(NamedTuple):
    """A fit after its last step."""

    marginals: Marginals
    boxes: Tensor  # [left, top, right, bottom], shape: (B, T, N, 4)
    covariance: Tensor | None  # of the corners, shape: (B, T, N, 4, 4); None of a point
    trace: list[Tensor]  # the mean bound of each step, nats, for every sequence, each (B,)


@EXPERIMENTS.register("tracking")
class Tracking(Experiment):
    """Multi-object tracking with MixDVAE."""

    tables = {
        "data": ComponentTable(DATASETS, {"name": "scene"}, path_means="files"),
        "model": ModelTable(),
        "guide": ComponentTable(GUIDES, {"name": "mean_field"}),
        "inference": ComponentTable(STEPPERS, {"name": "vem"}),
    }
    dtype = "float64"
    columns = {
        "mota": "MOTA",
        "idf1": "IDF1",
        "nees": "NEES",
        "bound": "bound",
        "seconds": "seconds",
    }
    footnote = (
        "mean ± standard error over seeds, every cell on the same data for the same seed; bound: "
        "nats a sequence, in closed form where q(w) and q(s)\nare factors (exact for linear "
        "dynamics; for deep ones a surrogate, without the KL over z: compare engines by it, not "
        "dynamics), else the\nengine's own estimate; of the guide `point` it is no bound but the "
        "log density at the mode, which compares with that of no other guide"
    )

    def data(self, spec: Spec) -> TrackingData:
        """Return the detections, and the truth where it is known."""
        data = DATASETS.build(seeded(DATASETS, spec.data, spec.seed))
        if not isinstance(data, TrackingData):
            expected = "detections, e.g. scene or files"
            raise SpecError(mismatch("data", given=spec.data["name"], expected=expected))
        return data

    def model(self, spec: Spec, data: TrackingData) -> Ready:
        """Return batch, program and engine, the guide at its start."""
        dtype, said = DTYPES[spec.dtype], spec.model
        device = use_device(spec.device)
        with naming("model.prior"):
            prior = build_prior(said.prior).to(device, dtype)
        batch = box_batch(
            data,
            prior,
            num_sources=said.num_sources,
            noise_ratio=said.noise_ratio,
            start_std=said.start_std,
            dtype=dtype,
            device=device,
        )
        model = MixDVAE(prior, detector=said.detector, noise_scale=said.noise_scale)
        model = model.to(device, dtype)
        with naming("guide"):
            guide = started_guide(spec.guide, model, batch, start_std=said.start_std)
        with naming("inference"):
            engine = STEPPERS.build(spec.inference, model, guide, batch)
        return Ready(batch, model, engine)

    def fit(
        self, spec: Spec, data: TrackingData, model: Ready, *, folder: Path | None, resume: bool
    ) -> Tracked:
        """Step until done."""
        batch, program, engine = model
        ascent = engine.run(batch, folder=folder, resume=resume)
        with torch.no_grad():
            found = marginals(program, engine.guide, batch)
            boxes = centres_to_corners(found.mean).to(data.detections)
            certain = (found.variance <= 0).any()  # a point has no ellipse
            covariance = None if certain else corner_covariance(found.variance).to(data.detections)
        mean_loss = [loss / batch.num_sequences for loss in ascent.losses]
        trace = [torch.full((batch.num_sequences,), -loss) for loss in mean_loss]
        return Tracked(found, boxes, covariance, trace)

    def metrics(self, outcome: Outcome) -> dict[str, float]:
        """Return bound, steps and, where the truth is known, the measures of tracking."""
        data, (batch, model, engine), tracked = outcome.data, outcome.model, outcome.fitted
        metrics = {"bound": mean_bound(model, engine, batch), "steps": len(tracked.trace)}
        metrics["seconds_per_sequence"] = outcome.seconds / batch.num_sequences
        if data.truth is not None:
            metrics |= tracking_metrics(
                data.truth, data.truth_mask, tracked.boxes, variance=tracked.covariance
            )
        return metrics

    def summary(self, outcome: Outcome) -> str:
        """Return the figures in a table, and what the fit came to."""
        data, metrics = outcome.data, outcome.metrics
        return "\n".join([
            f"{data.name}: {data.num_sequences} sequences of {data.num_frames} frames",
            format_table({outcome.spec.name: metrics}),
            f"bound {metrics['bound']:.2f} nats a sequence, {metrics['steps']} steps in "
            f"{metrics['seconds']:.2f} s",
        ])

    def keep(self, folder: RunFolder, outcome: Outcome) -> None:
        """Write tracks and posterior."""
        data, (batch, model, engine), tracked = outcome.data, outcome.model, outcome.fitted
        write_tracks(folder.path / "tracks.npz", tracked.boxes, tracked.covariance)
        Posterior.from_fitted(model, engine.guide, batch).to_netcdf(
            folder.path / "posterior.nc",
            max(10, min(100, MOST_DRAWS // batch.num_sequences)),
            trace={"inference": tracked.trace},
            batch_names=data.names,
            feature_names=FEATURES,
        )

    def figures(self, outcome: Outcome) -> dict[str, Figure]:
        """Return trajectories with ellipses, responsibilities, and the bound."""
        from pyromodels.experiments.tracking.plots import figures  # matplotlib is for runs alone

        tracked = outcome.fitted
        return figures(tracked.marginals, {"inference": tracked.trace}, outcome.data)

    def programs(self, spec: Spec, data: TrackingData, model: Ready) -> list[Program]:
        """Return model and guide."""
        program, guide, args = model.model, model.engine.guide, (model.batch,)
        return [
            Program(f"model  {type(program).__name__}", program, args),
            Program(f"guide  {type(guide).__name__}", guide, args, "q"),
        ]

    def inference(self, spec: Spec, model: Ready) -> str:
        """Return engine and steps."""
        return f"inference  {spec.inference['name']}, at most {model.engine.steps} steps"

    def python(self, spec: Spec) -> str:
        """Return constructors and a fit."""
        from pyromodels.experiments.tracking.to_python import to_python  # is for `show` alone

        return to_python(spec)

    def judged(self, spec: Spec, data: TrackingData, model: Ready) -> Judged:
        """Return a fit from the start with a seed of its own, and the batch."""

        def fit(batch: MixtureBatch, seed: int) -> Posterior:
            torch.manual_seed(seed)
            std = spec.model.start_std
            guide = started_guide(spec.guide, model.model, batch, start_std=std)
            engine = STEPPERS.build(spec.inference, model.model, guide, batch)
            engine.run(batch)
            return Posterior(model.model, engine.guide, batch)

        return Judged(fit, model.batch)


def build_prior(said: PriorSpec) -> SourcePrior:
    """Return the prior of one source, with its weights."""
    if said.trained is not None:
        return trained_prior(said.trained, said.dynamics["name"], least_std=said.least_std)
    prior = DYNAMICS.build(said.complete_dynamics)
    if not isinstance(prior, SourcePrior):
        given, expected = type(prior).__name__, "a source prior, e.g. linear"
        raise SpecError(mismatch("model.prior.dynamics", given=given, expected=expected))
    return prior
