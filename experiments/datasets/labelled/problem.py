"""Classification problems: labelled sequences in three splits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from pyromodels.errors import mismatch
from pyromodels.labelled import LabelledSequences

SPLITS = ("train", "valid", "test")


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
