"""Labelled sequences of unequal length: what a bank of densities is trained on and told apart."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from pyromodels.errors import mismatch, misshapen


@dataclass(frozen=True)
class LabelledSequences:
    """Sequences and their classes.

    Args:
        x: zero where a sequence has ended, shape (n, T, D).
        lengths: frames of every sequence, int64, shape (n,).
        labels: number of its class, int64, shape (n,).

    Raises:
        ShapeError: where the shapes do not fit each other.
        ValueError: for numbers of another kind, a length outside 1..T, a label below 0, or a frame
            that counts and is not finite.
    """

    x: Tensor
    lengths: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        """Check what no later step checks again."""
        if self.x.dim() != 3:
            raise misshapen("x", self.x.shape, "(n, T, D)")
        for name in ("lengths", "labels"):
            given = getattr(self, name).shape
            if given != (len(self.x),):
                raise misshapen(name, given, (len(self.x),))
        kinds = {"x": self.x.is_floating_point(), "lengths": self.lengths.dtype == torch.int64,
                 "labels": self.labels.dtype == torch.int64}
        for name, fits in kinds.items():
            if not fits:
                expected = "floating point" if name == "x" else torch.int64
                raise ValueError(mismatch(name, given=getattr(self, name).dtype, expected=expected))
        if len(self.x) and self.labels.min() < 0:
            raise ValueError(mismatch("labels", given=int(self.labels.min()), expected="0 or more"))
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
        return self.cut(rows, int(lengths.max()) if len(lengths) else self.x.shape[1])

    def cut(self, rows: Tensor, longest: int) -> "LabelledSequences":
        """Return some of them, none longer than so many frames; asks the device nothing.

        They were checked as a whole: a check waits for the device, at every step of a training.
        """
        some = object.__new__(LabelledSequences)
        parts = {"x": self.x[rows, :longest], "lengths": self.lengths[rows]}
        for name, value in {**parts, "labels": self.labels[rows]}.items():
            object.__setattr__(some, name, value)
        return some

    @property
    def mask(self) -> Tensor:  # shape: (n, T)
        """True where a frame is there."""
        frames = torch.arange(self.x.shape[1], device=self.lengths.device)
        return frames < self.lengths.unsqueeze(-1)

    def digest(self) -> str:
        """Return a fingerprint of what is in them."""
        parts = (part.cpu().contiguous().numpy().tobytes() for part in
                 (self.x, self.lengths, self.labels))
        return hashlib.sha256(b"".join(parts)).hexdigest()

    def of_class(self, label: int) -> "LabelledSequences":
        """Return the sequences of one class, cut at their longest."""
        return self[(self.labels == label).nonzero().squeeze(-1)]

    def to(
        self, device: torch.device | str, dtype: torch.dtype | None = None
    ) -> "LabelledSequences":
        """Return the sequences on another device, and their numbers in another dtype."""
        return LabelledSequences(
            self.x.to(device, dtype), self.lengths.to(device), self.labels.to(device)
        )
