"""`pyromodels run SPEC.toml`: build what a spec says, fit it, measure it, keep everything."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyromodels.batch import MixtureBatch
from pyromodels.errors import SpecError
from pyromodels.experiments.datasets.tracking.box_coordinates import (
    centres_to_corners,
    corner_covariance,
)
from pyromodels.experiments.harness.records import RunFolder, open_run
from pyromodels.experiments.metrics import tracking_metrics
from pyromodels.experiments.runs.build import Built, build
from pyromodels.experiments.runs.spec import Spec, load_spec, read_table
from pyromodels.experiments.tracking.table_rows import format_table
from pyromodels.guides.factorised import FactorisedGuide
from pyromodels.inference.engines.engine import mean_bound
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.models.mixdvae import MixDVAE

FEATURES = ("centre x", "centre y", "width", "height")
MOST_DRAWS = 1600
"""Draws of `posterior.nc`, over all sequences; 100 each at most, 10 at least."""


NUM_DRAWS = 400
"""Draws that stand for a guide without a closed form."""


class Outcome(NamedTuple):
    """A run after its last step."""

    built: Built
    metrics: dict[str, float]
    boxes: Tensor  # [left, top, right, bottom], shape: (B, T, N, 4)
    covariance: Tensor | None  # of the corners, shape: (B, T, N, 4, 4); None of a point
    trace: list[Tensor]  # the mean bound of each step, nats, for every sequence, each (B,)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("spec", help="a TOML file, or the name of a shipped spec")
    add_settings(parser)
    parser.add_argument("--seed", type=int, help="in place of the spec's")
    parser.add_argument("--out", type=Path, help="folder for the results (default: runs/...)")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Declare `--set`."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="change the spec, e.g. model.prior.dynamics.name=linear; may be repeated",
    )


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    spec = load_spec(args.spec, settings=args.settings, seed=args.seed)
    folder, outcome = run_spec(spec, args.out, resume=args.resume)
    data, metrics = outcome.built.data, outcome.metrics
    print(f"\n{data.name}: {data.num_sequences} sequences of {data.num_frames} frames")
    print(format_table({spec.name: metrics}))
    steps, seconds = metrics["steps"], metrics["seconds"]
    print(f"bound {metrics['bound']:.2f} nats a sequence, {steps} steps in {seconds:.2f} s")
    print(f"\nresults: {folder.path}")
    return 0


def run_spec(
    spec: Spec, out: Path | None = None, *, resume: bool = False
) -> tuple[RunFolder, Outcome]:
    """Build, fit, measure and keep a run; nothing is written before it can be built.

    Args:
        spec: what to run.
        out: folder for the results; None for `runs/<name>-<hash of the spec>`.
        resume: go on from the folder's last checkpoint, where there is one.

    Raises:
        SpecError: where the parts of the spec do not fit each other, or `resume` is asked for in
            the folder of another spec.
        OSError: where data or weights are missing.
    """
    built = build(spec)
    if resume and out is not None:
        _check_same(Path(out) / "spec.toml", spec)
    folder = open_run(out, spec.name, spec.to_table())
    outcome = fit(built, folder=folder.path / "checkpoints", resume=resume)
    _keep(folder, outcome)
    return folder, outcome


def _check_same(path: Path, spec: Spec) -> None:
    """Raise `SpecError` where a folder holds the run of another spec."""
    if not path.is_file():
        return
    held, wanted = (_flat(table) for table in (read_table(path), spec.to_table()))
    for key in sorted(held.keys() | wanted.keys()):
        if held.get(key) != wanted.get(key):
            given = f"{key} = {wanted.get(key)!r}"
            raise SpecError(
                f"--resume: {given}, but {path} has {held.get(key)!r}; resume with the same spec, "
                "or choose another folder"
            )


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys; the run's name is not compared."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" != "name":
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def fit(built: Built, *, folder: Path | None = None, resume: bool = False) -> Outcome:
    """Step until done and measure; `seconds` are those of the steps of this call."""
    started = time.perf_counter()
    ascent = built.engine.run(built.batch, folder=folder, resume=resume)
    seconds = time.perf_counter() - started
    model, guide, batch, data = built.model, built.engine.guide, built.batch, built.data
    with torch.no_grad():
        mean, variance = _centres(model, guide, batch)
        boxes = centres_to_corners(mean).to(data.detections)
        certain = (variance <= 0).any()  # a point has no ellipse
        covariance = None if certain else corner_covariance(variance).to(data.detections)
    metrics = {"bound": mean_bound(model, built.engine, batch), "steps": len(ascent.losses)}
    metrics["seconds"] = seconds
    metrics["seconds_per_sequence"] = seconds / batch.num_sequences
    if data.truth is not None:
        metrics |= tracking_metrics(data.truth, data.truth_mask, boxes, variance=covariance)
    mean_loss = [loss / batch.num_sequences for loss in ascent.losses]
    trace = [torch.full((batch.num_sequences,), -loss) for loss in mean_loss]
    return Outcome(built, metrics, boxes, covariance, trace)


def _centres(model: MixDVAE, guide: nn.Module, batch: MixtureBatch) -> tuple[Tensor, Tensor]:
    """Mean and variance of (centre x, centre y, width, height), each (B, T, N, 4).

    In closed form where the guide holds q(s), else from draws.
    """
    if isinstance(guide, FactorisedGuide):
        mean, variance = guide.sources.loc, guide.sources.variance
    else:
        draws = Posterior(model, guide, batch).sample(NUM_DRAWS)["s"]
        mean, variance = draws.mean(0), draws.var(0)
    step = model.prior.block_dim
    return mean[..., ::step].transpose(1, 2), variance[..., ::step].transpose(1, 2)


def _keep(folder: RunFolder, outcome: Outcome) -> None:
    """Write metrics, tracks and posterior."""
    from pyromodels.experiments.tracking.methods import (
        Tracked,  # draws in every method of the tables
    )
    from pyromodels.experiments.tracking.run import write_tracks

    data, batch, model, engine = outcome.built
    write_tracks(folder.path / "tracks.npz", Tracked(outcome.boxes, outcome.covariance))
    Posterior.from_fitted(model, engine.guide, batch).to_netcdf(
        folder.path / "posterior.nc",
        max(10, min(100, MOST_DRAWS // batch.num_sequences)),
        trace={"inference": outcome.trace},
        batch_names=data.names,
        feature_names=FEATURES,
    )
    folder.write_metrics(outcome.metrics)
