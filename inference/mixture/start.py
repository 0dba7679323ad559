"""Where a fit begins, whatever the engine: one online pass with a linear-Gaussian prior."""

import torch

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.chain import GaussianChain
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.mixture.jpda_filter import online_assignment
from pyromodels.inference.mixture.updates import SourceUpdate, VisibilityUpdate
from pyromodels.models.mixdvae import MixDVAE


@torch.no_grad()
def online_start(
    model: MixDVAE,
    guide: MeanField,
    batch: MixtureBatch,
    *,
    prior: LinearGaussian,
    anchor: Anchor,
) -> None:
    """Set the guide to the outcome of an online pass: q(w), then q(s) and q(v) given q(w).

    The pass filters and associates forward in time (see `online_assignment`). Where the model's own
    prior is not the given one, e.g. deep, its networks first see the trajectories that the given
    prior smooths out of the assignment; where it sends no Gaussian message, q(s) stays at their
    positions. A model without a detector has no clutter: what the pass takes for clutter is shared
    among the sources in proportion.

    Args:
        model: the program to be fitted.
        guide: its guide, changed in place.
        batch: the data.
        prior: the linear-Gaussian prior to filter with; may be `model.prior`.
        anchor: p(s_1) in the coordinates of that prior, fields of shape (B, N, D').

    Raises:
        NotImplementedError: where the observation law is of no other prior than its own.
        ShapeError: where the model has no detector, and observations are not what its law's is of.
        ValueError: where the filter has no exact message.
    """
    seen = MixtureBatch(batch.observations, batch.mask, batch.variance, anchor)
    law = model.observation
    online = MixDVAE(prior, law.of(prior), detector=model.detector or law.detector())
    online = online.to(batch.observations)
    smoothed = MeanField(online, seen)
    smoothed.responsibilities = online_assignment(online, seen)
    guide.responsibilities = smoothed.responsibilities
    if model.detector is None:
        guide.responsibilities = _without_clutter(smoothed.responsibilities, batch)
    if prior is not model.prior:
        SourceUpdate()(online, smoothed, seen)
        positions = _positions(smoothed.sources)
        start = guide.sources
        loc = torch.cat((positions.loc_blocks, start.loc_blocks[..., 1:]), -1)
        guide.sources = GaussianChain(
            loc, start.innovation, start.gain, covariance=start.covariance
        )
    if model.prior.has_gaussian_message:
        SourceUpdate()(model, guide, batch)
    else:
        guide.sources = positions
    VisibilityUpdate()(model, guide, batch)


def _positions(sources: GaussianChain) -> GaussianChain:
    """Return the chain of every block's first coordinate alone, of the same moments in pairs."""
    covariance, cross = (
        part[..., :1, :1] for part in (sources.covariance, sources.cross_covariance)
    )
    last = torch.zeros_like(covariance[..., :1, :, :, :])  # the last frame has no next one
    gain = torch.cat((cross / covariance[..., 1:, :, :, :], last), -4)
    innovation = covariance - gain * torch.cat((cross, last), -4)
    return GaussianChain(sources.loc_blocks[..., :1], innovation, gain, covariance=covariance)


def _without_clutter(
    responsibilities: torch.Tensor,  # shape: (B, T, K, N + 1)
    batch: MixtureBatch,
) -> torch.Tensor:  # shape: (B, T, K, N)
    tiny = torch.finfo(responsibilities.dtype).tiny
    share = responsibilities[..., :-1].clamp_min(tiny)
    return share / share.sum(-1, keepdim=True) * batch.mask[..., None]
