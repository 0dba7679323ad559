"""Coordinate ascent with the interface of SVI: `step(batch) -> loss`, `evaluate_loss(batch)`."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyromodels.batch import rows_of
from pyromodels.errors import mismatch
from pyromodels.guides.free_form import FreeForm
from pyromodels.inference.objectives.closed_form import Bound, BoundParts
from pyromodels.inference.training.checkpoint import flat, part_of


class Update:
    """One step of coordinate ascent: it moves one factor, or parameter, to where the bound is best.

    A plain function of model, guide and batch will do. What else an update may say has a default
    here, which a class of its own overrides.
    """

    changes_model: ClassVar[bool] = True
    """Whether it may change the model: parts of the bound that are known are then known no more."""

    def __call__(self, model: Any, guide: Any, batch: Any) -> BoundParts | None:
        """Change the guide or the model in place; return parts of the bound that are known then."""
        raise NotImplementedError(f"{type(self).__name__} states no `__call__`")

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state that it has of its own."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""


class FunctionUpdate(Update):
    """A function as an update."""

    def __init__(self, function: Callable[[Any, Any, Any], BoundParts | None]) -> None:
        self.function = function

    def __call__(self, model: Any, guide: Any, batch: Any) -> BoundParts | None:
        """Call it."""
        return self.function(model, guide, batch)


class CoordinateAscent:
    """A list of updates in order, over all sequences of a batch at once.

    It knows no model: the factors are the guide's (see `FreeForm`), the bound is handed in.
    Variational EM of a MixDVAE is `pyromodels.inference.mixture.vem.VEM`.

    A batch may be a minibatch of the data that the guide was made for (`MixtureBatch.subset`): its
    sequences' factors are updated, the others' stay.

    Args:
        model: the program.
        guide: a guide for the batch that `step` is given.
        updates: the coordinate updates of one sweep.
        bound: what they climb.
        depends_on: part of the bound -> the factors that it depends on. A part that is not here
            is taken to depend on all of them.
        damping: how far an update goes, in (0, 1]: eta <- (1 - damping) eta + damping eta* in the
            natural parameters of each factor of the guide.

    Raises:
        ValueError: where the damping is not in (0, 1].
    """

    def __init__(
        self,
        model: nn.Module,
        guide: FreeForm,
        updates: Sequence[Callable[[Any, Any, Any], BoundParts | None]],
        *,
        bound: Bound,
        depends_on: Mapping[str, Collection[str]] | None = None,
        damping: float = 1.0,
    ) -> None:
        if not 0 < damping <= 1:
            raise ValueError(mismatch("damping", given=damping, expected="a number in (0, 1]"))
        self.model, self.guide = model, guide
        self.updates = [u if isinstance(u, Update) else FunctionUpdate(u) for u in updates]
        self.bound, self.depends_on, self.damping = bound, dict(depends_on or {}), damping

    @torch.no_grad()
    def sweep(self, batch: Any) -> BoundParts:
        """Apply every update once; return the parts of the bound that are known by now."""
        rows = rows_of(batch)
        guide = self.guide if rows is None else self.guide.rows(rows)
        known: BoundParts = {}
        for update in self.updates:
            before = guide.snapshot()
            parts = update(self.model, guide, batch) or {}
            if self.damping < 1:
                guide.damp(before, self.damping)
                parts = {}
            changed = guide.changed_since(before)
            if update.changes_model:
                known = {}
            known = {name: part for name, part in known.items() if self._holds(name, changed)}
            known |= parts
        if rows is not None:
            self.guide.put(rows, guide)
        return known

    def _holds(self, part: str, changed: set[str]) -> bool:
        """Whether a part of the bound is what it was, once some factors have changed."""
        return changed.isdisjoint(self.depends_on.get(part, changed))

    def run(
        self,
        batch: Any,
        max_sweeps: int,
        *,
        tolerance: float | None = None,
        callback: Callable[[int], None] | None = None,
    ) -> int:
        """Sweep until the guide moves by no more than `tolerance`; return the sweeps made.

        Args:
            batch: the data.
            max_sweeps: stop after so many in any case.
            tolerance: of the guide's own measure (`FreeForm.distance`; of a `MeanField` the largest
                change of a responsibility); None makes all sweeps.
            callback: called after each sweep with its number, from 0.
        """
        for sweep in range(max_sweeps):
            before = self.guide.snapshot()
            self.sweep(batch)
            if callback is not None:
                callback(sweep)
            if tolerance is not None and self.guide.distance(before) <= tolerance:
                return sweep + 1
        return max_sweeps

    def step(self, batch: Any) -> float:
        """Apply every update once; return the loss as `evaluate_loss` does."""
        return -self.elbo(batch, known=self.sweep(batch)).sum().item()

    @torch.no_grad()
    def elbo(self, batch: Any, *, known: BoundParts | None = None) -> Tensor:
        """Return the bound of every sequence, nats, shape (B,).

        Args:
            batch: the data.
            known: what a sweep has just returned: parts that need not be computed again.
        """
        return self.bound(self.model, self.guide, batch, known=known)

    def evaluate_loss(self, batch: Any) -> float:
        """Return minus the bound, nats, summed over sequences."""
        return -self.elbo(batch).sum().item()

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the tensors of the guide, the model, and updates that have a state."""
        state = flat(**{part: holder.state_dict() for part, holder in self._holders().items()})
        return {name: value.detach().clone() for name, value in state.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        for part, holder in self._holders().items():
            holder.load_state_dict(part_of(state, part))

    def _holders(self) -> dict[str, Any]:
        """All that may have a state, by name."""
        updates = {f"update{i}": update for i, update in enumerate(self.updates)}
        return {"guide": self.guide, "model": self.model, **updates}
