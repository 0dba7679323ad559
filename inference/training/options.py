"""How to train: the options of `fit`, and what changes from epoch to epoch."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from pyromodels.errors import check_positive

Autocast = Literal["none", "tf32", "bf16", "fp16"]
"""What the matrix products of a loss are computed in."""


class Weights(NamedTuple):
    """What a loss function is told about the moment of training; the defaults give the bound."""

    kl: float = 1.0
    use_prediction: float = 0.0  # scheduled sampling: probability of feeding back a prediction
    prediction_hops: int | None = 0  # through how many of them gradients pass; None: all


@dataclass(frozen=True)
class ScheduledSampling:
    """When a model's own predictions take the place of the data it is fed with.

    Args:
        first: up to this epoch none does.
        last: from this epoch on each frame is replaced with the full probability; it grows linearly
            between.
        probability: the full one.
        hops: through how many predictions in a row gradients pass; None: all. With 0, as published,
            the loss is not differentiated as it is: no latent learns what it does to later frames.

    Raises:
        ValueError: for epochs out of order, no probability, or negative hops.
    """

    first: int
    last: int
    probability: float = 1.0
    hops: int | None = 0

    def __post_init__(self) -> None:
        if not (0 <= self.first <= self.last and 0 <= self.probability <= 1):
            raise ValueError(f"sampling: given {self}; expected 0 <= first <= last and a "
                             "probability in [0, 1]")
        if self.hops is not None and self.hops < 0:
            raise ValueError(f"hops: given {self.hops}; expected 0 or more, or None for all")

    def at(self, epoch: int) -> float:
        """Return the probability in an epoch."""
        grown = (epoch - self.first) / max(self.last - self.first, 1)
        return self.probability * min(1.0, max(0.0, grown))


@dataclass(frozen=True)
class FitOptions:
    """How to train. An epoch counts from 1.

    Args:
        epochs: most epochs.
        batch_size: sequences in a minibatch; the last of an epoch may be smaller.
        learning_rate: of Adam, in the first epoch.
        final_learning_rate: in the last; a half cosine lies between. None: constant.
        warm_up: steps over which the learning rate grows linearly to that of its epoch;
            Transformers with post-norm want it.
        max_grad_norm: the gradient is scaled down to this norm.
        kl_warm_up: epochs over which the weight of the KL term grows linearly to one.
        sampling: when predictions take the place of the data; None: never (teacher forcing).
        patience: training stops when the validation loss has not fallen by more than `min_delta`
            below its best for so many epochs in a row. Epochs in which the KL weight or the
            probability still grows are not counted. The validation loss itself is always taken
            with KL weight 1 and no predictions, so that epochs can be compared.
        min_delta: in units of the loss.
        seed: of initial random state, order of the data, and the validation's noise.
        autocast: "bf16" or "fp16": matrix products of the loss in half precision, everything else,
            parameters and their moments included, as they are. "tf32": factors of these products
            rounded to 10 bits, by the GPU. fp16 and tf32 need one.
    """

    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 1e-3
    final_learning_rate: float | None = None
    warm_up: int = 0
    max_grad_norm: float = 10.0
    kl_warm_up: int = 0
    sampling: ScheduledSampling | None = None
    patience: int = 20
    min_delta: float = 0.0
    seed: int = 0
    autocast: Autocast = "none"

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        names = ("epochs", "batch_size", "learning_rate", "max_grad_norm", "patience")
        check_positive(self, *names)
        for name, unit in (("warm_up", "steps"), ("kl_warm_up", "epochs")):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: given {getattr(self, name)}; expected {unit}, or 0")
        if self.autocast not in get_args(Autocast):
            raise ValueError(f"autocast: given {self.autocast!r}; expected none, bf16 or fp16")

    def weights(self, epoch: int) -> Weights:
        """Return the weights of an epoch."""
        kl = min(1.0, epoch / self.kl_warm_up) if self.kl_warm_up else 1.0
        if self.sampling is None:
            return Weights(kl)
        return Weights(kl, self.sampling.at(epoch), self.sampling.hops)

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, once warmed up."""
        if self.final_learning_rate is None or self.epochs == 1:
            return self.learning_rate
        cosine = 0.5 + 0.5 * math.cos(math.pi * (epoch - 1) / (self.epochs - 1))
        return self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * cosine

    def warmth(self, step: int) -> float:
        """Return what of the learning rate a step gets; steps count from 1."""
        return min(1.0, step / self.warm_up) if self.warm_up else 1.0

    @property
    def settled(self) -> int:
        """The first epoch in which no weight grows any more."""
        return max(self.kl_warm_up, self.sampling.last if self.sampling else 0, 1)
