"""Bounds in closed form: what they are, and which model and guide have one."""

from typing import Any, Protocol

from torch import Tensor, nn

from pyromodels.errors import SpecError
from pyromodels.registry import Registry

BoundParts = dict[str, Tensor]
"""What a bound is made of, by name: nats, each (B,)."""


class Bound(Protocol):
    """A lower bound of the evidence without noise."""

    def __call__(
        self, model: Any, guide: Any, batch: Any, *, known: BoundParts | None = None
    ) -> Tensor:
        """Return the bound of every sequence, nats, (B,); what is `known` need not be computed."""


BOUNDS = Registry("bound in closed form", "pyromodels.inference.mixture", module="bound")
"""Name of a family of models -> (model, guide) -> Bound; None where the model is of another family.

Raises `SpecError` where this model or this guide has none.
"""


def closed_form(model: nn.Module, guide: nn.Module) -> Bound:
    """Return the bound of a model and a guide in closed form.

    Raises:
        SpecError: where there is none, and why.
    """
    for name in BOUNDS:
        if (bound := BOUNDS[name](model, guide)) is not None:
            return bound
    raise SpecError(f"a {type(model).__name__} has none")


def closed_form_or_none(model: nn.Module, guide: nn.Module) -> Bound | None:
    """Return the bound of a model and a guide in closed form where there is one."""
    try:
        return closed_form(model, guide)
    except SpecError:
        return None
