"""From detections to trajectories: MixDVAE over every sequence of a data set at once."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.chain import GaussianChain
from pyromodels.distributions.kalman import smooth_and_compare
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.base import SourcePrior
from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.dynamics.with_error import WithError
from pyromodels.experiments.datasets.tracking.box_coordinates import (
    box_size,
    corners_to_centres,
    own_size_variance,
    start_boxes,
)
from pyromodels.experiments.tracking.presets import DetectorError, TrackingPreset
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.engines.coordinate_ascent import VEM
from pyromodels.inference.mixture.bound import closed_form_elbo
from pyromodels.inference.mixture.jpda_filter import online_assignment
from pyromodels.inference.mixture.moments import averaged_message
from pyromodels.inference.mixture.restarts import keep_best
from pyromodels.inference.mixture.updates import (
    AssignmentUpdate,
    ProcessNoiseUpdate,
    SourceUpdate,
    Update,
    VisibilityUpdate,
)
from pyromodels.models.information import pseudo_observations
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
    process noise of the preset, the best bound kept for each sequence. Then, the assignment kept,
    they are smoothed with a detector whose errors are correlated, and with the deep prior of the
    preset, where it has one.

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
    if preset.error is not None:
        fitted = _smooth_with(fitted, _lasting(fitted.model.prior, preset.final_decay), preset)
    if prior is not None:
        fitted = _smooth_with(fitted, prior, preset)
        if progress is not None:
            progress("prior", 0, fitted.elbo)
    return fitted


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


def with_error(
    prior: SourcePrior,
    start: Anchor,  # of the prior, box-shaped: four coordinates in blocks
    error: DetectorError,
) -> tuple[WithError, Anchor]:
    """Return the prior and its anchor with the detector's error beside them."""
    wide = WithError(prior, correlation=error.correlation).to(start.loc)
    std = start.loc.new_tensor(error.std) * box_size(start.loc[..., :: prior.block_dim])
    return wide, wide.anchor(start, error_variance=std.square())


@torch.no_grad()
def _smooth_with(fitted: Fitted, prior: SourcePrior, preset: TrackingPreset) -> Fitted:
    """Smooth once more with a prior, the assignment kept; errors correlated if the preset says so.

    A deep prior is fed with the trajectories of `fitted`: mean and draws.
    """
    error, batch, scale = preset.error, fitted.batch, 1.0
    kept = _leading(fitted.model.prior.block_dim, prior.block_dim)
    anchor = Anchor(*(kept(part) for part in batch.anchor))
    num_draws = 0 if prior.message_is_exact else preset.num_histories
    histories = kept(_mean_and_draws(fitted.guide.sources, num_draws))
    if error is not None:
        prior, anchor = with_error(prior, anchor, error)
        histories = prior.join(histories, torch.zeros_like(histories[..., :: prior.block_dim - 1]))
        scale = error.independent
    batch = MixtureBatch(batch.observations, batch.mask, batch.variance, anchor)
    model = MixDVAE(prior, detector=preset.detector, noise_scale=scale).to(anchor.loc)
    guide = MeanField(model, batch)
    guide.responsibilities, guide.visibility = (
        fitted.guide.responsibilities,
        fitted.guide.visibility,
    )
    message = averaged_message(prior, histories[0], histories[1:], anchor=anchor)
    evidence = pseudo_observations(model, batch, guide.assigned)
    guide.sources, divergence = smooth_and_compare(message, *evidence)
    elbo = closed_form_elbo(model, guide, batch, known={"sources": -divergence.sum(1)})
    return Fitted(model, guide, batch, elbo)


def _lasting(prior: LinearGaussian, decay: Sequence[float]) -> LinearGaussian:
    """The same prior with another velocity decay."""
    return LinearGaussian(
        process_std=prior.process_std.detach(), velocity_decay=decay, scale=prior.scale
    ).to(prior.transition)


def _leading(given: int, wanted: int) -> Callable[[Tensor], Tensor]:
    """Keep the first `wanted` coordinates of every block of `given`."""
    return lambda s: s.unflatten(-1, (-1, given))[..., :wanted].flatten(-2)


def _mean_and_draws(sources: GaussianChain, num_draws: int) -> Tensor:  # (1 + S, B, N, T, D)
    """The mean trajectories, then draws from the same noise every time and on every device."""
    mean, loc = sources.loc.unsqueeze(0), sources.loc_blocks
    if not num_draws:
        return mean
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(num_draws, *loc.shape, generator=generator, dtype=loc.dtype)
    return torch.cat((mean, sources.roll_out(noise.to(loc.device))))
