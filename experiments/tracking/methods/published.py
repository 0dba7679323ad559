"""The published tracker on our data: its coordinates, its covariance, its schedule."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.base import SourcePrior
from pyromodels.experiments.datasets.tracking.box_coordinates import centres_to_corners, start_boxes
from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.experiments.harness.experiment import METHODS
from pyromodels.experiments.harness.weights import load_weights
from pyromodels.experiments.tracking.methods.base import Options, Tracked, chunks
from pyromodels.inference.published.method import PublishedResult, box_variance, published_vem
from pyromodels.inference.published.options import PublishedOptions

LEARNING_RATE = 1e-3
"""Of fine-tuning."""


def flip(boxes: Tensor) -> Tensor:
    """[left, top, right, bottom] <-> [left, top, right, top - height], shape (*, 4).

    The published networks read the fourth coordinate as top minus height: y grows downwards for the
    position and upwards for the size. The mapping is its own inverse.
    """
    left, top, right, bottom = boxes.unbind(-1)
    return torch.stack((left, top, right, 2 * top - bottom), -1)


@METHODS.register("reference")
@dataclass(frozen=True)
class Reference(PublishedOptions):
    """The published tracker, its undocumented choices among its options.

    Args:
        noise_ratio: r_Phi (thesis 4.4.4).
        fine_tune: tune the networks on the way.
    """

    noise_ratio: float = 0.04
    fine_tune: bool = False

    def __call__(self, data: TrackingData, options: Options) -> Tracked:
        """Track with the weights of the options."""
        if options.weights is None:
            raise ValueError(
                "weights: the published method needs the published networks, which are not "
                "shipped; pass --weights with their state dict"
            )
        return self.track(data, load_weights(options.weights).prior, options)

    def track(self, data: TrackingData, prior: SourcePrior, options: Options) -> Tracked:
        """Track with the published networks, or others of their kind."""
        device, num_sources = options.device, options.number_of_sources(data)
        prior = prior.to(device)
        generator = torch.Generator(device).manual_seed(options.seed)
        if self.fine_tune:
            prior = copy.deepcopy(prior)
            optimizer = torch.optim.Adam(prior.parameters(), lr=LEARNING_RATE)
        boxes, covariances = [], []
        for part in chunks(data, 128):
            inputs = published_inputs(part, num_sources, self.noise_ratio, device)
            inputs["generator"] = generator
            if self.fine_tune:
                result = _fine_tuned(prior, optimizer, self, inputs)
            else:
                result = published_vem(prior, options=self, **inputs)
            boxes.append(flip(result.loc).transpose(1, 2).cpu())
            covariances.append(torch.diag_embed(result.variance).transpose(1, 2).cpu())
        mapping = flip(torch.eye(4)).mT
        return Tracked(torch.cat(boxes), mapping @ torch.cat(covariances) @ mapping.mT)


@METHODS.register("reference_tuned")
@dataclass(frozen=True)
class TunedReference(Reference):
    """The published tracker, its networks tuned to the sequences on the way."""

    fine_tune: bool = True


def published_inputs(
    data: TrackingData, num_sources: int | None, ratio: float, device: torch.device | str
) -> dict[str, Any]:
    """Return what `published_vem` takes of detections, in the coordinates of its networks."""
    detections, mask = data.detections.to(device), data.mask.to(device)
    observations = flip(detections)
    # the slot rule needs every slot filled in the first frame
    rule = "slot" if mask[:, 0].all() else "observation"
    return {
        "observations": observations,
        "mask": mask,
        "observation_variance": box_variance(observations, ratio=ratio, covariance_from=rule),
        "anchor_loc": flip(centres_to_corners(start_boxes(detections, mask, num_sources))),
    }


def _fine_tuned(
    prior: SourcePrior,
    optimizer: torch.optim.Optimizer,
    published: PublishedOptions,
    inputs: dict[str, Any],
) -> PublishedResult:
    """Alternate one iteration and one gradient step on the prior's bound at the means (3.27).

    As published, one network and one optimiser serve the whole batch, and the batches after it.
    """
    start = dataclasses.replace(published, num_iterations=0)
    result = published_vem(prior, options=start, **inputs)
    once = dataclasses.replace(published, num_iterations=1, cascade_piece=None)
    anchor = inputs["anchor_loc"]
    pinned = Anchor(anchor, torch.full_like(anchor, published.pinned_variance))
    for _ in range(published.num_iterations):
        q = {"initial_loc": result.loc, "initial_variance": result.variance}
        result = published_vem(prior, options=once, **q, **inputs)
        loc = result.loc.clone()
        loss = -prior.elbo(loc, anchor=pinned).mean() / loc.shape[2]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return result
