"""`pyromodels bench vem`: what `VEM.step` costs over the bare loop of updates.

`step` takes a snapshot before each update, asks what it has changed, and returns the loss, put
together from what the updates have computed on their way. The two are timed in turn.
"""

import argparse
from collections.abc import Iterator
from functools import partial

import torch

from pyromodels.batch import MixtureBatch
from pyromodels.experiments.datasets.tracking.scene import generate_scene
from pyromodels.experiments.harness import timing
from pyromodels.experiments.harness.timing import Row, in_turn, measure
from pyromodels.experiments.tracking.methods.base import Options
from pyromodels.experiments.tracking.methods.by_name import run_method
from pyromodels.experiments.tracking.run import DEFAULT
from pyromodels.inference.mixture.updates import AssignmentUpdate, SourceUpdate, VisibilityUpdate
from pyromodels.inference.mixture.vem import VEM

BATCHES = (1, 16, 64)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--num-frames", type=int, default=60)
    timing.add_arguments(parser)
    parser.set_defaults(repeats=41)


def main(args: argparse.Namespace) -> int:
    """Measure, print the rows as they come, write them to `--json`."""
    with torch.no_grad():
        measure(args, [sweeps])
    return 0


def sweeps(args: argparse.Namespace) -> Iterator[Row]:
    """Yield two rows for every batch size: a sweep as a bare loop, and through `VEM.step`."""
    for size in BATCHES:
        data = generate_scene(num_sequences=size, num_frames=args.num_frames)
        fitted = run_method(DEFAULT, data, Options(device=args.device, chunk=size)).fitted
        updates = [SourceUpdate(), VisibilityUpdate(), AssignmentUpdate()]
        vem = VEM(fitted.model, fitted.guide, updates)
        rivals = {f"bare loop, B={size}": partial(bare, vem, fitted.batch),
                  f"VEM.step, B={size}": partial(vem.step, fitted.batch)}
        yield from in_turn(rivals, args, {"batch": size, "frames": args.num_frames})


def bare(vem: VEM, batch: MixtureBatch) -> None:
    """Make the updates of a sweep and nothing else."""
    for update in vem.updates:
        update(vem.model, vem.guide, batch)
