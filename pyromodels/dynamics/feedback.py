"""A model fed with its own predictions, and how far gradients follow them.

Scheduled sampling and generation put a model's predictions where the data would be. A history of
predictions is a fixed point of the decoder's pass over all frames: a pass leaves it where it is,
and takes gradients through one prediction more. So a few passes follow predictions over a few hops,
and all of them are followed frame by frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.unroll import Frame, unroll
from pyromodels.emissions.base import Outputs
from pyromodels.networks.mlp import rows

if TYPE_CHECKING:
    from pyromodels.dynamics.dynamical_prior import DynamicalPrior


class Fed(NamedTuple):
    """What a model fed with a history says of every frame of it."""

    history: Tensor  # the data, or the model's own predictions; shape: (*batch, T, D)
    latent: tuple[Tensor, Tensor]  # p(z_t | history_<t, z_<t), each (*batch, T, L)
    outputs: Outputs  # the decoder's, each (*batch, T, D)


def frames_of_its_own(
    s: Tensor,  # shape: (*batch, T, D)
    probability: float,
    anchor: Anchor | None,
) -> Tensor:  # bool, shape: (*batch, T, 1)
    """Draw which frames are a model's own predictions; one that an anchor says is none."""
    own = torch.rand((*s.shape[:-1], 1), dtype=s.dtype, device=s.device) < probability
    if anchor is not None:
        own[..., 0, :] = False
    return own


@torch.no_grad()
def predictions(
    prior: DynamicalPrior,
    s: Tensor,  # shape: (*batch, T, D)
    z: Tensor,  # shape: (*batch, T, L)
    own: Tensor,  # shape: (*batch, T, 1)
    *,
    anchor: Anchor | None = None,
    mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
) -> Tensor:  # shape: (*batch, T, D)
    """Return s with the model's own predictions in some frames, each told of those before."""
    frames = _frame_by_frame(prior, s, z, own, anchor=anchor, mask=mask)
    return torch.stack([frame.fed for frame in frames], 1).reshape(s.shape)


def feed_back(
    prior: DynamicalPrior,
    s: Tensor,  # shape: (*batch, T, D)
    z: Tensor,  # shape: (*batch, T, L)
    own: Tensor,  # shape: (*batch, T, 1)
    *,
    hops: int | None,
    anchor: Anchor | None = None,
    mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
) -> Fed:
    """Return `predictions` and what the model says of them.

    Args:
        prior: the model.
        s: the data.
        z: its latents.
        own: which frames are predictions, see `frames_of_its_own`.
        hops: through how many predictions in a row gradients pass. One costs a pass; where every
            frame reads every earlier one, as in a Transformer, it is the direct effect of each
            prediction on all that follow. None: through all, frame by frame.
        anchor: p(s_1) in place of the model's.
        mask: True where a frame counts.
    """
    if hops is None:
        frames = list(_frame_by_frame(prior, s, z, own, anchor=anchor, mask=mask))
        each = [(f.fed, *prior.cell.latent(f.state), *f.outputs) for f in frames]
        history, mean, log_variance, *said = (
            torch.stack(parts, 1).reshape(*s.shape[:-1], -1) for parts in zip(*each, strict=True)
        )
        return Fed(history, (mean, log_variance), tuple(said))
    history = predictions(prior, s, z, own, anchor=anchor, mask=mask)
    for _ in range(hops):
        outputs = prior.cell.all_outputs(z, prior.see(history), mask)
        expected = prior.emission.conditionals(outputs, history, anchor).mean
        history = torch.where(own, expected, s)
    x = prior.see(history)
    return Fed(history, prior.cell.all_latents(z, x), prior.cell.all_outputs(z, x, mask))


def _frame_by_frame(
    prior: DynamicalPrior,
    s: Tensor,
    z: Tensor,
    own: Tensor,
    *,
    anchor: Anchor | None,
    mask: Tensor | None,
) -> Iterator[Frame]:
    """Yield frames of z and s given, predictions fed back; rows flat."""
    z, given = z.expand(*s.shape[:-1], -1), rows(s)
    state = prior.cell.foresee(prior.cell.start(s.shape[:-2], s), z, mask)
    return unroll(
        prior.cell, prior.emission, state, s.shape[-2], z=rows(z), s=given, own=rows(own),
        first=None if anchor is None else given[:, 0],
    )
