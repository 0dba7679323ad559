"""A stepper together with how long it climbs."""

from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import nn

from pyromodels.inference.engines.ascend import Ascent, AscentOptions, OnStep, Stepper, ascend
from pyromodels.inference.objectives.closed_form import closed_form_or_none
from pyromodels.pyro_support.random_state import restored_random_state


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
    def guide(self) -> nn.Module:
        """The guide that the stepper moves, which need not be the one it was built from."""
        return self.stepper.guide

    def step(self, batch: Any) -> float:
        """Take one step; return the loss, nats, summed over sequences."""
        return self.stepper.step(batch)

    def run(self, batch: Any, on_step: OnStep | None = None, **keywords: Any) -> Ascent:
        """Step until done; `folder` and `resume` as `ascend` takes them."""
        return ascend(self.stepper, batch, self.options, on_step=on_step, **keywords)


@torch.no_grad()
def mean_bound(model: nn.Module, engine: Engine, batch: Any) -> float:
    """Return the bound that engines are compared by, nats a sequence.

    In closed form where there is one (see `inference.mixture.bound` for what it holds still with
    deep priors), else the engine's own estimate, averaged over 20.
    """
    if (bound := closed_form_or_none(model, engine.guide)) is not None:
        return bound(model, engine.guide, batch).mean().item()
    with restored_random_state():
        torch.manual_seed(0)  # the same estimate whatever was drawn before
        losses = [engine.stepper.evaluate_loss(batch) for _ in range(20)]
    return -fmean(losses) / batch.num_sequences
