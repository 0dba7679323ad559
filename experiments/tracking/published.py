"""The published tracker on our data: its coordinates, its covariance, its schedule."""

import copy
import dataclasses

import torch
from torch import Tensor

from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.base import SourcePrior
from pyromodels.experiments.datasets.tracking.box_coordinates import centres_to_corners, start_boxes
from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.inference.published.method import PublishedResult, box_variance, published_vem
from pyromodels.inference.published.options import PublishedOptions

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
    *,
    num_sources: int | None = None,
    device: str = "cpu",
    seed: int = 0,
    fine_tune: bool = False,
    noise_ratio: float = NOISE_RATIO,
    **changes: object,
) -> tuple[Tensor, Tensor]:  # boxes (S, T, N, 4); covariance of their corners (S, T, N, 4, 4)
    """Run the published algorithm with its undocumented choices (`PublishedOptions.REFERENCE`).

    Args:
        data: the detections.
        prior: the published networks, or others of their kind.
        num_sources: N; None says the first frame.
        device: where to run.
        seed: of the draws of z.
        fine_tune: tune the networks on the way.
        noise_ratio: r_Phi.
        **changes: fields of the published options to replace.
    """
    published = dataclasses.replace(PublishedOptions.REFERENCE, **changes)
    generator = torch.Generator(device).manual_seed(seed)
    if fine_tune:
        prior = copy.deepcopy(prior)
        optimizer = torch.optim.Adam(prior.parameters(), lr=LEARNING_RATE)
    boxes, covariances = [], []
    for first in range(0, data.num_sequences, 128):
        part = data.subset(slice(first, first + 128))
        detections, mask = part.detections.to(device), part.mask.to(device)
        anchor = flip(centres_to_corners(start_boxes(detections, mask, num_sources)))
        # the slot rule needs every slot filled in the first frame
        rule = "slot" if mask[:, 0].all() else "observation"
        observations = flip(detections)
        variance = box_variance(observations, ratio=noise_ratio, covariance_from=rule)
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
