"""From detections to trajectories: MixDVAE over every sequence of a data set at once."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.mot.boxes import box_size, corners_to_centres, own_size_variance, start_boxes
from experiments.mot.presets import TrackingPreset
from inference.online import online_assignment
from inference.restarts import keep_best
from inference.updates import (
    AssignmentUpdate,
    ProcessNoiseUpdate,
    SourceUpdate,
    Update,
    VisibilityUpdate,
)
from inference.vem import VEM
from pyromodels.batch import MixtureBatch
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.base import SourcePrior
from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.guides.mean_field import MeanField
from pyromodels.models.mixdvae import MixDVAE

START_STD = (0.15, 0.02)
"""Standard deviation of a start: of positions, in box sizes, and of velocities, in box sizes a
frame.
"""

Progress = Callable[[str, int, Tensor], None]
"""Called after each sweep with the phase, the sweep, and the bound of every sequence and start."""


class Fitted(NamedTuple):
    """A fitted guide with the program and the data it belongs to."""

    model: MixDVAE
    guide: MeanField
    batch: MixtureBatch
    elbo: Tensor  # nats, shape: (B,)

    @property
    def centres(self) -> tuple[Tensor, Tensor]:
        """Posterior mean and variance of (centre x, centre y, width, height), each (B, T, N, 4)."""
        sources, step = self.guide.sources, self.model.prior.block_dim
        return (
            sources.loc[..., ::step].transpose(1, 2),
            sources.variance[..., ::step].transpose(1, 2),
        )


def track(
    detections: Tensor,  # [left, top, right, bottom] in image sizes, shape: (B, T, K, 4)
    mask: Tensor,  # True where a detection is there, shape: (B, T, K)
    preset: TrackingPreset,
    *,
    num_sources: int | None = None,
    prior: SourcePrior | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Track `num_sources` objects through every sequence.

    The sources are constant-velocity boxes first: an online pass, then variational EM, from every
    process noise of the preset, the best bound kept for each sequence. A deep prior, where the
    preset has one, continues from there.

    Args:
        detections: the boxes, in any order within a frame.
        mask: which of them are there.
        preset: see `presets`.
        num_sources: N; None takes as many as the first frame has detections.
        prior: the deep prior of the preset.
        progress: called after each sweep.

    Raises:
        ValueError: where no frame has enough detections to start from.
    """
    start = start_boxes(detections, mask, num_sources)
    fitted = _track_linear(detections, mask, start, preset, progress)
    if prior is not None:
        return _track_deep(fitted, prior, preset, progress)
    return fitted if preset.error is None else _smooth_again(fitted, preset)


def _batch(
    detections: Tensor, mask: Tensor, preset: TrackingPreset, anchor: Anchor
) -> MixtureBatch:
    observations = corners_to_centres(detections)
    return MixtureBatch(
        observations, mask, own_size_variance(detections, preset.noise_ratio), anchor
    )


def _run(
    vem: VEM,
    updates: Sequence[Update],
    sweeps: int,
    batch: MixtureBatch,
    progress: Progress | None,
    phase: str,
    tolerance: float | None = None,
) -> None:
    vem.updates = list(updates)
    tell = None if progress is None else lambda sweep: progress(phase, sweep, vem.elbo(batch))
    vem.run(batch, sweeps, tolerance=tolerance, callback=tell)


