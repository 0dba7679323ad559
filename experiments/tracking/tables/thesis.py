"""`pyromodels table mot-1` ... `mot-5`: Tables 4.1-4.5 with our data beside the thesis' figures."""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.experiments.harness.devices import add_device_argument, use_device
from pyromodels.experiments.harness.records import open_run, spec_of
from pyromodels.experiments.tracking.methods.base import Options
from pyromodels.experiments.tracking.methods.by_name import BASELINES, PRESETS, measured
from pyromodels.experiments.tracking.run import add_data_arguments, load
from pyromodels.experiments.tracking.tables.rows import format_table
from pyromodels.inference.training.seeding import seed_all

COLUMNS = ("mota", "motp", "idf1", "hota", "ids", "mt", "ml", "fp", "fn", "nees", "coverage95")

_MEASURES = ("mota", "motp", "idf1", "ids", "mt", "ml", "fp", "fn")


def _rows(*rows: tuple[object, ...]) -> dict[str, dict[str, float]]:
    """Name the figures of rows (label, MOTA, MOTP, IDF1, IDS, MT, ML, FP, FN)."""
    return {str(label): dict(zip(_MEASURES, cells, strict=False)) for label, *cells in rows}


THESIS = {
    "mot-1": _rows(
        ("T=60 ArTIST", 63.7, 84.1, 48.7, 86371, 4684, 0, 9962, 15525),
        ("T=60 VKF", 56.0, 82.7, 77.3, 5660, 3742, 761, 64945, 64945),
        ("T=60 Deep AR", 67.4, 76.1, 83.1, 5248, 3670, 129, 49595, 49595),
        ("T=60 MixDVAE", 79.1, 81.3, 88.4, 4966, 4370, 50, 29808, 29808),
        ("T=120 ArTIST", 61.0, 84.2, 43.9, 102978, 2943, 0, 25388, 34812),
        ("T=120 VKF", 57.5, 83.3, 77.6, 7657, 2563, 487, 85053, 85053),
        ("T=120 Deep AR", 65.3, 76.0, 81.8, 5387, 2435, 149, 71775, 71775),
        ("T=120 MixDVAE", 78.6, 82.2, 88.0, 6107, 2907, 120, 41747, 41747),
        ("T=300 ArTIST", 53.5, 84.5, 40.7, 205263, 2513, 4, 135401, 135401),
        ("T=300 VKF", 74.4, 86.2, 84.4, 30069, 2756, 100, 116160, 116160),
        ("T=300 Deep AR", 75.5, 76.6, 87.1, 26506, 2555, 18, 123262, 123262),
        ("T=300 MixDVAE", 83.2, 82.4, 90.0, 23081, 2890, 12, 74550, 74550),
    ),
    "mot-3": _rows(
        ("SRNN-full", 79.1, 81.3, 88.4, 4966, 4370, 50, 29808, 29808),
        ("SRNN-half", 74.7, 84.4, 86.6, 5624, 4039, 94, 38153, 38153),
        ("SRNN-quarter", 75.2, 84.4, 86.9, 5598, 4040, 91, 37443, 37443),
    ),
    "mot-4": _rows(
        ("T=60 tuned", 75.1, 83.5, 86.7, 2862, 4067, 64, 36990, 36990),
        ("T=60 not tuned", 79.1, 81.3, 88.4, 4966, 4370, 50, 29808, 29808),
        ("T=120 tuned", 73.1, 84.0, 85.9, 3044, 2705, 136, 54604, 54604),
        ("T=120 not tuned", 78.6, 82.2, 88.0, 6107, 2907, 120, 41747, 41747),
        ("T=300 tuned", 65.6, 84.9, 81.6, 8670, 2286, 67, 171515, 171515),
        ("T=300 not tuned", 83.2, 82.4, 90.0, 23081, 2890, 12, 74550, 74550),
    ),
    "mot-5": _rows(
        ("r = 0.01", 35.9, 84.5, 66.6, 4914, 2946, 916, 96438, 96438),
        ("r = 0.02", 65.5, 84.2, 81.3, 5319, 3932, 407, 50596, 50596),
        ("r = 0.03", 74.9, 83.1, 86.1, 5088, 4232, 158, 36165, 36165),
        ("r = 0.04", 79.1, 81.3, 88.4, 4966, 4370, 50, 29808, 29808),
        ("r = 0.05", 76.4, 79.2, 87.1, 4982, 4268, 42, 33924, 33924),
        ("r = 0.06", 69.2, 76.9, 83.5, 5297, 3978, 73, 44793, 44793),
        ("r = 0.07", 59.8, 74.8, 78.9, 5146, 3688, 188, 59348, 59348),
        ("r = 0.08", 48.5, 73.1, 73.3, 5097, 3303, 337, 76865, 76865),
    ),
}
"""Figures of the thesis (MOT17-3T, detector SDP), as printed there."""

