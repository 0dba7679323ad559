"""The published tracker on our data: its coordinates, its covariance, its schedule."""

import copy
import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from experiments.datasets import TrackingData
from experiments.mot.boxes import centres_to_corners, start_boxes
from inference.published import PublishedOptions, PublishedResult, box_variance, published_vem
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.base import SourcePrior

if TYPE_CHECKING:
    from experiments.mot.methods import Options

NOISE_RATIO = 0.04
"""r_Phi (thesis 4.4.4)."""

LEARNING_RATE = 1e-3
"""Of fine-tuning."""


def flip(boxes: Tensor) -> Tensor:
    """[left, top, right, bottom] <-> [left, top, right, top - height], shape (*, 4).

    The published networks read the fourth coordinate as top minus height: y grows downwards for the
    position and upwards for the size. The mapping is its own inverse.
    """
    left, top, right, bottom = boxes.unbind(-1)
    return torch.stack((left, top, right, 2 * top - bottom), -1)


def track_published(
    data: TrackingData,
    prior: SourcePrior,
    options: "Options",
    *,
    fine_tune: bool = False,
) -> tuple[Tensor, Tensor]:  # boxes (S, T, N, 4); covariance of their corners (S, T, N, 4, 4)
    """Run the published algorithm with its undocumented choices (`PublishedOptions.REFERENCE`).

    `options.changes` replaces fields of the published options; `noise_ratio` among them is r_Phi.
    """
    changes = dict(options.changes)
    ratio = changes.pop("noise_ratio", NOISE_RATIO)
    published = dataclasses.replace(PublishedOptions.REFERENCE, **changes)
    num_sources = options.num_sources if options.num_sources is not None else data.num_objects
    generator = torch.Generator(options.device).manual_seed(options.seed)
    if fine_tune:
        prior = copy.deepcopy(prior)
        optimizer = torch.optim.Adam(prior.parameters(), lr=LEARNING_RATE)
    boxes, covariances = [], []
    for first in range(0, data.num_sequences, 128):
        part = data.subset(slice(first, first + 128))
        detections, mask = part.detections.to(options.device), part.mask.to(options.device)
        anchor = flip(centres_to_corners(start_boxes(detections, mask, num_sources)))
        # the slot rule needs every slot filled in the first frame
        rule = "slot" if mask[:, 0].all() else "observation"
        observations = flip(detections)
        variance = box_variance(observations, ratio=ratio, covariance_from=rule)
        inputs = {"mask": mask, "observation_variance": variance, "anchor_loc": anchor}
        inputs["generator"] = generator
        if fine_tune:
            result = _fine_tuned(prior, optimizer, observations, published, inputs)
        else:
            result = published_vem(prior, observations, options=published, **inputs)
        boxes.append(flip(result.loc).transpose(1, 2).cpu())
        covariances.append(torch.diag_embed(result.variance).transpose(1, 2).cpu())
    covariance = torch.cat(covariances)
    mapping = flip(torch.eye(4)).mT
    return torch.cat(boxes), mapping @ covariance @ mapping.mT


def _fine_tuned(
    prior: SourcePrior,
    optimizer: torch.optim.Optimizer,
    observations: Tensor,
    published: PublishedOptions,
    inputs: dict[str, Tensor],
) -> PublishedResult:
    """Alternate one iteration and one gradient step on the prior's bound at the means (3.27).

    As published, one network and one optimiser serve the whole batch, and the batches after it.
    """
    start = dataclasses.replace(published, num_iterations=0)
    result = published_vem(prior, observations, options=start, **inputs)
    once = dataclasses.replace(published, num_iterations=1, cascade_piece=None)
    anchor = inputs["anchor_loc"]
    pinned = Anchor(anchor, torch.full_like(anchor, published.pinned_variance))
    for _ in range(published.num_iterations):
        q = {"initial_loc": result.loc, "initial_variance": result.variance}
        result = published_vem(prior, observations, options=once, **q, **inputs)
        loc = result.loc.clone()
        loss = -prior.elbo(loc, anchor=pinned).mean() / loc.shape[2]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return result
