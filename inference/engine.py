"""A stepper together with the rule by which it stops."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from inference.fit import FitError
from pyromodels.batch import MixtureBatch
from pyromodels.errors import SpecError, mismatch


class Stepper(Protocol):
    """What fits a guide, step by step."""

    guide: nn.Module

    def step(self, batch: MixtureBatch) -> float:
        """Take one step; return the loss, nats, summed over sequences."""

    def evaluate_loss(self, batch: MixtureBatch) -> float:
        """Return the loss, nats, summed over sequences."""


@dataclass
class Engine:
    """A stepper with its rule for stopping; `guide` is the one it moves.

    Args:
        stepper: takes the steps.
        steps: how many at most.
        tolerance: stop once no responsibility moves by more than this in a step; None makes all.
    """

    stepper: Stepper
    steps: int
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise SpecError(mismatch("steps", given=self.steps, expected="at least 1"))

    @property
    def guide(self) -> nn.Module:
        """The guide that the stepper moves, which need not be the one it was built from."""
        return self.stepper.guide

    def step(self, batch: MixtureBatch) -> float:
        """Take one step; return the loss, nats, summed over sequences."""
        return self.stepper.step(batch)

    def evaluate_loss(self, batch: MixtureBatch) -> float:
        """Return the loss, nats, summed over sequences."""
        return self.stepper.evaluate_loss(batch)

    def run(
        self, batch: MixtureBatch, callback: Callable[[int, float], None] | None = None
    ) -> list[float]:
        """Step until done; return the loss of every step, nats, summed over sequences.

        Args:
            batch: the data.
            callback: called after each step with its number, from 0, and its loss.

        Raises:
            FitError: naming the step, where a loss is not finite or a factor no distribution.
        """
        losses = []
        for number in range(self.steps):
            before = None if self.tolerance is None else self.guide.responsibilities
            try:
                losses.append(self.step(batch))
            except torch.linalg.LinAlgError as error:
                hint = "try dtype float64, or a smaller rate or damping"
                raise FitError(f"inference: step {number + 1}: {error}; {hint}") from error
            if not math.isfinite(losses[-1]):
                raise FitError(f"inference: the loss is {losses[-1]} at step {number + 1}")
            if callback is not None:
                callback(number, losses[-1])
            if before is not None:
                if (self.guide.responsibilities - before).abs().max() <= self.tolerance:
                    break
        return losses
