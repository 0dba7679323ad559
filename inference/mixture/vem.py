"""Variational EM of a MixDVAE: coordinate ascent on its bound in closed form."""

from collections.abc import Sequence

from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.engines.coordinate_ascent import CoordinateAscent, Update
from pyromodels.inference.mixture.bound import closed_form_elbo
from pyromodels.models.mixdvae import MixDVAE


class VEM(CoordinateAscent):
    """The updates of `pyromodels.inference.mixture.updates` in order, and the bound they climb.

    The order of the list is the order of the steps: [SourceUpdate(), AssignmentUpdate()] and
    [AssignmentUpdate(), SourceUpdate()] are the two of thesis 4.4.2.

    Reference: Lin, 2024 (thesis), Algorithm 1.

    Args:
        model: the program.
        guide: a `MeanField` for the batch that `step` is given.
        updates: the coordinate updates of one sweep.
        damping: how far an update goes, in (0, 1], see `CoordinateAscent`.

    Raises:
        ValueError: where the damping is not in (0, 1].

    Example:
        >>> import torch
        >>> from pyromodels.batch import MixtureBatch
        >>> from pyromodels.distributions.message import Anchor
        >>> from pyromodels.dynamics.linear import LinearGaussian
        >>> from pyromodels.inference.mixture.updates import AssignmentUpdate, SourceUpdate
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
        super().__init__(
            model,
            guide,
            updates,
            bound=closed_form_elbo,
            depends_on={"sources": ["sources"]},
            damping=damping,
        )
