"""What a model is given: tensors, masks and the start of every trajectory."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from pyromodels.distributions.message import Anchor
from pyromodels.errors import ShapeError, mismatch, misshapen


class _Sizes:
    """Sizes of a batch whose mask has sequences and frames first."""

    mask: Tensor

    @property
    def num_sequences(self) -> int:
        """B."""
        return self.mask.shape[0]

    @property
    def num_frames(self) -> int:
        """T."""
        return self.mask.shape[1]


@dataclass(frozen=True)
class SequenceBatch(_Sizes):
    """One observed trajectory for each of B sequences, T frames.

    Whatever stands in masked frames, NaN included, is replaced by zero.

    Args:
        x: shape (B, T, X).
        mask: True where a frame is there, shape (B, T).
        anchor: p(x_1), fields of shape (B, X); None for models that have a law of x_1 of their own.

    Raises:
        ShapeError: where the shapes do not fit each other.
        ValueError: where a frame that counts is not finite.

    Example:
        >>> x = torch.tensor([[[0.1], [0.2], [float("nan")]]])
        >>> SequenceBatch(x, torch.tensor([[True, True, False]])).x.flatten()
        tensor([0.1000, 0.2000, 0.0000])
    """

    x: Tensor
    mask: Tensor
    anchor: Anchor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.x.shape)
        if len(shape) != 3:
            raise misshapen("x", shape, "(B, T, X)")
        if self.mask.shape != shape[:2]:
            raise misshapen("mask", self.mask.shape, shape[:2])
        if self.anchor is not None:
            if any(part.shape != (shape[0], shape[2]) for part in self.anchor):
                raise _unfit(self.anchor, f"({shape[0]}, {shape[2]})")
        if not torch.isfinite(self.x[self.mask]).all():
            raise ValueError("x: NaN or infinite where mask is True; mask such frames out")
        # what is masked must not reach a sum, and zero times NaN is NaN
        object.__setattr__(self, "x", self.x.masked_fill(~self.mask.unsqueeze(-1), 0.0))

    @classmethod
    def of_checked(
        cls,
        x: Tensor,  # shape: (B, T, X)
        mask: Tensor,  # without a gap, shape: (B, T)
    ) -> "SequenceBatch":
        """Return some sequences of data that was checked as a whole; asks the device nothing.

        A check waits for the device, in every step of a training where it is one of a minibatch.
        """
        batch = object.__new__(cls)
        held = x.masked_fill(~mask.unsqueeze(-1), 0.0)
        for name, value in {"x": held, "mask": mask, "anchor": None, "has_gaps": False}.items():
            object.__setattr__(batch, name, value)
        return batch

    @cached_property
    def has_gaps(self) -> bool:
        """Whether a frame is there after one that is not: padding at the end is no gap."""
        return bool((self.mask[:, 1:] & ~self.mask[:, :-1]).any())

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "SequenceBatch":
        """Return the batch on another device, and its numbers in another dtype."""
        anchor = self.anchor and Anchor(*(part.to(device, dtype) for part in self.anchor))
        return SequenceBatch(self.x.to(device, dtype), self.mask.to(device), anchor)


@dataclass(frozen=True)
class MixtureBatch(_Sizes):
    """Observations of B sequences, T frames of up to K each, and where N sources start.

    Missing observations and padding are mask; whatever stands in their place, NaN included, is
    replaced (o = 0, Phi = 1). A sequence shorter than T is one whose last frames hold no
    observation: that leaves the posterior of the others as it is, except that a model with a
    detector reads an empty frame as one in which every source was missed.

    Args:
        observations: o, shape (B, T, K, X). K = 0 becomes one empty slot: Pyro has no plate of
            size zero.
        mask: True where an observation is there, shape (B, T, K).
        variance: diagonal of the observation covariance Phi, shape (B, T, K, X), squared units of
            o.
        anchor: p(s_1), fields of shape (B, N, D); None for priors that have a law of s_1 of their
            own.
        index: which sequences of the whole data these are, shape (B,), where the batch is a
            minibatch; a guide keeps factors for every sequence of the data. None: all of them.
        num_sources: N; None: that of the anchor.

    Raises:
        ShapeError: where the shapes do not fit each other.
        ValueError: where an observation that counts, or its variance, is not finite (and positive).
    """

    observations: Tensor
    mask: Tensor
    variance: Tensor
    anchor: Anchor | None
    index: Tensor | None = None
    num_sources: int | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.observations.shape)
        if len(shape) != 4:
            raise misshapen("observations", shape, "(B, T, K, X)")
        for name, wanted in (("mask", shape[:3]), ("variance", shape)):
            given = getattr(self, name).shape
            if given != wanted:
                raise misshapen(name, given, wanted)
        self._count_sources()
        seen = self.mask
        if not torch.isfinite(self.observations[seen]).all():
            raise ValueError(
                "observations: NaN or infinite where mask is True; mask such entries out"
            )
        if not (torch.isfinite(self.variance[seen]) & (self.variance[seen] > 0)).all():
            raise ValueError("variance: not finite and positive where mask is True")
        if shape[2] == 0:
            object.__setattr__(self, "mask", pad(self.mask, (0, 1)))
            for name in ("observations", "variance"):
                object.__setattr__(self, name, pad(getattr(self, name), (0, 0, 0, 1)))
            seen = self.mask
        # what is masked must not reach a sum, and zero times NaN is NaN: o = 0 and Phi = 1 there
        absent = ~seen.unsqueeze(-1)
        object.__setattr__(self, "observations", self.observations.masked_fill(absent, 0.0))
        object.__setattr__(self, "variance", self.variance.masked_fill(absent, 1.0))

    @property
    def num_slots(self) -> int:
        """K."""
        return self.observations.shape[2]

    def subset(
        self,
        index: Tensor,  # of sequences, shape: (B',)
    ) -> "MixtureBatch":
        """Return some sequences as a minibatch, which remembers which ones they are."""
        part = index if self.index is None else self.index[index]
        return self._mapped(lambda value: value[index], index=part)

    def take(
        self,
        index: Tensor,  # of sequences, once or more often each, shape: (B',)
    ) -> "MixtureBatch":
        """Return some sequences as data of their own."""
        return replace(self.subset(index), index=None)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "MixtureBatch":
        """Return the batch on another device, and its numbers in another dtype."""

        def move(value: Tensor) -> Tensor:
            return value.to(device, dtype if value.is_floating_point() else None)

        return self._mapped(move, index=None if self.index is None else self.index.to(device))

    def repeat(self, times: int) -> "MixtureBatch":
        """Return the batch repeated along B: one copy for each restart."""
        return self._mapped(lambda value: value.repeat(times, *[1] * (value.dim() - 1)), index=None)

    def _mapped(
        self, change: Callable[[Tensor], Tensor], *, index: Tensor | None
    ) -> "MixtureBatch":
        data = (change(value) for value in (self.observations, self.mask, self.variance))
        anchor = self.anchor and Anchor(*map(change, self.anchor))
        return MixtureBatch(*data, anchor, index, self.num_sources)

    def _count_sources(self) -> None:
        """Set N where the anchor says it."""
        if self.anchor is None:
            if self.num_sources is None:
                raise ShapeError("num_sources: given none, and no anchor to count; give either")
            return
        loc, num_sequences = tuple(self.anchor.loc.shape), len(self.observations)
        if len(loc) != 3 or loc[0] != num_sequences or loc != tuple(self.anchor.variance.shape):
            raise _unfit(self.anchor, f"({num_sequences}, N, D)")
        if self.num_sources not in (None, loc[1]):
            expected = f"{loc[1]}, as the anchor has"
            raise ShapeError(mismatch("num_sources", given=self.num_sources, expected=expected))
        object.__setattr__(self, "num_sources", loc[1])


def _unfit(anchor: Anchor, expected: str) -> ShapeError:
    given = f"loc {tuple(anchor.loc.shape)}, variance {tuple(anchor.variance.shape)}"
    return ShapeError(mismatch("anchor", given=given, expected=f"both {expected}"))


def rows_of(batch: Any) -> Tensor | None:  # noqa: ANN401
    """Return which sequences of its data a minibatch holds, (B',); None of all other batches."""
    index = getattr(batch, "index", None)  # a batch may be anything; lists have such a method
    return index if isinstance(index, Tensor) else None
