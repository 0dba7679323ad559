"""`pyromodels run separation`: the shipped spec of that name, or a sound of your own taken apart.

With `--mix` files of any rate and number of channels are taken apart, each into a folder of its
own. Speech and a flute need nothing else: the network ships with the package. Of other kinds
`--recordings` holds what a network is trained on first.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from pyromodels.errors import SpecError, mismatch
from pyromodels.experiments.datasets.mixtures.files import sound_files
from pyromodels.experiments.runs.runner import add_changes, report_run, run_each
from pyromodels.experiments.runs.spec import load_spec, read_table

SPEC = "separation"
SHIPPED = {
    ("speech", "flute"): "assigner_speech_flute",
    ("speech", "noise"): "assigner_speech_noise",
    ("bass", "drums", "other"): "assigner_bass_drums_other",
}
"""Kinds, in the order that a network says them, and its weights, which ship with the package."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--mix", type=Path, metavar="PATH",
        help="a sound, or a folder of sounds (wav, flac, ogg), to be taken apart")
    add("--priors", metavar="KINDS", help="what --mix is made of (default: speech,flute)")
    add("--recordings", type=Path, metavar="DIR",
        help="a folder with a folder for each kind, with train and valid in it, to learn from")
    add_changes(parser)


def main(args: argparse.Namespace) -> int:
    """Run the spec; with `--mix` once for every file, each into a folder of its own."""
    if args.mix is None:
        for name in ("priors", "recordings"):
            if getattr(args, name) is not None:
                raise SpecError(mismatch(f"--{name}", given=getattr(args, name),
                                         expected="--mix beside it, the sound to be taken apart"))
        spec = load_spec(SPEC, settings=args.settings, seed=args.seed, device=args.device)
        return report_run(spec, args)
    return run_each(args, sound_files(args.mix), partial(table_of, args))


def table_of(args: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Return the table of the spec that the options describe, on one file.

    Raises:
        SpecError: for kinds that no network is there for, and no recordings to train one.
    """
    table = read_table(SPEC)
    said = ("speech", "flute") if args.priors is None else tuple(args.priors.split(","))
    kinds = next((known for known in SHIPPED if sorted(known) == sorted(said)), said)
    table["data"] = {"name": "mixture_files", "path": str(path), "kinds": list(kinds)}
    table["guide"] = {}
    if args.recordings is not None:
        table["data"]["recordings"] = str(args.recordings)
    elif kinds in SHIPPED:
        table["guide"]["weights"] = SHIPPED[kinds]
    else:
        known = " or ".join(",".join(names) for names in SHIPPED)
        given = f"{args.priors} without --recordings"
        expected = f"{known}, which the package knows, or --recordings DIR"
        hint = "DIR holds a folder for each kind, with train and valid in it."
        raise SpecError(mismatch("--priors", given=given, expected=expected, hint=hint))
    table["inference"] = {"start": "assigner", "steps": 0}
    table["metrics"] = {"baselines": []}
    return table
