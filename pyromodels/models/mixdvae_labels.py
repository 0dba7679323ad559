"""The layout of a MixDVAE: names of its dimensions, owners that do not exist, its mixture."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import pyro.distributions as dist
import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.pyro_support.site_labels import Labels, Layout

if TYPE_CHECKING:
    from pyromodels.models.mixdvae import MixDVAE

BOX = ("centre x", "centre y", "width", "height")
"""What the four numbers of an observation are, in a model whose clutter is of boxes."""


def mixdvae_layout(model: "MixDVAE", batch: MixtureBatch) -> Layout:
    """Return how the sites of a MixDVAE are labelled.

    Draws of w are -1 where no observation is. `s` is split into the observed coordinates (feature)
    and what the prior carries with each (component: position, velocity, ...).
    """
    slot, start = ("batch", "frame", "observation"), ("batch", "source", "state")
    observed = model.prior.source_dim // model.prior.block_dim == batch.observations.shape[-1]
    variance = model.variance(batch).masked_fill(~batch.mask[..., None], torch.nan)
    names = {
        "feature": BOX if model.detector is not None else None,
        "component": getattr(model.prior, "component_names", None),
    }
    return Layout(
        sequences="batch",
        event_dims={
            "s": ("frame", "feature" if observed else "coordinate", "component"),
            "s_z": ("frame", "latent"),
            "s_w": ("global_latent",),
            "v": ("frame",),
            "o": ("feature",),
        },
        blocks={"s": model.prior.block_dim},
        coords={dim: labels for dim, labels in names.items() if labels is not None},
        present={"w": batch.mask, "o": batch.mask},
        absent={"w": -1},
        dtypes={"w": "int16", "v": "int8"},
        observed=("o",),
        constants={
            "mask": (slot, batch.mask),
            "variance": ((*slot, "feature"), variance),
            "anchor_loc": (start, batch.anchor.loc),
            "anchor_variance": (start, batch.anchor.variance),
        },
        components={"o": partial(components, model, batch)},
        labels=Labels(plate="source", path="s", owners=("w",)),
    )


def components(
    model: "MixDVAE",
    batch: MixtureBatch,
    draws: Mapping[str, Tensor],  # s is read, and v with a detector
) -> tuple[Tensor, Tensor]:  # nats, each broadcastable to (n, B, T, K, N [+ 1 for clutter])
    """Return log p(w_tk | v) and log p(o_tk | w_tk, s)."""
    location = model.project(draws["s"])  # (n, B, N, T, K or 1, X)
    scale = model.variance(batch).sqrt().unsqueeze(1)
    observations = batch.observations.unsqueeze(1)
    log_parts = dist.Normal(location, scale).log_prob(observations).sum(-1).movedim(2, -1)
    if model.detector is None:
        return log_parts.new_full((1,), 1 / batch.num_sources).log(), log_parts
    clutter = model.clutter(batch).log_prob(batch.observations)
    clutter = clutter.expand(log_parts.shape[:-1]).unsqueeze(-1)
    rates = model.detector.log_rates(draws["v"]).transpose(-1, -2)
    extra = rates.new_full((*rates.shape[:-1], 1), model.detector.clutter_rate).log()
    log_weight = torch.cat((rates, extra), -1).log_softmax(-1).unsqueeze(-2)
    return log_weight, torch.cat((log_parts, clutter), -1)
