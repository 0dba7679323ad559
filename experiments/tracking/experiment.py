"""Multi-object tracking as an experiment: detections in, boxes with their uncertainty out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pyromodels.batch import MixtureBatch
from pyromodels.errors import SpecError, mismatch
from pyromodels.experiments.datasets import DATASETS
from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.experiments.harness.devices import use_device
from pyromodels.experiments.harness.experiment import (
    EXPERIMENTS,
    METHODS,
    Experiment,
    Judged,
    Outcome,
    Program,
    naming,
)
from pyromodels.experiments.harness.records import RunFolder, replacing
from pyromodels.experiments.harness.spec_tables import ComponentTable, OptionsTable, seeded
from pyromodels.experiments.tracking.inference_table import (
    TUNED_NAME,
    InferenceTable,
    chunk_of,
    described,
    is_method,
    stages_of,
)
from pyromodels.experiments.tracking.marginals import Marginals, corners_of, marginals
from pyromodels.experiments.tracking.methods.base import Options
from pyromodels.experiments.tracking.methods.by_name import (
    TrackingMetrics,
    judged_boxes,
    measured,
    run_method,
)
from pyromodels.experiments.tracking.model_spec import ModelTable
from pyromodels.experiments.tracking.setup import DTYPES, box_program, started_guide
from pyromodels.experiments.tracking.tables.rows import format_table
from pyromodels.experiments.tracking.tracker import sweeps_bar, track_in_chunks
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.engines import ENGINES
from pyromodels.inference.engines.engine import Engine, mean_bound
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.registry import GUIDES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyromodels.experiments.runs.spec import Spec

FEATURES = ("centre x", "centre y", "width", "height")
MOST_DRAWS = 1600
"""Draws of `posterior.nc`, over all sequences; 100 each at most, 10 at least."""


class Ready(NamedTuple):
    """A fit before its first step; all None of a method that brings a model of its own."""

    batch: MixtureBatch | None
    model: MixDVAE | None
    guide: nn.Module | None
    engine: Engine | None  # None also where the fit goes by stages


class Result(NamedTuple):
    """What came of it."""

    boxes: Tensor  # [left, top, right, bottom], shape: (B, T, N, 4)
    covariance: Tensor | None  # of the corners, shape: (B, T, N, 4, 4); None where none is claimed
    marginals: Marginals | None = None  # None of a method without a posterior
    posterior: Posterior | None = None  # of the first sequences
    trace: dict[str, list[Tensor]] = {}  # phase -> bounds after each step, nats, each (R * B',)
    bound: float | None = None  # nats a sequence


@EXPERIMENTS.register("tracking")
class Tracking(Experiment):
    """Multi-object tracking with MixDVAE."""

    tables = {
        "data": ComponentTable(DATASETS, {"name": "scene"}, path_means="files"),
        "model": ModelTable(),
        "guide": ComponentTable(GUIDES, {"name": "mean_field"}),
        "inference": InferenceTable(),
        "metrics": OptionsTable(TrackingMetrics),
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
        if is_method(spec.inference["name"]):
            return Ready(None, None, None, None)
        batch, model = box_program(
            data, spec.model, dtype=DTYPES[spec.dtype], device=use_device(spec.device)
        )
        if spec.inference["name"] == TUNED_NAME:
            if spec.guide != {"name": "mean_field"}:
                expected = "mean_field, without options: its stages set the factors"
                raise SpecError(mismatch("guide", given=spec.guide, expected=expected))
            return Ready(batch, model, MeanField(model, batch), None)
        with naming("guide"):
            guide = started_guide(spec.guide, model, batch, start_std=spec.model.start_std)
        with naming("inference"):
            engine = ENGINES.build(spec.inference, model, guide, batch)
        return Ready(batch, model, engine.guide, engine)

    def fit(
        self, spec: Spec, data: TrackingData, model: Ready, *, folder: Path | None, resume: bool
    ) -> Result:
        """Fit as `[inference]` says: step an engine, go by stages, or call a method."""
        name = spec.inference["name"]
        if is_method(name):
            options = Options(
                num_sources=spec.model.num_sources, device=spec.device, seed=spec.seed,
                weights=spec.model.prior.trained,
                changes={key: value for key, value in spec.inference.items() if key != "name"},
            )
            return Result(*run_method(name, data, options)[:2])
        if name == TUNED_NAME:
            return self._fit_by_stages(spec, data, model)
        batch, program, guide, engine = model
        ascent = engine.run(batch, folder=folder, resume=resume)
        mean_loss = [loss / batch.num_sequences for loss in ascent.losses]
        trace = {"inference": [torch.full((batch.num_sequences,), -loss) for loss in mean_loss]}
        found = marginals(program, guide, batch)
        posterior = Posterior(program, guide, batch)
        bound = mean_bound(program, engine, batch)
        return Result(*corners_of(found, data), found, posterior, trace, bound)

    def _fit_by_stages(self, spec: Spec, data: TrackingData, model: Ready) -> Result:
        with sweeps_bar(data.name) as tell, naming("inference"):
            first, found, elbo = track_in_chunks(
                model.model, model.batch, stages_of(spec.inference),
                chunk=chunk_of(spec.inference), start_std=spec.model.start_std, progress=tell,
            )
        posterior = Posterior(first.model, first.guide, first.batch)
        bound = elbo.mean().item()
        return Result(*corners_of(found, data), found, posterior, first.trace, bound)

    def metrics(self, outcome: Outcome) -> dict[str, float]:
        """Return bound, steps, the measures of tracking where the truth is known; baselines too."""
        data, tracked, spec = outcome.data, outcome.fitted, outcome.spec
        metrics = judged_boxes(data, tracked.boxes, tracked.covariance, outcome.seconds)
        if tracked.bound is not None:
            steps = sum(map(len, tracked.trace.values()))
            metrics = {"bound": tracked.bound, "steps": steps, **metrics}
        options = Options(
            num_sources=spec.model.num_sources, device=spec.device, seed=spec.seed
        )
        for name in spec.metrics.baselines:
            try:
                figures = measured(name, data, options)
            except ValueError as error:
                print(f"{name} left out: {error}", file=sys.stderr)
            else:
                metrics |= {f"{name}/{key}": value for key, value in figures.items()}
        return metrics

    def summary(self, outcome: Outcome) -> str:
        """Return the figures in a table, and what the fit came to."""
        data, metrics = outcome.data, outcome.metrics
        rows = {outcome.spec.name: {k: v for k, v in metrics.items() if "/" not in k}}
        for key, value in metrics.items():
            name, slash, measure = key.partition("/")
            if slash:
                rows.setdefault(name, {})[measure] = value
        lines = [
            f"{data.name}: {data.num_sequences} sequences of {data.num_frames} frames",
            format_table(rows),
        ]
        if "bound" in metrics:
            lines.append(f"bound {metrics['bound']:.2f} nats a sequence, {metrics['steps']} steps "
                         f"in {metrics['seconds']:.2f} s")
        return "\n".join(lines)

    def keep(self, folder: RunFolder, outcome: Outcome) -> None:
        """Write tracks, and the posterior of the first sequences."""
        tracked = outcome.fitted
        arrays = {"boxes": tracked.boxes.numpy()}
        if tracked.covariance is not None:
            arrays["covariance"] = tracked.covariance.numpy()
        with replacing(folder.path / "tracks.npz") as part:
            np.savez_compressed(part, **arrays)
        if tracked.posterior is None:
            return
        count = tracked.posterior.batch.num_sequences
        tracked.posterior.to_netcdf(
            folder.path / "posterior.nc",
            max(10, min(100, MOST_DRAWS // count)),
            trace=tracked.trace,
            batch_names=outcome.data.names[:count],
            feature_names=FEATURES,
        )

    def figures(self, outcome: Outcome) -> dict[str, Figure]:
        """Return trajectories with ellipses, responsibilities, and the bound."""
        from pyromodels.experiments.tracking.figures.plots import (
            figures,  # matplotlib is for runs alone
        )

        tracked = outcome.fitted
        if tracked.marginals is None:
            return {}
        first = outcome.data.subset(slice(0, tracked.posterior.batch.num_sequences))
        return figures(tracked.marginals, tracked.trace, first)

    def programs(self, spec: Spec, data: TrackingData, model: Ready) -> list[Program]:
        """Return model and guide."""
        if is_method(spec.inference["name"]):
            return []
        program, guide, args = model.model, model.guide, (model.batch,)
        return [
            Program(f"model  {type(program).__name__}", program, args),
            Program(f"guide  {type(guide).__name__}", guide, args, "q"),
        ]

    def inference(self, spec: Spec, model: Ready) -> str:
        """Return engine and steps, or the stages with their options."""
        name = spec.inference["name"]
        if model.engine is not None:
            return f"inference  {name}, at most {model.engine.options.max_steps} steps"
        if is_method(name):
            said = described(spec.inference, METHODS)
            return f"inference  {name}: a method that brings its own model\n{said}"
        lines = map(described, stages_of(spec.inference))
        return "\n".join([f"inference  {name}, {chunk_of(spec.inference)} sequences at a time",
                          *lines])

    def python(self, spec: Spec) -> str:
        """Return constructors and a fit."""
        from pyromodels.experiments.tracking.to_python import to_python  # is for `show` alone

        return to_python(spec)

    def judged(self, spec: Spec, data: TrackingData, model: Ready) -> Judged:
        """Return a fit from the start with a seed of its own, and the batch."""
        if model.engine is None:
            raise SpecError(
                f"report: inference {spec.inference['name']!r} ends with another model than it "
                "began with; the report is on one engine: --set inference=vem"
            )

        def fit(batch: MixtureBatch, seed: int) -> Posterior:
            torch.manual_seed(seed)
            std = spec.model.start_std
            guide = started_guide(spec.guide, model.model, batch, start_std=std)
            engine = ENGINES.build(spec.inference, model.model, guide, batch)
            engine.run(batch)
            return Posterior(model.model, engine.guide, batch)

        return Judged(fit, model.batch)
