"""`pyromodels bench mot-stopping`: the time to the same accuracy, with a stopping rule.

Inference stops once no responsibility moves by more than a tolerance. Every row runs the same data
at the same batch size, in turn, and says what the rule saves and what it costs in MOTA.
"""

import argparse
import time
from pathlib import Path
from statistics import median

import torch

from pyromodels.experiments.datasets.tracking.scene import generate_scene
from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.experiments.harness.devices import add_device_argument, use_device
from pyromodels.experiments.harness.records import write_rows
from pyromodels.experiments.metrics.tracking.mot import tracking_metrics
from pyromodels.experiments.tracking.methods.base import Options, chunks
from pyromodels.experiments.tracking.methods.by_name import run_method
from pyromodels.experiments.tracking.run import DEFAULT, add_data_arguments, load
from pyromodels.experiments.tracking.stages import TUNED

TOLERANCES = (None, 0.03, 0.01, 0.003)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_data_arguments(parser)
    parser.add_argument("--weights", help="published state dict: time the published method as well")
    parser.add_argument("--sequences", type=int, default=64, help="use at most so many sequences")
    parser.add_argument("--batch", type=int, default=1, help="sequences inferred at once")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    add_device_argument(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")


def main(args: argparse.Namespace) -> int:
    """Measure and print."""
    torch.set_num_threads(1)
    use_device(args.device)
    methods = {DEFAULT: None} | ({"reference": args.weights} if args.weights else {})
    rows = []
    for data in _data(args):
        data = data.spread(args.sequences)
        print(f"\n{data.name}: {data.num_sequences} sequences, {args.batch} at once")
        print(f"{'method':<12}{'tolerance':>10}{'s a sequence':>14}{'of the whole':>14}{'MOTA':>8}")
        for name, weights in methods.items():
            for row in _measure(name, weights, data, args):
                print(
                    f"{name:<12}{row['tolerance'] or 'none':>10}{row['seconds']:>14.4f}"
                    f"{row['ratio']:>14.2f}{row['mota']:>8.2f}",
                    flush=True,
                )
                rows.append({"data": data.name, "name": name, "batch": args.batch, **row})
    if args.json:
        write_rows(args.json, rows)
    return 0


def _stopping(method: str, tolerance: float | None) -> dict[str, object]:
    """Return the changes to a method that make it stop."""
    if method != DEFAULT:
        return {"tolerance": tolerance}
    stops = {} if tolerance is None else {"tolerance": tolerance}
    return {"stages": [s | stops if s["name"] == "sweeps" else s for s in TUNED]}


def _data(args: argparse.Namespace) -> tuple[TrackingData, ...]:
    if args.data is None:
        return (generate_scene(num_sequences=args.sequences, seed=args.seed),)
    return load(args)


def _measure(
    name: str, weights: str | None, data: TrackingData, args: argparse.Namespace
) -> list[dict[str, float | None]]:
    options = {
        tolerance: Options(
            weights=weights, device=args.device, seed=args.seed, changes=_stopping(name, tolerance)
        )
        for tolerance in TOLERANCES
    }
    seconds: dict[float | None, list[float]] = {tolerance: [] for tolerance in TOLERANCES}
    boxes = {}
    for _ in range(args.repeats):  # in turn, so that a busy machine slows every rule alike
        for tolerance, option in options.items():
            started = time.perf_counter()
            parts = [run_method(name, part, option).boxes for part in chunks(data, args.batch)]
            boxes[tolerance] = torch.cat(parts)
            seconds[tolerance].append(time.perf_counter() - started)
    whole = median(seconds[None])
    return [
        {
            "tolerance": tolerance,
            "seconds": median(seconds[tolerance]) / data.num_sequences,
            "ratio": median(seconds[tolerance]) / whole,
            "mota": tracking_metrics(data.truth, data.truth_mask, boxes[tolerance])["mota"],
        }
        for tolerance in TOLERANCES
    ]
