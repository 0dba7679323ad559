"""`pyromodels bench mot`: what the published inference costs, on random data and random weights.

Time does not depend on the values, so nothing is downloaded or trained: an SRNN of the published
sizes, T = 60, N = 3, K = 3, cascade of 20 iterations on pieces of 30 frames and then 70 iterations,
no early stop. (Of the two pieces only the first is inferred: the cascade hands on the last m of
each piece to the next, and the last piece has none.) Beside it, the default preset on a generated
scene: all its starts, to the end.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import torch

from pyromodels.dynamics.srnn import SRNN
from pyromodels.experiments.datasets.tracking.scene import generate_scene
from pyromodels.experiments.harness.devices import add_device_argument, use_device
from pyromodels.experiments.harness.records import write_rows
from pyromodels.experiments.harness.timing import Row, clock
from pyromodels.experiments.tracking.methods.base import Options
from pyromodels.experiments.tracking.methods.by_name import run_method
from pyromodels.experiments.tracking.run import DEFAULT
from pyromodels.inference.published.method import published_vem
from pyromodels.inference.published.options import PublishedOptions

PUBLISHED_SECONDS = {1: "22-36", 128: "1.6"}
"""Seconds a sequence of the authors' code, by batch size: two cores like those this was tuned on,
scaled from a part of the iterations."""

MEASURE_FOR = 3.0
"""Seconds after which a measurement is not repeated any more."""


@dataclass(frozen=True)
class Sizes:
    """What is inferred."""

    batch: int = 1
    frames: int = 60
    sources: int = 3
    observations: int = 3
    iterations: int = 70


@dataclass(frozen=True)
class Grid:
    """What is measured."""

    batches: tuple[int, ...] = (1, 16, 128, 1024)
    sweeps_up_to: int = 128
    frames: tuple[int, ...] = (30, 60, 120, 240)
    sources: tuple[int, ...] = (1, 3, 6, 12)
    observations: tuple[int, ...] = (1, 3, 6, 12)
    growth_batch: int = 16
    iterations: tuple[int, ...] = (10, 70, 490)
    repeats: int = 7


QUICK = Grid(
    batches=(1, 16),
    sweeps_up_to=1,
    frames=(30, 60),
    sources=(1, 3),
    observations=(1, 3),
    growth_batch=2,
    iterations=(10, 70),
    repeats=2,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.add_argument("--batches", type=_numbers, metavar="B,B", help="e.g. 1,16,128,1024")
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats")
    parser.add_argument("--threads", type=int, default=1, help="of torch; more do not help here")
    add_device_argument(parser)


def main(args: argparse.Namespace) -> int:
    """Measure, print the rows as they come, write them to `--json`."""
    grid = QUICK if args.quick else Grid()
    if args.batches:
        grid = replace(grid, batches=args.batches)
    device, threads = use_device(args.device), torch.get_num_threads()
    torch.set_num_threads(args.threads)
    rows = []
    try:
        print(f"MixDVAE as published, {device}, {args.threads} thread(s); seconds a sequence")
        print(f"{'':34}{'median':>10}{'min':>10}{'max':>10}{'ratio':>8}{'authors':>9}")
        for row in measurements(grid, device):
            print(_line(row), flush=True)
            rows.append({**row, "device": str(device), "threads": args.threads})
    finally:
        torch.set_num_threads(threads)
    if args.json:
        write_rows(args.json, rows)
    if device.type == "cpu":
        print("\npeak memory above the start, MB (batch 64; does not grow with the iterations)")
        for iterations in grid.iterations:
            print(f"  {iterations:>4} iterations  {peak_megabytes(iterations):6.1f}")
    return 0


def measurements(grid: Grid, device: torch.device) -> Iterator[Row]:
    """Yield the rows: batch sizes, the schedules against each other, growth in T, N and K."""
    for batch in grid.batches:
        sizes = Sizes(batch)
        row = measure("batch", sizes, grid.repeats, device)
        yield row | {"published_seconds": PUBLISHED_SECONDS.get(batch)}
        if batch <= grid.sweeps_up_to:
            others = {"sweeps / wavefront": "sweeps", f"{DEFAULT} preset": DEFAULT}
            for name, schedule in others.items():
                yield measure(name, sizes, min(3, grid.repeats), device, schedule, of=row)
    for axis in ("frames", "sources", "observations"):
        first = None
        for value in getattr(grid, axis):
            sizes = replace(Sizes(grid.growth_batch), **{axis: value})
            row = measure(f"growth in {axis}", sizes, grid.repeats, device, of=first)
            first = first or row
            yield row | {"ratio": row["ratio"] or 1.0}


def measure(
    name: str,
    sizes: Sizes,
    repeats: int,
    device: torch.device,
    schedule: str = "wavefront",
    of: Row | None = None,
) -> Row:
    """Time whole runs; seconds are a sequence's, and their ratio to those of another row."""
    _runner(replace(sizes, batch=1, iterations=1), device, schedule)()  # its first call is slow
    seconds = clock(_runner(sizes, device, schedule), device, most=repeats, enough=MEASURE_FOR)
    each = [value / sizes.batch for value in seconds]
    figures = {"median": median(each), "min": min(each), "max": max(each)}
    return {
        "name": name, "sizes": asdict(sizes), "seconds": figures, "repeats": len(each),
        "ratio": of and figures["median"] / of["seconds"]["median"], "published_seconds": None,
    }  # fmt: skip


