"""log p(x given c) of labelled sequences under every class, little of it padding."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from pyromodels.distributions.path import PathDistribution
from pyromodels.labelled import LabelledSequences

FRAMES_AT_ONCE = 40_000
"""Frames whose density is computed at once where no gradient is wanted."""


class ClassDensities(Protocol):
    """p(x given c) of C classes side by side: a module whose parameters have a row for each."""

    num_members: int
    """C."""
    num_networks: int
    """Networks that train apart: C, or 1 where classes share one."""

    def path(
        self, num_steps: int, *, batch_shape: torch.Size, mask: Tensor | None = None
    ) -> PathDistribution:
        """Return the densities of sequences, classes in the last dimension of the batch."""


def class_log_prob(
    densities: ClassDensities, data: LabelledSequences
) -> Tensor:  # nats, shape: (n, C)
    """Return log p(x given c) of every sequence under every class."""
    found = data.x.new_zeros(len(data), densities.num_members)
    order = data.lengths.argsort()
    with torch.no_grad():
        for rows in _chunks(order, data.lengths[order], FRAMES_AT_ONCE // densities.num_members):
            some = data[rows]
            found[rows] = every_log_prob(densities, some.x, some.mask)
    return found


def own_log_prob(
    densities: ClassDensities,
    x: Tensor,  # of class c in column c, shape: (B, C, T, D)
    mask: Tensor,  # shape: (B, C, T)
) -> Tensor:  # nats, shape: (B, C)
    """Return log p(x given c) of sequences under their own class only."""
    return densities.path(x.shape[-2], batch_shape=x.shape[:2], mask=mask).log_prob(x)


def every_log_prob(
    densities: ClassDensities,
    x: Tensor,  # shape: (n, T, D)
    mask: Tensor,  # shape: (n, T)
) -> Tensor:  # nats, shape: (n, C)
    """Return log p(x given c) of sequences under every class."""
    shape = torch.Size((len(x), densities.num_members))
    path = densities.path(x.shape[-2], batch_shape=shape, mask=mask.unsqueeze(1))
    return path.log_prob(x.unsqueeze(1))


def own_class_log_prob(
    densities: ClassDensities, data: LabelledSequences
) -> Tensor:  # nats, shape: (n,)
    """Return log p(x given c) of every sequence, c its class.

    Raises:
        ValueError: where a class of the densities has no sequence.
    """
    if not data.labels.bincount(minlength=densities.num_members).all():
        raise ValueError("data: a class of the densities has no sequence")
    order = data.lengths.argsort()
    columns = [order[data.labels[order] == c] for c in range(densities.num_members)]
    most = max(map(len, columns))
    # classes side by side; the last of a short column is repeated, and says the same again
    grid = torch.stack([pad(c, (0, most - len(c)), value=int(c[-1])) for c in columns], 1)
    found = data.x.new_zeros(len(data))
    with torch.no_grad():
        longest = data.lengths[grid].amax(-1)
        for part in _chunks(torch.arange(most), longest, FRAMES_AT_ONCE // densities.num_members):
            rows = grid[part]
            some = data[rows.flatten()]
            x, mask = (v.unflatten(0, rows.shape) for v in (some.x, some.mask))
            found[rows.flatten()] = own_log_prob(densities, x, mask).flatten()
    return found


def _chunks(rows: Tensor, lengths: Tensor, frames: int) -> Iterator[Tensor]:
    """Cut rows into parts of so many frames, padding counted; lengths belong to the rows."""
    first, spans = 0, lengths.tolist()
    while first < len(rows):
        last, longest = first + 1, spans[first]
        while last < len(rows):
            longest = max(longest, spans[last])
            if longest * (last + 1 - first) > frames:
                break
            last += 1
        yield rows[first:last]
        first = last
