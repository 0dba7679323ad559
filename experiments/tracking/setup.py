"""From boxes to what a fit takes: the batch of a prior, and the prior with its weights."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.base import SourcePrior
from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.errors import SpecError, mismatch
from pyromodels.experiments.datasets.tracking.box_coordinates import (
    box_size,
    corners_to_centres,
    own_size_variance,
    start_boxes,
)
from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.experiments.harness.experiment import naming
from pyromodels.experiments.harness.weights import CENTRES, load_weights
from pyromodels.experiments.tracking.model_spec import WALKERS, ModelSpec, PriorSpec
from pyromodels.guides.base import start_keywords
from pyromodels.guides.mean_field import MeanField
from pyromodels.guides.parametrised import ParametrisedMeanField
from pyromodels.inference.mixture.start import online_start
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.registry import DYNAMICS, GUIDES, OBSERVATIONS

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def walker_prior() -> LinearGaussian:
    """Return the constant-velocity prior of a walker's box, with which every fit starts."""
    return LinearGaussian(**WALKERS)


def build_prior(said: PriorSpec) -> SourcePrior:
    """Return the prior of one source, with its weights."""
    if said.trained is not None:
        return trained_prior(said.trained, said.dynamics["name"], least_std=said.least_std)
    prior = DYNAMICS.build(said.complete_dynamics)
    if not isinstance(prior, SourcePrior):
        given, expected = type(prior).__name__, "a source prior, e.g. linear"
        raise SpecError(mismatch("model.prior.dynamics", given=given, expected=expected))
    return prior


def trained_prior(weights: str, dynamics: str, *, least_std: float = 0.005) -> SourcePrior:
    """Return a deep prior with weights, its predicted deviations bounded from below.

    Args:
        weights: see `load_weights`.
        dynamics: the registry key that the weights must be of.
        least_std: floor of the deviation, in box sizes; below 1.

    Raises:
        SpecError: weights of other dynamics, or of boxes in other coordinates.
    """
    found = load_weights(weights)
    given = found.record.get("prior", {}).get("name", "srnn")
    if given != dynamics:
        what = f"model.prior.weights {weights!r}"
        raise SpecError(mismatch(what, given=f"weights of {given}", expected=f"of {dynamics}"))
    if found.record.get("coordinates", CENTRES) != CENTRES or not found.prior.emission.moves:
        raise SpecError(
            f"model.prior.weights {weights!r}: they predict positions of corners, as published; "
            "expected increments of centres and sizes. Use `pyromodels run mot --preset reference`"
        )
    if not least_std < 1:
        raise SpecError(mismatch("model.prior.least_std", given=least_std, expected="below 1"))
    prior = found.prior
    prior.emission = dataclasses.replace(prior.emission, std_range=(least_std, 1.0))
    return prior


def box_program(
    data: TrackingData, said: ModelSpec, *, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> tuple[MixtureBatch, MixDVAE]:
    """Return the detections as a batch, and the program that a spec's `[model]` says."""
    with naming("model.prior"):
        prior = build_prior(said.prior).to(device, dtype)
    batch = box_batch(
        data,
        prior,
        num_sources=said.num_sources,
        noise_ratio=said.noise_ratio,
        start_std=said.start_std,
        dtype=dtype,
        device=device,
    )
    law = OBSERVATIONS.build(said.law, prior)
    return batch, MixDVAE(prior, law, detector=said.detector).to(device, dtype)


def box_batch(
    data: TrackingData,
    prior: SourcePrior,
    *,
    num_sources: int | None = None,
    noise_ratio: tuple[float, float] = (0.12, 0.05),
    start_std: tuple[float, float] = (0.15, 0.02),
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> MixtureBatch:
    """Return the detections as a batch for a prior, the sources starting near the first ones.

    Args:
        data: boxes.
        prior: what p(s_1) is made for.
        num_sources: N; None takes as many as the truth has, else as the first frame has detections.
        noise_ratio: observation noise, see `own_size_variance`.
        start_std: deviations of p(s_1): positions in box sizes, velocities in box sizes a frame.
        dtype: precision of the numbers.
        device: where they are to be.

    Raises:
        SpecError: for a prior of anything but a box in centre and size.
        ValueError: where no frame has enough detections to start from.
    """
    detections, mask = data.detections.to(device, dtype), data.mask.to(device)
    if num_sources is None:
        num_sources = data.num_objects
    start = start_boxes(detections, mask, num_sources)
    return MixtureBatch(
        corners_to_centres(detections),
        mask,
        own_size_variance(detections, noise_ratio),
        box_anchor(start, prior, start_std),
    )


def box_anchor(
    start: Tensor,  # (centre x, centre y, width, height), shape: (B, N, 4)
    prior: SourcePrior,
    start_std: tuple[float, float] = (0.15, 0.02),
) -> Anchor:
    """Return p(s_1) in the coordinates of a prior: positions, and velocities where it has them.

    Raises:
        SpecError: for a prior of anything but a box.
    """
    if prior.source_dim != 4 * prior.block_dim or prior.block_dim > len(start_std):
        given = f"{prior.source_dim} coordinates in blocks of {prior.block_dim}"
        expected = "4 blocks, those of a box: positions, or positions and velocities"
        raise SpecError(mismatch("model.prior", given=given, expected=expected))
    zeros = [torch.zeros_like(start)] * (prior.block_dim - 1)
    variances = [(std * box_size(start)).square() for std in start_std[: prior.block_dim]]
    return Anchor(*(torch.stack(part, -1).flatten(-2) for part in ([start, *zeros], variances)))


def started_guide(
    table: Mapping[str, Any],
    model: MixDVAE,
    batch: MixtureBatch,
    *,
    start_std: tuple[float, float] = (0.15, 0.02),
) -> nn.Module:
    """Return the guide that a table names, standing where every engine starts (`start_fit`).

    Args:
        table: `{"name": ..., **options}`; model, batch and a start are supplied.
        model: the program to be fitted.
        batch: the data, as `box_batch` returned it.
        start_std: see `start_fit`.

    Raises:
        SpecError: an unknown guide or key, or a guide that cannot serve the model.
    """
    begun = MeanField(model, batch)
    start_fit(model, begun, batch, start_std=start_std)
    component = GUIDES[table.get("name")]
    start = {"s": begun.sources.loc.unsqueeze(1)}
    scale = begun.sources.variance.sqrt().median().item()
    keywords = {**start_keywords(component, start, scale), **table}
    takes_batch = "batch" in inspect.signature(component).parameters
    guide = GUIDES.build(keywords, *([model, batch] if takes_batch else [model]))
    if isinstance(guide, MeanField):
        return begun
    if isinstance(guide, ParametrisedMeanField):
        return begun.parametrised(guide.assignment)
    return guide


def start_fit(
    model: MixDVAE,
    guide: MeanField,
    batch: MixtureBatch,
    *,
    start_std: tuple[float, float] = (0.15, 0.02),
) -> None:
    """Set the guide to where every engine starts: an online pass, see `online_start`.

    The filter is the model's own prior where that is linear, else `walker_prior`.

    Args:
        model: the program to be fitted.
        guide: its guide, changed in place.
        batch: the data, as `box_batch` returned it.
        start_std: see `box_batch`; of the filter's velocities.
    """
    prior, anchor = model.prior, batch.anchor
    if not isinstance(prior, LinearGaussian):
        prior = walker_prior().to(batch.observations)
        anchor = box_anchor(batch.anchor.loc, prior, start_std)
    online_start(model, guide, batch, prior=prior, anchor=anchor)
