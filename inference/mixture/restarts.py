"""Several starts at once, the best bound kept for every sequence."""

from typing import NamedTuple

import torch
from torch import Tensor

from pyromodels.guides.mean_field import MeanField


class Restarts(NamedTuple):
    """What every start reached."""

    elbo: Tensor  # nats, shape: (R, B)
    best: Tensor  # index of the best start, shape: (B,)


def keep_best(
    elbo: Tensor,  # nats, shape: (R * B,)
    guide: MeanField,  # fitted to batch.repeat(R)
    num_restarts: int,
) -> Restarts:
    """Shrink a guide fitted to R copies of a batch to the best bound of every sequence."""
    elbo = elbo.unflatten(0, (num_restarts, -1))
    if not (broken := elbo.isnan().all(0)).logical_not().all():
        raise FloatingPointError(
            f"keep_best: no start of sequence {int(broken.nonzero()[0])} has a finite bound; "
            "check the scale of its observations and variances, or use float64"
        )
    # argmax takes NaN for the largest: a start whose bound is no number is never kept
    best = elbo.nan_to_num(nan=-torch.inf).argmax(0)
    guide.keep(best * elbo.shape[1] + torch.arange(elbo.shape[1], device=elbo.device))
    return Restarts(elbo, best)
