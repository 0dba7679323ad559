"""`pyromodels bench elbo`: what it saves to hold a trajectory in one Pyro site.

One gradient of the ELBO of an SRNN: as a `DynamicalVAE` under `PathELBO`, and as the same networks
with one site for every frame under Pyro's `TraceMeanField_ELBO`. The value is the same; the two are
timed in turn, so that a busy machine slows both. Pyro's validation is off, which favours the
program with more sites.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import pyro
import torch
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.elbo import ELBOModule

from pyromodels.batch import SequenceBatch
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.srnn import SRNN
from pyromodels.experiments.demonstrations.site_a_frame import StepwiseGuide, StepwiseModel
from pyromodels.experiments.harness import timing
from pyromodels.experiments.harness.timing import Row, in_turn, measure
from pyromodels.guides.amortised import Amortised
from pyromodels.inference.objectives.path_elbo import PathELBO
from pyromodels.models.dvae import DynamicalVAE

BATCHES, QUICK_BATCHES = (1, 16, 128), (1,)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--num-frames", type=int, default=60)
    timing.add_arguments(parser)
    parser.set_defaults(repeats=21)


def main(args: argparse.Namespace) -> int:
    """Measure, print the rows as they come, write them to `--json`."""
    with pyro.settings.context(module_local_params=True), pyro.validation_enabled(False):
        measure(args, [gradients])
    return 0


def gradients(args: argparse.Namespace) -> Iterator[Row]:
    """Yield two rows for every batch size; a ratio is to the path."""
    for num_sequences in QUICK_BATCHES if args.quick else BATCHES:
        torch.manual_seed(0)
        sizes = {"batch": num_sequences, "frames": args.num_frames}
        x = 0.1 * torch.randn(num_sequences, args.num_frames, 4).cumsum(1)
        anchor = Anchor(x[:, 0], torch.full_like(x[:, 0], 1e-2))
        batch = SequenceBatch(x, torch.ones_like(x[..., 0], dtype=torch.bool), anchor)
        model, batch = DynamicalVAE(SRNN()).to(args.device), batch.to(args.device)
        stepwise = TraceMeanField_ELBO(max_plate_nesting=model.max_plate_nesting)
        losses = {
            "path": PathELBO()(model, Amortised(model)),
            "site a frame": stepwise(StepwiseModel(model), StepwiseGuide(model)),
        }
        rivals: dict[str, Callable[[], None]] = {
            f"{name}, B={num_sequences}": partial(gradient, loss, batch)
            for name, loss in losses.items()
        }
        yield from in_turn(rivals, args, sizes)


def gradient(loss: ELBOModule, batch: SequenceBatch) -> None:
    """Make one forward and backward pass."""
    loss.zero_grad(set_to_none=True)
    loss(batch).backward()
