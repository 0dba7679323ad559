"""Variational EM with the interface of SVI: `step(batch) -> loss`, `evaluate_loss(batch)`."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.errors import mismatch
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.mixture.bound import BoundParts, closed_form_elbo
from pyromodels.inference.mixture.damping import damp
from pyromodels.inference.mixture.updates import Update
from pyromodels.models.mixdvae import MixDVAE


class VEM:
    """Coordinate ascent: a list of updates in order, over all sequences of a batch at once.

    The order of the list is the order of the steps: [SourceUpdate(), AssignmentUpdate()] and
    [AssignmentUpdate(), SourceUpdate()] are the two of thesis 4.4.2.

    Reference: Lin, 2024 (thesis), Algorithm 1.

    Args:
        model: the program.
        guide: a `MeanField` for the batch that `step` is given.
        updates: the coordinate updates of one sweep.
        damping: how far an update goes, in (0, 1]: eta <- (1 - damping) eta + damping eta* in the
            natural parameters of each factor of the guide.

    A batch may be a minibatch (`MixtureBatch.subset`) of the data that the guide was made for: its
    sequences' factors are updated, the others' stay.

    Raises:
        ValueError: where the damping is not in (0, 1].

    Example:
        >>> from pyromodels.inference.mixture.updates import AssignmentUpdate, SourceUpdate
        >>> from pyromodels.distributions.message import Anchor
        >>> from pyromodels.dynamics.linear import LinearGaussian
        >>> prior = LinearGaussian(num_coordinates=1, order=1, process_std=(0.1,))
        >>> o = torch.linspace(0, 1, 8).reshape(1, 8, 1, 1)
        >>> batch = MixtureBatch(
        ...     o, torch.ones(1, 8, 1, dtype=torch.bool), torch.full_like(o, 0.01),
        ...     Anchor(torch.zeros(1, 1, 1), torch.ones(1, 1, 1)),
        ... )
        >>> model = MixDVAE(prior)
        >>> vem = VEM(model, MeanField(model, batch), [AssignmentUpdate(), SourceUpdate()])
        >>> vem.step(batch) >= vem.step(batch)
        True
    """

    def __init__(
        self,
        model: MixDVAE,
        guide: MeanField,
        updates: Sequence[Update],
        *,
        damping: float = 1.0,
    ) -> None:
        if not 0 < damping <= 1:
            raise ValueError(mismatch("damping", given=damping, expected="a number in (0, 1]"))
        self.model, self.guide, self.updates = model, guide, list(updates)
        self.damping = damping

    @torch.no_grad()
    def sweep(self, batch: MixtureBatch) -> BoundParts:
        """Apply every update once; return the parts of the bound that are known by now."""
        guide = self.guide if batch.index is None else self.guide.rows(batch.index)
        known: BoundParts = {}
        for update in self.updates:
            before = guide.snapshot()
            parts = update(self.model, guide, batch) or {}
            if self.damping < 1:
                damp(guide, before, self.damping)
                parts = {}
            changed = guide.changed_since(before)
            if changed:
                known.pop("assignment", None)
            if "sources" in changed or getattr(update, "changes_model", True):
                known = {}
            known |= parts
        if batch.index is not None:
            self.guide.put(batch.index, guide)
        return known

    def run(
        self,
        batch: MixtureBatch,
        max_sweeps: int,
        *,
        tolerance: float | None = None,
        callback: Callable[[int], None] | None = None,
    ) -> int:
        """Sweep until no responsibility moves by more than `tolerance`; return the sweeps made.

        Args:
            batch: the data.
            max_sweeps: stop after so many in any case.
            tolerance: None makes all of them.
            callback: called after each sweep with its number, from 0.
        """
        for sweep in range(max_sweeps):
            before = self.guide.responsibilities
            self.sweep(batch)
            if callback is not None:
                callback(sweep)
            change = (self.guide.responsibilities - before).abs()
            if tolerance is not None and change.max() <= tolerance:
                return sweep + 1
        return max_sweeps

    def step(self, batch: MixtureBatch) -> float:
        """Apply every update once; return the loss as `evaluate_loss` does."""
        known = self.sweep(batch)
        with torch.no_grad():
            return -closed_form_elbo(self.model, self.guide, batch, known=known).sum().item()

    @torch.no_grad()
    def elbo(self, batch: MixtureBatch) -> Tensor:
        """Return the bound of every sequence, nats, shape (B,)."""
        return closed_form_elbo(self.model, self.guide, batch)

    def evaluate_loss(self, batch: MixtureBatch) -> float:
        """Return minus the bound, nats, summed over sequences."""
        return -self.elbo(batch).sum().item()

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the tensors of the guide, the model, and updates that have a state."""
        return {
            f"{part}.{key}": value.detach().clone()
            for part, holder in self._holders().items()
            for key, value in holder.state_dict().items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        for part, holder in self._holders().items():
            prefix = f"{part}."
            holder.load_state_dict(
                {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            )

    def _holders(self) -> dict[str, Any]:
        """All that has a state, by name."""
        numbered = {f"update{i}": update for i, update in enumerate(self.updates)}
        updates = {name: u for name, u in numbered.items() if hasattr(u, "state_dict")}
        return {"guide": self.guide, "model": self.model, **updates}