def _runner(sizes: Sizes, device: torch.device, schedule: str) -> Callable[[], None]:
    torch.manual_seed(0)
    if schedule == DEFAULT:
        return _preset_runner(sizes, device)
    prior = SRNN().to(device)
    slots = (sizes.batch, sizes.frames, sizes.observations)
    arguments = {
        "mask": torch.rand(slots, device=device) < 0.9,
        "observation_variance": torch.full((*slots, 4), 1e-4, device=device),
        "anchor_loc": torch.rand(sizes.batch, sizes.sources, 4, device=device),
        "options": replace(PublishedOptions.REFERENCE, num_iterations=sizes.iterations),
        "schedule": schedule,
    }
    observations = torch.rand(*slots, 4, device=device)

    return lambda: published_vem(prior, observations, **arguments)


def _preset_runner(sizes: Sizes, device: torch.device) -> Callable[[], None]:
    """One run of the default preset on a generated scene: all its starts, to the end."""
    data = generate_scene(
        num_sources=sizes.sources, num_frames=sizes.frames, num_sequences=sizes.batch
    )
    options = Options(num_sources=sizes.sources, device=str(device), chunk=sizes.batch)
    return lambda: run_method(DEFAULT, data, options)


def peak_megabytes(iterations: int) -> float:
    """Peak resident memory of one run above that before it, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (iterations,))


def _peak(iterations: int) -> float:
    torch.set_num_threads(1)
    _runner(Sizes(frames=2, iterations=1), torch.device("cpu"), "wavefront")()
    run = _runner(Sizes(64, iterations=iterations), torch.device("cpu"), "wavefront")
    before = _high_water()
    run()
    return _high_water() - before


def _high_water() -> float:
    """Peak resident megabytes of this process.

    Linux: from /proc, since `getrusage` starts a spawned process from its parent's peak.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(word) for word in text.split(","))
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"given {text}; expected positive numbers, e.g. 1,16")
    return numbers


def _line(row: Row) -> str:
    what = f"{row['name']}, B={row['sizes']['batch']}"
    if row["name"].startswith("growth"):
        axis = row["name"].removeprefix("growth in ")
        what = f"{row['name']}: {row['sizes'][axis]}"
    figures = "".join(f"{row['seconds'][key]:>10.5f}" for key in ("median", "min", "max"))
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
    return f"{what:34}{figures}{ratio:>8}{row['published_seconds'] or '':>9}".rstrip()