THESIS_LOSSES = {
    "SRNN-full": {"training": -40.77, "validation": -40.15},
    "SRNN-half": {"training": -39.36, "validation": -38.86},
    "SRNN-quarter": {"training": -36.55, "validation": -35.27},
}
"""Table 4.2."""

FRACTIONS = {"full": 1.0, "half": 0.5, "quarter": 0.25}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_data_arguments(parser)
    parser.add_argument("--weights", help="published state dict: adds the published method's rows")
    parser.add_argument("--num-sources", type=int)
    parser.add_argument("--sequences", type=int, help="use so many sequences, evenly spread")
    parser.add_argument("--max-seconds", type=float, default=120.0, help="training time, a network")
    add_device_argument(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    use_device(args.device)
    seed_all(args.seed)
    folder = open_run(args.out, args.name, spec_of(args))
    figures: dict[str, float] = {}
    for data in load(args):
        data = data.spread(args.sequences)
        print(f"\n{data.name}: {data.num_sequences} sequences of {data.num_frames} frames, ours")
        rows = TABLES[args.name](data, args)
        print(format_table(rows, COLUMNS))
        figures |= {
            f"{data.name}/{row}/{k}": v for row, cells in rows.items() for k, v in cells.items()
        }
    if args.name in THESIS:
        print("\nthe thesis, on MOT17-3T with SDP detections (other data)")
        print(format_table(THESIS[args.name], COLUMNS))
    folder.write_metrics(figures)
    print(f"\nresults: {folder.path}")
    return 0


Rows = Mapping[str, Mapping[str, float]]


def methods(data: TrackingData, args: argparse.Namespace) -> Rows:
    """Table 4.1: every method."""
    rows = {name: _measured(name, data, args) for name in (*PRESETS, *BASELINES)}
    if args.weights:
        rows["reference"] = _measured("reference", data, args)
    else:
        print("(no --weights: the published method is left out)", file=sys.stderr)
    return rows


def fine_tuning(data: TrackingData, args: argparse.Namespace) -> Rows:
    """Table 4.4: the published method with and without fine-tuning."""
    if not args.weights:
        raise ValueError("table mot-4: needs the published networks; pass --weights")
    return {name: _measured(name, data, args) for name in ("reference_tuned", "reference")}


def noise_ratio(data: TrackingData, args: argparse.Namespace) -> Rows:
    """Table 4.5: the observation noise ratio r_Phi."""
    ratios = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08)
    rows = {}
    for ratio in ratios:
        if args.weights:
            rows[f"reference r = {ratio}"] = _measured(
                "reference", data, args, {"noise_ratio": ratio}
            )
        rows[f"linear r = {ratio}"] = _measured(
            "linear", data, args, {"noise_ratio": (ratio, ratio)}
        )
    return rows


def training_size(data: TrackingData, args: argparse.Namespace) -> Rows:
    """Tables 4.2 and 4.3: the prior trained on all, half and a quarter of the trajectories."""
    from pyromodels.experiments.tracking.training.train import (
        TrainingSpec,  # training pulls in what no other table needs
        trained_prior,
    )

    rows = {}
    for name, fraction in FRACTIONS.items():
        trained = trained_prior(TrainingSpec(fraction=fraction, seed=args.seed),
                                max_seconds=args.max_seconds, device=args.device)
        found = trained.record["metrics"]
        rows[f"SRNN-{name}"] = {
            **_measured("srnn", data, args, weights=str(trained.folder)),
            "training": found["train_bound_nats_per_frame"],
            "validation": found["bound_nats_per_frame"],
        }
    return rows


def losses(data: TrackingData, args: argparse.Namespace) -> Rows:
    """Table 4.2: minus the bound, nats a frame; the thesis' loss weighs the KL half."""
    rows = training_size(data, args)
    for name, row in rows.items():
        thesis = THESIS_LOSSES[name]
        print(
            f"{name}: training {-row['training']:.2f}, validation {-row['validation']:.2f} "
            f"nats a frame (thesis' loss: {thesis['training']}, {thesis['validation']})"
        )
    return rows


TABLES: dict[str, Callable[[TrackingData, argparse.Namespace], Rows]] = {
    "mot-1": methods,
    "mot-2": losses,
    "mot-3": training_size,
    "mot-4": fine_tuning,
    "mot-5": noise_ratio,
}


def _measured(
    name: str,
    data: TrackingData,
    args: argparse.Namespace,
    changes: Mapping[str, object] | None = None,
    weights: str | None = None,
) -> dict[str, float]:
    weights = weights or (args.weights if name.startswith("reference") else None)
    options = Options(
        num_sources=args.num_sources,
        weights=weights,
        device=args.device,
        seed=args.seed,
        changes=dict(changes or {}),
    )
    return measured(name, data, options)
