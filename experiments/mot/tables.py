"""`pyromodels table mot-1` ... `mot-5`: Tables 4.1-4.5 with our data beside the thesis' figures."""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path


from experiments.datasets import TrackingData
from experiments.mot.methods import METHODS, Options
from experiments.mot.report import format_table
from experiments.mot.run import load, measure
from experiments.records import open_run
from inference.seeding import seed_all

COLUMNS = ("mota", "motp", "idf1", "hota", "ids", "mt", "ml", "fp", "fn", "nees", "seconds_per_sequence")

THESIS = {
    "mot-1": {
        "T=60 ArTIST": {"mota": 63.7, "motp": 84.1, "idf1": 48.7, "ids": 86371, "mt": 4684, "ml": 0,
                        "fp": 9962, "fn": 15525},
        "T=60 VKF": {"mota": 56.0, "motp": 82.7, "idf1": 77.3, "ids": 5660, "mt": 3742, "ml": 761,
                     "fp": 64945, "fn": 64945},
        "T=60 Deep AR": {"mota": 67.4, "motp": 76.1, "idf1": 83.1, "ids": 5248, "mt": 3670, "ml": 129,
                         "fp": 49595, "fn": 49595},
        "T=60 MixDVAE": {"mota": 79.1, "motp": 81.3, "idf1": 88.4, "ids": 4966, "mt": 4370, "ml": 50,
                         "fp": 29808, "fn": 29808},
        "T=120 VKF": {"mota": 57.5, "motp": 83.3, "idf1": 77.6, "ids": 7657},
        "T=120 Deep AR": {"mota": 65.3, "motp": 76.0, "idf1": 81.8, "ids": 5387},
        "T=120 MixDVAE": {"mota": 78.6, "motp": 82.2, "idf1": 88.0, "ids": 6107},
        "T=300 VKF": {"mota": 74.4, "motp": 86.2, "idf1": 84.4, "ids": 30069},
        "T=300 Deep AR": {"mota": 75.5, "motp": 76.6, "idf1": 87.1, "ids": 26506},
        "T=300 MixDVAE": {"mota": 83.2, "motp": 82.4, "idf1": 90.0, "ids": 23081},
    },
    "mot-3": {
        "SRNN-full": {"mota": 79.1, "motp": 81.3, "idf1": 88.4, "ids": 4966},
        "SRNN-half": {"mota": 74.7, "motp": 84.4, "idf1": 86.6, "ids": 5624},
        "SRNN-quarter": {"mota": 75.2, "motp": 84.4, "idf1": 86.9, "ids": 5598},
    },
    "mot-4": {
        "T=60 tuned": {"mota": 75.1, "motp": 83.5, "idf1": 86.7, "ids": 2862},
        "T=60 not tuned": {"mota": 79.1, "motp": 81.3, "idf1": 88.4, "ids": 4966},
        "T=120 tuned": {"mota": 73.1, "motp": 84.0, "idf1": 85.9, "ids": 3044},
        "T=120 not tuned": {"mota": 78.6, "motp": 82.2, "idf1": 88.0, "ids": 6107},
        "T=300 tuned": {"mota": 65.6, "motp": 84.9, "idf1": 81.6, "ids": 8670},
        "T=300 not tuned": {"mota": 83.2, "motp": 82.4, "idf1": 90.0, "ids": 23081},
    },
    "mot-5": {
        f"r = {ratio}": {"mota": mota, "motp": motp, "idf1": idf1}
        for ratio, mota, motp, idf1 in (
            (0.01, 35.9, 84.5, 66.6), (0.02, 65.5, 84.2, 81.3), (0.03, 74.9, 83.1, 86.1),
            (0.04, 79.1, 81.3, 88.4), (0.05, 76.4, 79.2, 87.1), (0.06, 69.2, 76.9, 83.5),
            (0.07, 59.8, 74.8, 78.9), (0.08, 48.5, 73.1, 73.3),
        )
    },
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
    parser.add_argument("--data", type=Path, help="as for `run mot`; without it, generated scenes")
    parser.add_argument("--weights", help="published state dict: adds the published method's rows")
    parser.add_argument("--shuffle", action="store_true", help="shuffle detections after the first frame")
    parser.add_argument("--num-frames", type=int, default=60)
    parser.add_argument("--num-tracks", type=int, default=3)
    parser.add_argument("--num-sources", type=int)
    parser.add_argument("--sequences", type=int, help="use so many sequences, evenly spread")
    parser.add_argument("--max-seconds", type=float, default=120.0, help="training time, a network")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    seed_all(args.seed)
    spec = {key: value for key, value in vars(args).items() if key not in ("verb", "debug", "out")}
    spec["data"] = "generated" if args.data is None else str(args.data)
    folder = open_run(args.out, args.name, spec)
    figures: dict[str, float] = {}
    for data in load(args):
        if args.sequences and args.sequences < data.num_sequences:
            step = data.num_sequences / args.sequences
            data = data.subset([int(i * step) for i in range(args.sequences)])
        print(f"\n{data.name}: {data.num_sequences} sequences of {data.num_frames} frames, ours")
        rows = TABLES[args.name](data, args)
        print(format_table(rows, COLUMNS))
        figures |= {f"{data.name}/{row}/{k}": v for row, cells in rows.items() for k, v in cells.items()}
    if args.name in THESIS:
        print("\nthe thesis, on MOT17-3T with SDP detections (other data)")
        print(format_table(THESIS[args.name], COLUMNS))
    folder.write_metrics(figures)
    print(f"\nresults: {folder.path}")
    return 0


Rows = Mapping[str, Mapping[str, float]]


def methods(data: TrackingData, args: argparse.Namespace) -> Rows:
    """Table 4.1: every method."""
    names = [name for name in METHODS if not name.startswith("reference")]
    rows = {name: _measured(name, data, args) for name in names}
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
            rows[f"reference r = {ratio}"] = _measured("reference", data, args, {"noise_ratio": ratio})
        rows[f"linear r = {ratio}"] = _measured("linear", data, args, {"noise_ratio": (ratio, ratio)})
    return rows


def training_size(data: TrackingData, args: argparse.Namespace) -> Rows:
    """Tables 4.2 and 4.3: the prior trained on all, half and a quarter of the trajectories."""
    from experiments.mot.train import train_prior  # training pulls in what no other table needs

    rows = {}
    for name, fraction in FRACTIONS.items():
        trained = train_prior(fraction=fraction, seed=args.seed, max_seconds=args.max_seconds)
        rows[f"SRNN-{name}"] = {
            **_measured("srnn", data, args, weights=str(trained.weights)),
            "training": trained.training_bound,
            "validation": trained.validation_bound,
        }
    return rows


def losses(data: TrackingData, args: argparse.Namespace) -> Rows:
    """Table 4.2: minus the bound, nats a frame, beside the thesis' loss (which weighs the KL half)."""
    rows = training_size(data, args)
    for name, row in rows.items():
        thesis = THESIS_LOSSES[name]
        print(
            f"{name}: training {-row['training']:.2f}, validation {-row['validation']:.2f} nats a frame"
            f"  (thesis' loss: {thesis['training']}, {thesis['validation']})"
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
        num_sources=args.num_sources, weights=weights, device=args.device, seed=args.seed,
        changes=dict(changes or {}),
    )
    return measure(name, data, options).metrics
