"""Variational EM of sources that add up: variances from the priors, sources from the variances."""

from collections.abc import Mapping

from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.guides.wiener import Wiener
from pyromodels.inference.engines.coordinate_ascent import CoordinateAscent, Update
from pyromodels.models.additive import Additive


class VarianceUpdate(Update):
    """v from the priors' networks at the expected power of the sources; q(s) follows from it.

    Latents sit at their encoder means.
    """

    changes_model = False

    def __call__(self, model: Additive, guide: Wiener, batch: MixtureBatch) -> None:
        """Set the guide's variances."""
        sources = guide.sources(batch)
        seen = model.prior.iterate(sources.mean, sources.variance)
        message = model.prior.gaussian_message(seen, anchor=None)
        guide.variances = message.covariance.flatten(-3)


def closed_form_bound(
    model: Additive,
    guide: Wiener,
    batch: MixtureBatch,
    *,
    known: Mapping[str, Tensor] | None = None,
) -> Tensor:  # nats, shape: (B,)
    """Return log p(o | v), a surrogate of the bound: v is held, and the KL over z left out."""
    return guide.sources(batch).log_evidence()


def wiener_em(model: Additive, guide: Wiener, *, damping: float = 1.0) -> CoordinateAscent:
    """Return the engine that alternates the two steps."""
    return CoordinateAscent(
        model, guide, [VarianceUpdate()], bound=closed_form_bound, damping=damping
    )
