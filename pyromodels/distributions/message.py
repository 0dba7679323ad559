"""The Gaussian message a prior sends to q(s): its next-step law, linearised where need be."""

from typing import NamedTuple

import torch
from torch import Tensor


class Anchor(NamedTuple):
    """p(s_1) = N(loc, diag(variance)): where a trajectory starts, before any observation.

    Tracking sets ``loc`` to the boxes of the first frame; a tiny ``variance`` pins them there.
    """

    loc: Tensor  # shape: (*batch, N, D)
    variance: Tensor  # shape: (*batch, N, D), squared units of loc


class GaussianMessage(NamedTuple):
    """p(s_t | s_<t) ~ N(A_t s_{t-1} + b_t, Q_t), block-diagonal: D = G blocks of d coordinates.

    ``transition = 0`` gives the frame-by-frame update of thesis eq. 3.18-3.19; any other transition
    makes q(s) a chain, updated by a Kalman filter and smoother. ``transition[..., 0, :, :, :]`` is
    zero: the first offset and covariance are those of p(s_1).
    """

    transition: Tensor  # A_t, shape: (*batch, N, T, G, d, d)
    offset: Tensor  # b_t, shape: (*batch, N, T, G, d)
    covariance: Tensor  # Q_t, shape: (*batch, N, T, G, d, d)

    def at(
        self,
        s: Tensor,  # the past, shape: (*batch, N, T, D)
    ) -> "GaussianMessage":
        """Return N(A_t s_{t-1} + b_t, Q_t) with s_{t-1} a number: no transition is left."""
        blocks = s.unflatten(-1, self.offset.shape[-2:])
        before = torch.cat((torch.zeros_like(blocks[..., :1, :, :]), blocks[..., :-1, :, :]), -3)
        moved = (self.transition @ before.unsqueeze(-1)).squeeze(-1)
        return GaussianMessage(
            torch.zeros_like(self.transition), self.offset + moved, self.covariance
        )