def _track_linear(
    detections: Tensor,
    mask: Tensor,
    start: Tensor,
    preset: TrackingPreset,
    progress: Progress | None,
) -> Fitted:
    unit = box_size(start)
    zero = torch.zeros_like(start)
    anchor = Anchor(
        torch.stack((start, zero), -1).flatten(-2),
        torch.stack([(std * unit).square() for std in START_STD], -1).flatten(-2),
    )
    single = _batch(detections, mask, preset, anchor)
    num_starts = len(preset.starts)
    batch = single.repeat(num_starts)
    process_std = detections.new_tensor([noise.rows() for noise in preset.starts])
    process_std = process_std.repeat_interleave(single.num_sequences, 0).unsqueeze(1)
    prior = LinearGaussian(
        process_std=process_std, velocity_decay=preset.velocity_decay, scale="centre_box"
    ).to(detections)
    model = MixDVAE(prior, detector=preset.detector).to(detections.device)
    guide = MeanField(model, batch)
    guide.responsibilities = online_assignment(model, batch)
    vem = VEM(model, guide, [])
    before = [
        SourceUpdate(),
        ProcessNoiseUpdate(process_std, preset.noise_strength),
        VisibilityUpdate(),
    ]
    cavity = AssignmentUpdate(likelihood="cavity", keep_first=True)
    expected = AssignmentUpdate(keep_first=True)
    _run(vem, [*before, cavity], preset.cavity_sweeps, batch, progress, "cavity", preset.tolerance)
    _run(vem, [*before, expected], preset.sweeps, batch, progress, "bound", preset.tolerance)
    _run(vem, [SourceUpdate(), VisibilityUpdate()], 1, batch, progress, "final")
    restarts = keep_best(vem.elbo(batch), guide, num_starts)
    rows = restarts.best * single.num_sequences + torch.arange(
        single.num_sequences, device=mask.device
    )
    prior.process_std = prior.process_std[rows]
    return Fitted(model, guide, single, restarts.elbo.max(0).values)


def _smooth_again(fitted: Fitted, preset: TrackingPreset) -> Fitted:
    """Smooth once more, the assignment kept, with a detector whose errors are correlated in time
    and with velocities that last (`final_decay`).
    """
    old, batch, error = fitted.model.prior, fitted.batch, preset.error
    noise = batch.anchor.loc.new_tensor(error.std)[:, None]
    shock = noise * (1 - error.correlation**2) ** 0.5
    process_std = torch.cat((old.process_std, shock.expand(*old.process_std.shape[:-1], 1)), -1)
    prior = LinearGaussian(
        process_std=process_std,
        velocity_decay=preset.final_decay,
        error_correlation=error.correlation,
        scale=old.scale,
    ).to(batch.observations.device)
    loc, variance = (part.unflatten(-1, (-1, 2)) for part in batch.anchor)
    error_variance = (noise * old.unit(batch.anchor)).square()
    anchor = Anchor(
        torch.cat((loc, torch.zeros_like(error_variance)), -1).flatten(-2),
        torch.cat((variance, error_variance), -1).flatten(-2),
    )
    batch = MixtureBatch(batch.observations, batch.mask, batch.variance, anchor)
    model = MixDVAE(prior, detector=fitted.model.detector, noise_scale=error.independent)
    model = model.to(batch.observations.device)
    guide = MeanField(model, batch)
    guide.responsibilities, guide.visibility = (
        fitted.guide.responsibilities,
        fitted.guide.visibility,
    )
    vem = VEM(model, guide, [SourceUpdate()])
    vem.sweep(batch)
    return Fitted(model, guide, batch, vem.elbo(batch))


def _track_deep(
    linear: Fitted, prior: SourcePrior, preset: TrackingPreset, progress: Progress | None
) -> Fitted:
    step = linear.model.prior.block_dim
    anchor = Anchor(*(part[..., ::step] for part in linear.batch.anchor))
    batch = MixtureBatch(
        linear.batch.observations, linear.batch.mask, linear.batch.variance, anchor
    )
    model = MixDVAE(prior, detector=preset.detector).to(batch.observations)
    guide = MeanField(model, batch)
    guide.responsibilities, guide.visibility = (
        linear.guide.responsibilities,
        linear.guide.visibility,
    )
    guide.loc = linear.guide.loc[..., :1]
    vem = VEM(model, guide, [])
    cavity = AssignmentUpdate(likelihood="cavity", keep_first=True)
    updates = [SourceUpdate(), VisibilityUpdate(), cavity]
    _run(vem, updates, preset.prior_sweeps, batch, progress, "prior")
    _run(vem, [SourceUpdate(), VisibilityUpdate()], 1, batch, progress, "final")
    return Fitted(model, guide, batch, vem.elbo(batch))
