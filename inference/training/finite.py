"""What training refuses: a loss or a gradient that is not finite."""

from collections.abc import Mapping

import torch
from torch import nn


class FitError(ValueError):
    """A loss or a gradient is not finite; the message names step, batch and parameter."""


def guilty_parameter(named: Mapping[str, nn.Parameter]) -> str:
    """Say which parameter is not finite, or else which gradient."""
    for name, p in named.items():
        if not torch.isfinite(p).all():
            return f"; parameter {name!r} is not finite"
    for name, p in named.items():
        if p.grad is not None and not torch.isfinite(p.grad).all():
            return f"; parameter {name!r} is the first with a gradient that is not finite"
    return "; all parameters and gradients are finite: look at the data of this batch"
