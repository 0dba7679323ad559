"""Guides whose factors are held in buffers, for closed-form updates to set one after the other."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from pyromodels.guides.base import Guide


class FreeForm(Guide, ABC):
    """What coordinate ascent asks of a guide: to tell its factors apart, and keep those of before.

    Each factor is an attribute that an update may set. Setting it replaces its buffers, and never
    writes into them, so that a snapshot copies nothing. Every buffer has a row for each sequence.
    """

    factors: ClassVar[Mapping[str, str]]
    """Factor -> a buffer that is replaced whenever the factor is set."""

    @abstractmethod
    def between(self, factor: str, old: Any, new: Any, rate: float) -> Any:  # noqa: ANN401
        """Return old^(1 - rate) new^rate of a factor, normalised: part of the way from old to new.

        In an exponential family it is the straight line between natural parameters.
        """

    def distance(self, other: Self) -> Tensor:
        """Return by how much the guide differs from another, a number that goes to zero."""
        mine, theirs = self._buffers, other._buffers
        return torch.stack([(mine[name] - theirs[name]).abs().max() for name in mine]).max()

    def snapshot(self) -> Self:
        """Return the guide as it is now; updates replace tensors, so none is copied."""
        twin = copy.copy(self)
        twin._buffers = dict(self._buffers)
        return twin

    def changed_since(self, before: Self) -> set[str]:
        """Return which factors have been set since a snapshot."""
        return {
            factor
            for factor, name in self.factors.items()
            if self._buffers.get(name) is not before._buffers.get(name)
        }

    def damp(self, before: Self, rate: float) -> None:
        """Take back part of what has been done since a snapshot, factor by factor."""
        for factor in self.changed_since(before):
            old, new = getattr(before, factor), getattr(self, factor)
            setattr(self, factor, self.between(factor, old, new, rate))

    def rows(self, index: Tensor) -> Self:
        """Return a guide of some sequences, shape of `index` (B',), for updates to change."""
        part = self.snapshot()
        for name, value in self._buffers.items():
            part._buffers[name] = value[index]
        return part

    def keep(self, index: Tensor) -> None:
        """Let go of all sequences but some, shape of `index` (B',)."""
        for name, value in self._buffers.items():
            setattr(self, name, value[index])

    def put(self, index: Tensor, part: Self) -> None:
        """Take over the factors of some sequences, as `rows` returned them."""
        for name, value in self._buffers.items():
            setattr(self, name, value.index_copy(0, index, part._buffers[name]))
