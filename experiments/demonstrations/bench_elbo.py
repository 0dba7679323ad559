"""`pyromodels bench elbo`: what it saves to hold a trajectory in one Pyro site.

One gradient of the ELBO of an SRNN: as a `DynamicalVAE` under `PathELBO`, and as the same networks
with one site for every frame under Pyro's `TraceMeanField_ELBO`. The value is the same; the two are
timed in turn, so that a busy machine slows both. Pyro's validation is off, which favours the
program with more sites.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pyro
import torch
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.elbo import ELBOModule

from pyromodels.batch import SequenceBatch
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.srnn import SRNN
from pyromodels.experiments.demonstrations.site_a_frame import StepwiseGuide, StepwiseModel
from pyromodels.experiments.harness.devices import (
    add_device_argument,
    synchronize,
    use_device,
)
from pyromodels.experiments.harness.records import write_rows
from pyromodels.guides.amortised import Amortised
from pyromodels.inference.objectives.path_elbo import PathELBO
from pyromodels.models.dvae import DynamicalVAE

BATCHES, QUICK_BATCHES = (1, 16, 128), (1,)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--num-frames", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--quick", action="store_true", help="one batch size, three repeats")
    parser.add_argument("--threads", type=int, default=1, help="of torch; more do not help here")
    add_device_argument(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")


def main(args: argparse.Namespace) -> int:
    """Measure, print the rows as they come, write them to `--json`."""
    batches, repeats = (QUICK_BATCHES, 3) if args.quick else (BATCHES, args.repeats)
    device, threads, rows = use_device(args.device), torch.get_num_threads(), []
    torch.set_num_threads(args.threads)
    try:
        print(f"one gradient of an SRNN's ELBO, T = {args.num_frames}; milliseconds")
        print(f"{'':24}{'median':>10}{'min':>10}{'max':>10}{'ratio':>8}")
        for num_sequences in batches:
            for row in measure(num_sequences, args.num_frames, repeats, device):
                seconds = "".join(f"{1e3 * row['seconds'][k]:>10.2f}" for k in row["seconds"])
                what = f"{row['name']}, B={num_sequences}"
                print(f"{what:24}{seconds}{row['ratio']:>8.2f}", flush=True)
                rows.append({**row, "threads": args.threads, "device": args.device})
    finally:
        torch.set_num_threads(threads)
    if args.json:
        write_rows(args.json, rows)
    return 0


def measure(
    num_sequences: int, num_frames: int, repeats: int, device: torch.device
) -> Iterator[dict[str, Any]]:
    """Yield a row for each of the two; `ratio` is its median over that of the path."""
    torch.manual_seed(0)
    x = 0.1 * torch.randn(num_sequences, num_frames, 4).cumsum(1)
    anchor = Anchor(x[:, 0], torch.full_like(x[:, 0], 1e-2))
    batch = SequenceBatch(x, torch.ones(num_sequences, num_frames, dtype=torch.bool), anchor)
    model, batch = DynamicalVAE(SRNN()).to(device), batch.to(device)
    stepwise = TraceMeanField_ELBO(max_plate_nesting=model.max_plate_nesting)
    losses = {
        "path": PathELBO()(model, Amortised(model)),
        "site a frame": stepwise(StepwiseModel(model), StepwiseGuide(model)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in losses}
    with pyro.settings.context(module_local_params=True), pyro.validation_enabled(False):
        for repeat in range(repeats + 1):  # the first pays for the first call of everything
            for name, loss in losses.items():
                elapsed = _gradient(loss, batch)
                if repeat:
                    seconds[name].append(elapsed)
    for name, values in seconds.items():
        yield {
            "name": name,
            "sizes": {"batch": num_sequences, "frames": num_frames},
            "seconds": {"median": median(values), "min": min(values), "max": max(values)},
            "ratio": median(values) / median(seconds["path"]),
        }


def _gradient(loss: ELBOModule, batch: SequenceBatch) -> float:
    """Seconds of one forward and backward pass."""
    loss.zero_grad(set_to_none=True)
    synchronize(batch.x.device)
    start = time.perf_counter()
    loss(batch).backward()
    synchronize(batch.x.device)
    return time.perf_counter() - start
