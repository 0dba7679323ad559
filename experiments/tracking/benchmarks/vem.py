"""`pyromodels bench vem`: what `VEM.step` costs over the bare loop of updates.

`step` takes a snapshot before each update, asks what it has changed, and returns the loss, put
together from what the updates have computed on their way. The two are timed in turn.
"""

import argparse
import time
from pathlib import Path
from statistics import median

import torch

from pyromodels.experiments.datasets.tracking.scene import generate_scene
from pyromodels.experiments.harness.devices import (
    add_device_argument,
    synchronize,
    use_device,
)
from pyromodels.experiments.harness.records import write_rows
from pyromodels.experiments.tracking.methods.base import Options
from pyromodels.experiments.tracking.methods.by_name import run_method
from pyromodels.experiments.tracking.run import DEFAULT
from pyromodels.inference.mixture.updates import AssignmentUpdate, SourceUpdate, VisibilityUpdate
from pyromodels.inference.mixture.vem import VEM

BATCHES = (1, 16, 64)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--repeats", type=int, default=41)
    parser.add_argument("--num-frames", type=int, default=60)
    add_device_argument(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")


def main(args: argparse.Namespace) -> int:
    """Measure and print."""
    torch.set_num_threads(1)
    device = use_device(args.device)
    print("one sweep of VEM; milliseconds (median of interleaved runs)")
    print(f"{'batch':>8}{'bare loop':>12}{'VEM.step':>12}{'ratio':>8}")
    rows = [measure(batch, args.num_frames, args.repeats, device) for batch in BATCHES]
    for row in rows:
        bare, step = 1e3 * row["bare"], 1e3 * row["step"]
        print(f"{row['batch']:>8}{bare:>12.2f}{step:>12.2f}{row['ratio']:>8.3f}")
    if args.json:
        write_rows(args.json, rows)
    return 0


@torch.no_grad()
def measure(
    num_sequences: int, num_frames: int, repeats: int, device: torch.device
) -> dict[str, float]:
    """Seconds of a sweep, bare and through `VEM.step`, and the median of their ratios."""
    data = generate_scene(num_sequences=num_sequences, num_frames=num_frames)
    options = Options(device=str(device), chunk=num_sequences)
    fitted = run_method(DEFAULT, data, options).fitted
    updates = [SourceUpdate(), VisibilityUpdate(), AssignmentUpdate()]
    vem = VEM(fitted.model, fitted.guide, updates)

    def bare() -> None:
        for update in updates:
            update(fitted.model, fitted.guide, fitted.batch)

    seconds: dict[str, list[float]] = {"bare": [], "step": []}
    for repeat in range(repeats + 1):  # the first pays for the first call of everything
        for name, run in (("bare", bare), ("step", lambda: vem.step(fitted.batch))):
            synchronize(device)
            started = time.perf_counter()
            run()
            synchronize(device)
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    return {
        "batch": num_sequences,
        **{name: median(values) for name, values in seconds.items()},
        "ratio": median(ratios),
    }
