"""`pyromodels run mot`: track, measure, draw, and keep everything."""

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pyromodels.experiments.datasets.tracking.files import load_tracking
from pyromodels.experiments.datasets.tracking.scene import generate_scene
from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.experiments.harness.devices import add_device_argument, use_device
from pyromodels.experiments.harness.figures import save
from pyromodels.experiments.harness.records import RunFolder, open_run, spec_of
from pyromodels.experiments.metrics import tracking_metrics
from pyromodels.experiments.tracking.marginals import marginals
from pyromodels.experiments.tracking.methods import BASELINES, METHODS, Options, Tracked, run_method
from pyromodels.experiments.tracking.plots import figures
from pyromodels.experiments.tracking.presets import DEFAULT, PRESETS
from pyromodels.experiments.tracking.table_rows import format_table
from pyromodels.experiments.tracking.tracks import write_tracks
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.inference.training.progress import progress
from pyromodels.inference.training.seeding import seed_all

SCENE_SEQUENCES = 8
"""Sequences of the generated scene."""

FEATURES = ("centre x", "centre y", "width", "height")


class Measured(NamedTuple):
    """One method on one data set."""

    metrics: dict[str, float]
    tracked: Tracked
    seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    names = ", ".join(METHODS)
    parser.add_argument(
        "--data",
        type=Path,
        help="MOTChallenge folder, .npz, or folder of .npz; without it a scene is generated",
    )
    parser.add_argument("--preset", default=DEFAULT, help=f"{names} (default: {DEFAULT})")
    parser.add_argument("--weights", help="of a deep prior: a shipped name or a file")
    parser.add_argument(
        "--shuffle",
        action="store_true",
        help="shuffle the detections of every frame after the first",
    )
    parser.add_argument(
        "--num-sources",
        type=int,
        help="objects to track (default: as many as the "
        "truth has, else as the first frame has detections)",
    )
    parser.add_argument("--num-frames", type=int, default=60, help="window length T")
    parser.add_argument(
        "--num-tracks", type=int, default=3, help="tracks a window, MOTChallenge folders"
    )
    parser.add_argument(
        "--baselines",
        nargs="*",
        default=list(BASELINES),
        metavar="NAME",
        help="methods to print beside it (default: %(default)s)",
    )
    add_device_argument(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for the results (default: runs/...)")
    parser.add_argument("--no-plots", action="store_true", help="write no figures")


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    use_device(args.device)
    seed_all(args.seed)
    for name in (args.preset, *args.baselines):
        if name not in METHODS:
            run_method(name, None)  # raises, with the nearest name
    spec = spec_of(args)
    if args.preset in PRESETS:
        spec["method"] = dataclasses.asdict(PRESETS[args.preset])
    folder = open_run(args.out, "mot", spec)
    datasets = load(args)
    numbers: dict[str, float] = {}
    for data in datasets:
        prefix = "" if len(datasets) == 1 else f"{data.name}/"
        rows = measure_all(data, args)
        for name, row in rows.items():
            inner = "" if name == args.preset else f"{name}/"
            numbers |= {f"{prefix}{inner}{key}": value for key, value in row.metrics.items()}
        print(f"\n{data.name}: {data.num_sequences} sequences of {data.num_frames} frames")
        print(format_table({name: row.metrics for name, row in rows.items()}))
        keep(folder, prefix, data, rows[args.preset], args)
    folder.write_metrics(numbers)
    print(f"\nresults: {folder.path}")
    return 0


def load(args: argparse.Namespace) -> tuple[TrackingData, ...]:
    """Load the data, or generate a scene; shuffled where the options say so."""
    if args.data is None:
        datasets = (generate_scene(num_sequences=SCENE_SEQUENCES, seed=args.seed),)
    else:
        datasets = load_tracking(
            args.data, num_frames=args.num_frames, num_tracks=args.num_tracks, seed=args.seed
        )
    if not args.shuffle:
        return datasets
    generator = torch.Generator().manual_seed(args.seed)
    return tuple(data.shuffled(generator) for data in datasets)


def measure_all(data: TrackingData, args: argparse.Namespace) -> dict[str, Measured]:
    """Run the preset and the baselines on one data set; a baseline that cannot start is told."""
    options = options_from(args)
    bare = dataclasses.replace(options, weights=None)
    rows = {args.preset: measure(args.preset, data, options)}
    for name in args.baselines:
        if name == args.preset:
            continue
        try:
            rows[name] = measure(name, data, bare)
        except ValueError as error:
            print(f"{name} left out: {error}", file=sys.stderr)
    return rows


def options_from(args: argparse.Namespace) -> Options:
    """Return what the command line says to a method."""
    return Options(
        num_sources=args.num_sources, weights=args.weights, device=args.device, seed=args.seed
    )


def measure(name: str, data: TrackingData, options: Options) -> Measured:
    """Run one method, with a progress bar where somebody is looking."""
    with progress(desc=f"{data.name} {name}", unit="sweep") as bar:

        def report(phase: str, sweep: int, elbo: Tensor) -> None:
            bar.set_postfix_str(f"{phase}, bound {elbo.mean():.1f} nats", refresh=False)
            bar.update()

        started = time.perf_counter()
        tracked = run_method(name, data, dataclasses.replace(options, progress=report))
        seconds = time.perf_counter() - started
    metrics = {"seconds_per_sequence": seconds / data.num_sequences}
    if data.truth is not None:
        metrics |= tracking_metrics(
            data.truth, data.truth_mask, tracked.boxes, variance=tracked.covariance
        )
    return Measured(metrics, tracked, seconds)


def keep(
    folder: RunFolder, prefix: str, data: TrackingData, row: Measured, args: argparse.Namespace
) -> None:
    """Write the tracks, the posterior of the first sequences and the figures."""
    target = folder.path / prefix if prefix else folder.path
    target.mkdir(parents=True, exist_ok=True)
    write_tracks(target / "tracks.npz", row.tracked.boxes, row.tracked.covariance)
    if args.preset not in PRESETS:
        return
    head = data.subset(slice(0, 1 if args.data is not None else SCENE_SEQUENCES))
    trace: dict[str, list[Tensor]] = {}
    options = dataclasses.replace(
        options_from(args),
        progress=lambda phase, sweep, elbo: trace.setdefault(phase, []).append(elbo.cpu()),
    )
    fitted = run_method(args.preset, head, options).fitted
    posterior = Posterior.from_fitted(fitted.model, fitted.guide, fitted.batch)
    names = dict(batch_names=head.names, feature_names=FEATURES)
    posterior.to_netcdf(target / "posterior.nc", trace=trace, **names)
    if not args.no_plots:
        found = marginals(fitted.model, fitted.guide, fitted.batch)
        for name, figure in figures(found, trace, head).items():
            save(figure, target / f"{name}.png")
