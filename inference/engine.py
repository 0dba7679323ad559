"""A stepper together with how long it climbs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from inference.ascend import Ascent, AscentOptions, OnStep, Stepper, ascend


@dataclass
class Engine:
    """A stepper and when it is done; `guide` is the one it moves.

    Args:
        stepper: takes the steps.
        options: how many, and by which rule it stops.
    """

    stepper: Stepper
    options: AscentOptions

    @property
    def steps(self) -> int:
        """Most steps."""
        return self.options.max_steps

    @property
    def guide(self) -> nn.Module:
        """The guide that the stepper moves, which need not be the one it was built from."""
        return self.stepper.guide

    def step(self, batch: Any) -> float:
        """Take one step; return the loss, nats, summed over sequences."""
        return self.stepper.step(batch)

    def evaluate_loss(self, batch: Any) -> float:
        """Return the loss, nats, summed over sequences."""
        return self.stepper.evaluate_loss(batch)

    def run(
        self,
        batch: Any,
        on_step: OnStep | None = None,
        *,
        folder: Path | None = None,
        resume: bool = False,
    ) -> Ascent:
        """Step until done, see `ascend`."""
        return ascend(
            self.stepper, batch, self.options, folder=folder, resume=resume, on_step=on_step
        )
