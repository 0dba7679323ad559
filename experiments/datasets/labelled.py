"""Labelled sequences of unequal length, in three splits: a classification problem."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyromodels.errors import ShapeError, mismatch

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class LabelledSequences:
    """Sequences and their classes.

    Args:
        x: zero where a sequence has ended, shape (n, T, D).
        lengths: frames of every sequence, int64, shape (n,).
        labels: number of its class, int64, shape (n,).

    Raises:
        ShapeError: where the shapes do not fit each other.
        ValueError: for a length outside 1..T, or a frame that counts and is not finite.
    """

    x: Tensor
    lengths: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        """Check what no later step checks again."""
        if self.x.dim() != 3:
            raise ShapeError(mismatch("x", given=f"shape {tuple(self.x.shape)}",
                                      expected="(n, T, D)"))
        for name in ("lengths", "labels"):
            given = tuple(getattr(self, name).shape)
            if given != (len(self.x),):
                raise ShapeError(mismatch(name, given=f"shape {given}", expected=(len(self.x),)))
        if len(self.x) and not (1 <= self.lengths.min() and self.lengths.max() <= self.x.shape[1]):
            raise ValueError(mismatch("lengths", given=f"{self.lengths.min()} to "
                                      f"{self.lengths.max()}", expected=f"1 to {self.x.shape[1]}"))
        if not torch.isfinite(self.x[self.mask]).all():
            raise ValueError("x: NaN or infinite in a frame that counts")
        object.__setattr__(self, "x", self.x.masked_fill(~self.mask.unsqueeze(-1), 0.0))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Tensor) -> "LabelledSequences":
        """Return some of them, cut at the longest."""
        lengths = self.lengths[rows]
        longest = int(lengths.max()) if len(lengths) else self.x.shape[1]
        return LabelledSequences(self.x[rows, :longest], lengths, self.labels[rows])

    @property
    def mask(self) -> Tensor:  # shape: (n, T)
        """True where a frame is there."""
        frames = torch.arange(self.x.shape[1], device=self.lengths.device)
        return frames < self.lengths.unsqueeze(-1)

    def of_class(self, label: int) -> "LabelledSequences":
        """Return the sequences of one class, cut at their longest."""
        return self[(self.labels == label).nonzero().squeeze(-1)]


@dataclass(frozen=True)
class LabelledData:
    """A classification problem.

    Args:
        name: of the data.
        classes: names of the classes, in the order of their numbers.
        train: the sequences to learn from.
        valid: those that choose settings and end training.
        test: those that are counted.
        log_scale: nats a frame to add to a log density for one in the units of the recording,
            where x was standardised.
    """

    name: str
    classes: tuple[str, ...]
    train: LabelledSequences
    valid: LabelledSequences
    test: LabelledSequences
    log_scale: float = 0.0

    @property
    def dim(self) -> int:
        """D."""
        return self.train.x.shape[-1]

    def only(self, classes: Sequence[str]) -> "LabelledData":
        """Return the problem of telling some classes apart, numbered in the order given.

        Raises:
            ValueError: for a class that is not there, or named twice.
        """
        if len(set(classes)) < len(classes):
            raise ValueError(mismatch("classes", given=tuple(classes), expected="each once"))
        missing = [name for name in classes if name not in self.classes]
        if missing:
            known = ", ".join(self.classes)
            raise ValueError(mismatch("classes", given=missing[0], expected=known))
        numbers = torch.full((len(self.classes),), -1)
        for number, name in enumerate(classes):
            numbers[self.classes.index(name)] = number

        def kept(split: LabelledSequences) -> LabelledSequences:
            labels = numbers[split.labels]
            chosen = split[(labels >= 0).nonzero().squeeze(-1)]
            return replace(chosen, labels=labels[labels >= 0])

        return replace(self, classes=tuple(classes), **{s: kept(getattr(self, s)) for s in SPLITS})

    def standardised(self) -> "LabelledData":
        """Return x with mean 0 and deviation 1 over the training frames, coordinate by coordinate.

        Raises:
            ValueError: where a coordinate never varies.
        """
        frames = self.train.x[self.train.mask]
        mean, deviation = frames.mean(0), frames.std(0, correction=0)
        if not (deviation > 0).all():
            constant = (deviation <= 0).nonzero()[0].item()
            raise ValueError(f"{self.name}: coordinate {constant} never varies; leave it out")

        def scaled(split: LabelledSequences) -> LabelledSequences:
            return replace(split, x=(split.x - mean) / deviation)

        return replace(self, log_scale=self.log_scale - deviation.log().sum().item(),
                       **{s: scaled(getattr(self, s)) for s in SPLITS})
