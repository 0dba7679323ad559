"""`pyromodels run mot`: the tuned tracker's specs, changed by a few friendly options."""

import argparse
from pathlib import Path
from typing import Any

from pyromodels.errors import SpecError, unknown
from pyromodels.experiments.datasets.tracking.files import data_sets
from pyromodels.experiments.datasets.tracking.scene import generate_scene
from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.experiments.harness.devices import add_device_argument
from pyromodels.experiments.harness.experiment import METHODS
from pyromodels.experiments.runs.runner import add_results, report_run
from pyromodels.experiments.runs.spec import make_spec, read_table
from pyromodels.experiments.tracking.methods.by_name import BASELINES

SPECS = {"linear": "tracking", "srnn": "tracking_srnn", "deep_ar": "tracking_deep_ar"}
"""Preset -> the shipped spec that it is; the other presets are methods without a model of ours."""
DEFAULT = "linear"
SCENE_SEQUENCES = 8
"""Sequences of the scene of `tracking.toml`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_data_arguments(parser)
    names = ", ".join([*SPECS, *METHODS])
    parser.add_argument("--preset", default=DEFAULT, help=f"{names} (default: {DEFAULT})")
    parser.add_argument("--weights", help="of a deep prior: a shipped name or a file")
    parser.add_argument(
        "--num-sources",
        type=int,
        help="objects to track (default: as many as the "
        "truth has, else as the first frame has detections)",
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
    add_results(parser)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that choose the detections."""
    parser.add_argument(
        "--data",
        type=Path,
        help="MOTChallenge folder, .npz, or folder of .npz; without it a scene is generated",
    )
    parser.add_argument(
        "--shuffle",
        action="store_true",
        help="shuffle the detections of every frame after the first, as a scene's are anyway",
    )
    parser.add_argument("--num-frames", type=int, default=60, help="window length T")
    parser.add_argument(
        "--num-tracks", type=int, default=3, help="tracks a window, MOTChallenge folders"
    )


def main(args: argparse.Namespace) -> int:
    """Run the spec on every data set there is; of several each has a folder of its own."""
    sources = [None] if args.data is None else data_sets(args.data)
    specs = [make_spec(table_of(args, path), [], args.seed, args.device) for path in sources]
    for path, spec in zip(sources, specs, strict=True):
        out = args.out
        if len(sources) > 1 and out is not None:
            out = out / path.stem
        report_run(spec, argparse.Namespace(**vars(args) | {"out": out}))
    return 0


def table_of(args: argparse.Namespace, path: Path | None) -> dict[str, Any]:
    """Return the table of the spec that the options describe, on one data set.

    Raises:
        SpecError: an unknown preset.
    """
    preset = args.preset
    if preset not in SPECS and preset not in METHODS:
        raise SpecError(unknown("preset", given=preset, known=[*SPECS, *METHODS]))
    table = read_table(SPECS.get(preset, SPECS[DEFAULT]))
    if path is not None:
        table["data"] = {
            "name": "files", "path": str(path), "num_frames": args.num_frames,
            "num_tracks": args.num_tracks, "shuffle": args.shuffle,
        }
    model = table["model"] = dict(table.get("model", {}))
    if args.num_sources is not None:
        model["num_sources"] = args.num_sources
    if args.weights is not None and preset != DEFAULT:
        prior = model["prior"] if preset in SPECS else {"dynamics": "srnn"}
        model["prior"] = {**prior, "weights": args.weights}
    if preset in METHODS:
        table |= {"name": preset, "inference": {"name": preset}}
    table["metrics"] = {"baselines": [name for name in args.baselines if name != preset]}
    return table


def load(args: argparse.Namespace) -> list[TrackingData]:
    """Return the data sets of `add_data_arguments`, or a generated scene, for the tables."""
    from pyromodels.experiments.datasets.tracking.files import load_files

    if args.data is None:
        return [generate_scene(num_sequences=SCENE_SEQUENCES, seed=args.seed)]
    options = {key: getattr(args, key) for key in ("num_frames", "num_tracks", "shuffle", "seed")}
    return [load_files(path=str(path), **options) for path in data_sets(args.data)]
