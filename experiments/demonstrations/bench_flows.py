"""`pyromodels bench flows`: priors of raw audio and of images beside published code.

1. FloWaveNet of the paper's size: a training step, densities, and draws.
2. WaveNet: draws by queues, at a width of 32 and at 256.
3. Glow of 288 x 288, K = 4: a training step, codes, and draws.

`quoted` is what published code took, in seconds, or samples a second, on two cores of 2.5 GHz that
it had for itself; it is printed where ours is of that size.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import torch

from pyromodels.dynamics.flow_prior import FlowPrior
from pyromodels.dynamics.flowavenet import FloWaveNet
from pyromodels.dynamics.glow import Glow
from pyromodels.dynamics.wavenet import WaveNetPrior
from pyromodels.experiments.harness import timing
from pyromodels.experiments.harness.timing import Row, in_turn, measure, training_step

QUOTED = {
    "flowavenet": (10.0, 2.9, 1.06),
    "glow": (6.96, 2.75, 3.65),
}
"""Seconds of a training step, of densities or codes, and of draws."""
QUOTED_RATE = {256: 0.56}
"""Samples a second by width, a pass over the whole window for each."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    timing.add_arguments(parser)
    parser.set_defaults(repeats=1, threads=2)


def main(args: argparse.Namespace) -> int:
    """Measure, print the rows as they come, write them to `--json`."""
    measure(args, (flowavenet, wavenet, glow))
    return 0


def flowavenet(args: argparse.Namespace) -> Iterator[Row]:
    """Yield three rows: a training step of 5 x 16384 samples, their densities, a draw of 16000."""
    quick = {"num_blocks": 2, "num_flows": 1, "num_layers": 2, "width": 4}
    prior = FloWaveNet(**(quick if args.quick else FloWaveNet.presets["paper"]))
    shape = (2, 64) if args.quick else (5, 16384)
    yield from rows(prior, shape, 16 * (4 if args.quick else 1000), args)


def glow(args: argparse.Namespace) -> Iterator[Row]:
    """Yield three rows: a training step of an image, its codes, a draw."""
    size = 16 if args.quick else 288
    prior = Glow(source_dim=size, num_levels=3, num_flows=4, width=8 if args.quick else 512)
    yield from rows(prior, (1, size), size, args)


def rows(
    prior: FlowPrior, shape: tuple[int, int], num_drawn: int, args: argparse.Namespace
) -> Iterator[Row]:
    """Yield a row for each direction of a flow that a first batch has started."""
    torch.manual_seed(0)
    name, prior = type(prior).__name__.lower(), prior.to(args.device)
    s = torch.randn(*shape, prior.source_dim, device=args.device)
    prior.log_prob(s)
    runs: dict[str, Callable[[], Any]] = {
        f"{name}, training step": training_step(prior, lambda: -prior.log_prob(s).mean()),
        f"{name}, densities": torch.no_grad()(lambda: prior.log_prob(s)),
        f"{name}, a draw": lambda: prior.draw(num_drawn),
    }
    sizes = {"batch": shape[0], "frames": shape[1], "coordinates": prior.source_dim}
    for row, quoted in zip(in_turn(runs, args, sizes), QUOTED[name], strict=True):
        yield row if args.quick else {**row, "quoted": quoted}


def wavenet(args: argparse.Namespace) -> Iterator[Row]:
    """Yield a row for each width: samples a second, three blocks of ten layers."""
    for width, num_samples in ((4, 20),) if args.quick else ((32, 2000), (256, 300)):
        torch.manual_seed(0)
        layers = 2 if args.quick else 10
        prior = WaveNetPrior(width=width, num_layers=layers, num_blocks=3).to(args.device)
        path, sizes = prior.path(num_samples), {"samples": num_samples, "width": width}
        for row in in_turn({f"wavenet, width {width}, draws by queues": path.sample}, args, sizes):
            rate = {"per_second": num_samples / row["seconds"]["median"]}
            quoted = {"quoted": QUOTED_RATE[width]} if width in QUOTED_RATE else {}
            yield {**row, **rate, **quoted}
