"""What a posterior says of every frame: where each source is, whose each detection is, who is seen.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyromodels.batch import MixtureBatch
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
