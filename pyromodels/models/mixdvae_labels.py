"""The layout of a MixDVAE: names of its dimensions, owners that do not exist, its mixture."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.pyro_support.site_labels import Labels, Layout

if TYPE_CHECKING:
    from pyromodels.models.mixdvae import MixDVAE

def mixdvae_layout(model: "MixDVAE", batch: MixtureBatch) -> Layout:
    """Return how the sites of a MixDVAE are labelled.

    Draws of w are -1 where no observation is. `s` is split into the observed coordinates (feature)
    and what the prior carries with each (component: position, velocity, ...).
    """
    slot, start = ("batch", "frame", "observation"), ("batch", "source", "state")
    observed = model.prior.source_dim // model.prior.block_dim == batch.observations.shape[-1]
    variance = model.observation.variance(batch).masked_fill(~batch.mask[..., None], torch.nan)
    constants = {"mask": (slot, batch.mask), "variance": ((*slot, "feature"), variance)}
    if batch.anchor is not None:
        constants |= {
            "anchor_loc": (start, batch.anchor.loc),
            "anchor_variance": (start, batch.anchor.variance),
        }
    names = {
        "feature": getattr(model.detector, "feature_names", None),
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
        constants=constants,
        components={"o": partial(components, model, batch)},
        labels=Labels(plate="source", path="s", owners=("w",)),
    )


def components(
    model: "MixDVAE",
    batch: MixtureBatch,
    draws: Mapping[str, Tensor],  # s is read, and v with a detector
) -> tuple[Tensor, Tensor]:  # nats, each broadcastable to (n, B, T, K, N [+ 1 for clutter])
    """Return log p(w_tk | v) and log p(o_tk | w_tk, s)."""
    log_weight = model.log_weights(batch, draws.get("v")).log_softmax(-1)
    return log_weight, model.with_clutter(batch, model.observation.log_prob(batch, draws["s"]))
