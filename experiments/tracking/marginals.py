"""What a posterior says of every frame: where each source is, whose each detection is, who is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyromodels.batch import MixtureBatch
from pyromodels.experiments.datasets.tracking.box_coordinates import (
    centres_to_corners,
    corner_covariance,
)
from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.guides.factorised import FactorisedGuide
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.models.mixdvae import MixDVAE

NUM_DRAWS = 400
"""Draws that stand for what a guide does not hold in closed form."""


class Marginals(NamedTuple):
    """Posterior marginals of every frame."""

    mean: Tensor  # of (centre x, centre y, width, height), shape: (B, T, N, 4)
    variance: Tensor  # shape: (B, T, N, 4)
    responsibilities: Tensor  # shape: (B, T, K, N [+ 1 for clutter])
    visible: Tensor | None  # probability, shape: (B, N, T); None without a detector


@torch.no_grad()
def marginals(model: MixDVAE, guide: nn.Module, batch: MixtureBatch) -> Marginals:
    """Return the marginals, in closed form where the guide holds the factor, else from draws."""
    closed = isinstance(guide, FactorisedGuide)
    owned = closed and guide.assignment == "mean_field"
    draws = {} if owned else Posterior(model, guide, batch).sample(NUM_DRAWS)
    if closed:
        mean, variance = guide.sources.loc, guide.sources.variance
    else:
        mean, variance = draws["s"].mean(0), draws["s"].var(0)
    if owned:
        responsibilities = guide.responsibilities
    else:
        num_owners = batch.num_sources + model.num_extra
        owners = nn.functional.one_hot(draws["w"].clamp_min(0), num_owners)
        responsibilities = owners.to(mean).mean(0) * batch.mask.unsqueeze(-1)
    visible = None
    if model.detector is not None:
        visible = guide.visibility.mean if closed else draws["v"].to(mean).mean(0)
    step = model.prior.block_dim
    mean, variance = (part[..., ::step].transpose(1, 2) for part in (mean, variance))
    return Marginals(mean, variance, responsibilities, visible)


def joined(found: Sequence[Marginals]) -> Marginals:
    """Return the marginals of all parts."""
    return Marginals(*(None if part[0] is None else torch.cat(part)
                       for part in zip(*found, strict=True)))


def corners_of(found: Marginals, data: TrackingData) -> tuple[Tensor, Tensor | None]:
    """Return boxes and the covariance of their corners, None where the posterior is a point."""
    boxes = centres_to_corners(found.mean).detach().to(data.detections)
    if (found.variance <= 0).any():
        return boxes, None
    return boxes, corner_covariance(found.variance).detach().to(data.detections)
