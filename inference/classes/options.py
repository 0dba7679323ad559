"""How to train class densities side by side: the options of `fit_classes`."""

import math
from dataclasses import dataclass
from typing import Literal

from pyromodels.errors import check_positive, mismatch


@dataclass(frozen=True)
class ClassOptions:
    """How to train. Every class gets as many updates as every other, however few its sequences.

    Args:
        updates: most updates of a class.
        batch_size: sequences of every class in an update; they come pass after pass, and a pass may
            end within a minibatch.
        learning_rate: of Adam, multiplied by `decay` after every `decay_every` of the updates.
        decay: the paper's is 0.9.
        decay_every: a fraction of the updates; the paper's is 0.3.
        weight_decay: of Adam, decoupled.
        input_noise: deviation of Gaussian noise on what is learned from. The density that is
            learned is then the smoothed one, which does not reward what is known too exactly.
        discriminative: weight of the cross-entropy of the classes, beside minus nats a frame: the
            hybrid of a density and a classifier. 0 is maximum likelihood. With another weight every
            class hears of all sequences, and all stop together.
        sharpness: of the posterior in that cross-entropy, see `ClassPosterior`.
        chosen_by: which figure of the validation data says which parameters are best, and when a
            class stops: the "likelihood" of its sequences under their class, or the "posterior" of
            the right class at its best sharpness. A density may gain nats on what all classes have
            in common long after it tells them apart worse. By the posterior all stop together.
        max_grad_norm: the gradient of every network is scaled down to this norm.
        check_every: updates between two looks at the validation data.
        patience: a class stops after so many looks in a row that were not better.
        seed: of order and noise.

    Raises:
        ValueError: where a number is out of range.
    """

    updates: int = 600
    batch_size: int = 128
    learning_rate: float = 3e-3
    decay: float = 0.9
    decay_every: float = 0.3
    weight_decay: float = 0.0
    input_noise: float = 0.0
    discriminative: float = 0.0
    sharpness: float = 0.1
    chosen_by: Literal["likelihood", "posterior"] = "likelihood"
    max_grad_norm: float = 10.0
    check_every: int = 20
    patience: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        names = ("updates", "batch_size", "learning_rate", "decay", "decay_every", "sharpness",
                 "max_grad_norm", "check_every", "patience")
        check_positive(self, *names, expected="above 0")
        for name in ("weight_decay", "input_noise", "discriminative"):
            if not getattr(self, name) >= 0:
                raise ValueError(mismatch(name, given=getattr(self, name), expected="0 or more"))
        if self.chosen_by not in ("likelihood", "posterior"):
            expected = "likelihood or posterior"
            raise ValueError(mismatch("chosen_by", given=self.chosen_by, expected=expected))

    @property
    def together(self) -> bool:
        """Whether all classes stop together, since how good one is depends on the others."""
        return self.discriminative > 0 or self.chosen_by == "posterior"

    def rate(self, update: int) -> float:
        """Return the learning rate of an update, counted from 0."""
        steps = math.floor(update / self.updates / self.decay_every + 1e-9)
        return self.learning_rate * self.decay**steps
