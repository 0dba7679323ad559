"""`pyromodels bench tvnf`: what a training step costs, forward, backward and Adam.

1. TVNF beside an equivalent assembled from torch and zuko, and TVGMM, on the same sequences.
2. TVNF by the length of the sequences, with the growth that would be linear.
3. A bank of five classes as one batched computation, and class by class, beside one class; batch
   sizes are a class's.

Time does not depend on the values, so sequences are noise and weights are fresh. Rivals are timed
in turn, so that a busy machine slows all of them.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import pyro
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from zuko.flows import RealNVP

from pyromodels.dynamics.autoregressive import Autoregressive
from pyromodels.dynamics.tvgmm import TVGMM
from pyromodels.dynamics.tvnf import TVNF
from pyromodels.experiments.harness.timing import (
    Row,
    add_arguments,
    in_turn,
    measure,
    training_step,
)

__all__ = ["add_arguments", "main"]

DIM, PAST_DIM, HIDDEN_DIM, NUM_HIDDEN, NUM_LAYERS = 40, 64, 30, 2, 4
NUM_CLASSES = 5
FRAMES, QUICK_FRAMES = 50, 6
BATCH, QUICK_BATCH = 128, 4
LENGTHS, QUICK_LENGTHS = (25, 50, 100, 200), (5, 10)
LENGTHS_BATCH = 32
BANK_BATCHES, QUICK_BANK_BATCHES = (128, 32, 16), (4,)


class Assembled(nn.Module):
    r"""p(x) = \prod_t p(x_t | e_t) as torch and zuko have it: `nn.GRU` tells a `RealNVP`.

    As many couplings as TVNF has, twice L, each by a network of one hidden layer more than n_H,
    since the first of TVNF's takes the coordinates and e in: as many parameters, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.past = nn.GRU(DIM, PAST_DIM, batch_first=True)
        hidden = (HIDDEN_DIM,) * (NUM_HIDDEN + 1)
        self.flow = RealNVP(
            DIM, context=PAST_DIM, transforms=2 * NUM_LAYERS, hidden_features=hidden
        )

    def log_prob_by_frame(
        self,
        x: Tensor,  # shape: (B, T, D)
    ) -> Tensor:  # nats, shape: (B, T)
        """Return log p(x_t | x_<t); the first frame is told zeros."""
        e = pad(self.past(x[:, :-1])[0], (0, 0, 1, 0))
        return self.flow(e).log_prob(x)


def main(args: argparse.Namespace) -> int:
    """Measure, print the rows as they come, write them to `--json`."""
    with pyro.validation_enabled(False):
        measure(args, (beside_zuko, growth, bank))
    return 0


def beside_zuko(args: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows of TVNF, of its equivalent from zuko, and of TVGMM."""
    batch, frames = (QUICK_BATCH, QUICK_FRAMES) if args.quick else (BATCH, FRAMES)
    x = noise(batch, frames, device=args.device)
    rivals = {
        "tvnf": tvnf(),
        "zuko, RealNVP told by nn.GRU": Assembled(),
        "tvgmm, M = 1": TVGMM(source_dim=DIM, past_dim=PAST_DIM),
        "tvgmm, M = 3": TVGMM(source_dim=DIM, past_dim=PAST_DIM, num_components=3),
    }
    steps = {name: step(density, x) for name, density in rivals.items()}
    yield from in_turn(steps, args, {"batch": batch, "frames": frames, "dim": DIM})


def growth(args: argparse.Namespace) -> Iterator[Row]:
    """Yield a row for every length: its ratio to the shortest, and what would be linear."""
    batch, lengths = (QUICK_BATCH, QUICK_LENGTHS) if args.quick else (LENGTHS_BATCH, LENGTHS)
    steps = {
        f"tvnf, B = {batch}, T = {length}": step(tvnf(), noise(batch, length, device=args.device))
        for length in lengths
    }
    rows = in_turn(steps, args, {"batch": batch, "dim": DIM})
    for length, row in zip(lengths, rows, strict=True):
        sizes = {**row["sizes"], "frames": length}
        yield {**row, "sizes": sizes, "linear": length / lengths[0]}


def bank(args: argparse.Namespace) -> Iterator[Row]:
    """Yield three rows for every batch size: one class, five at once, five one by one."""
    frames = QUICK_FRAMES if args.quick else FRAMES
    for batch in QUICK_BANK_BATCHES if args.quick else BANK_BATCHES:
        x = noise(batch, NUM_CLASSES, frames, device=args.device)
        by_class = [step(tvnf(), own.contiguous()) for own in x.unbind(1)]
        steps = {
            f"one class, B = {batch}": by_class[0],
            f"five classes at once, B = {batch}": step(tvnf(num_members=NUM_CLASSES), x),
            f"five classes one by one, B = {batch}": partial(each, by_class),
        }
        yield from in_turn(steps, args, {"batch": batch, "frames": frames, "dim": DIM})


def tvnf(num_members: int = 1) -> TVNF:
    """Return fresh densities of the paper's sizes."""
    return TVNF(
        source_dim=DIM, past_dim=PAST_DIM, hidden_dim=HIDDEN_DIM, num_hidden=NUM_HIDDEN,
        num_layers=NUM_LAYERS, num_members=num_members,
    )  # fmt: skip


def noise(*shape: int, device: str) -> Tensor:  # shape: (*shape, D)
    """Return sequences of noise."""
    return torch.randn(*shape, DIM, device=device)


def step(density: Autoregressive | Assembled, x: Tensor) -> Callable[[], None]:
    """Return a training step on some sequences."""
    density.to(x.device)
    return training_step(density, partial(mean_loss, density, x))


def mean_loss(
    density: Autoregressive | Assembled,
    x: Tensor,  # shape: (B, T, D), or of a bank (B, C, T, D)
) -> Tensor:  # minus nats a sequence, summed over classes; shape: ()
    """Return what is minimised."""
    if isinstance(density, Assembled):
        return -density.log_prob_by_frame(x).sum() / len(x)
    return -density.path(x.shape[-2], batch_shape=x.shape[:-2]).log_prob(x).sum() / len(x)


def each(steps: list[Callable[[], None]]) -> None:
    """Make one step after the other."""
    for make in steps:
        make()
