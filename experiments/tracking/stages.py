"""The stages of the tuned tracker, in the order of `TUNED`; a spec may list others.

The sources are constant-velocity boxes first: an online pass, then variational EM, from every
process noise, the best bound kept for each sequence. Then, the assignment kept, they are smoothed
once more: by the linear prior, or by the spec's deep one, with a detector whose errors last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.chain import GaussianChain
from pyromodels.distributions.kalman import smooth_and_compare
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.base import SourcePrior
from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.dynamics.with_error import WithError
from pyromodels.errors import SpecError
from pyromodels.experiments.datasets.tracking.box_coordinates import box_size
from pyromodels.experiments.harness.experiment import STAGES
from pyromodels.experiments.harness.plain_tables import Plain
from pyromodels.experiments.tracking.model_spec import noise_rows
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.engines.coordinate_ascent import Update
from pyromodels.inference.mixture.bound import closed_form_elbo
from pyromodels.inference.mixture.jpda_filter import online_assignment
from pyromodels.inference.mixture.moments import averaged_message
from pyromodels.inference.mixture.restarts import keep_best as keep_best_start
from pyromodels.inference.mixture.updates import (
    AssignmentUpdate,
    ProcessNoiseUpdate,
    SourceUpdate,
    VisibilityUpdate,
)
from pyromodels.inference.mixture.vem import VEM
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.observations.gaussian import GaussianObservations

Progress = Callable[[str, int, Tensor], None]
"""Called after each sweep with the phase, the sweep, and the bound of every sequence and start."""

NOISES = [
    [0.001, 0.0005], [0.001, 0.002], [0.002, 0.001], [0.004, 0.002], [0.002, 0.006], [0.008, 0.003]
]  # fmt: skip
"""Process noises to start from: of a position and of a velocity, see `model_spec.noise_rows`."""

ERROR_STD = (0.02, 0.03, 0.15, 0.06)
"""How a detector errs, mostly the same way for many frames: deviations, in box sizes, of centre x
and y (in heights), of width (in widths) and of height (in heights)."""
INDEPENDENT = 0.3
"""What remains as independent noise, as a part of the model's observation noise."""
FED_CORRELATION, FED_DECAY = 0.9, (0.95, 0.95, 0.9, 0.9)
"""Of the smoothing whose trajectories a deep prior is fed with, in training and in inference."""

TUNED: tuple[Plain, ...] = (
    {"name": "online_starts"},
    {"name": "sweeps", "steps": 9, "likelihood": "cavity"},
    {"name": "sweeps", "steps": 3},
    {"name": "keep_best"},
    {"name": "last_smoothing"},
    {"name": "deep_smoothing"},
)
"""The stages that the figures of the README are made with."""


@dataclass
class Fit:
    """A fit between two stages."""

    prior: SourcePrior  # of the spec; the stages before the last have one of their own
    model: MixDVAE
    guide: MeanField
    single: MixtureBatch  # every sequence once
    batch: MixtureBatch  # every sequence as often as there are starts
    elbo: Tensor | None = None  # nats, shape: (B,); None before a start is kept
    process_std: Tensor | None = None  # of the starts
    noise_scale: float = 1.0  # of the spec's model
    progress: Progress | None = None
    trace: dict[str, list[Tensor]] = field(default_factory=dict)  # phase -> what was told

    @property
    def num_starts(self) -> int:
        """How often a sequence is tracked at once."""
        return self.batch.num_sequences // self.single.num_sequences

    @property
    def is_deep(self) -> bool:
        """Whether the spec's prior is not the linear one of the first stages."""
        return not isinstance(self.prior, LinearGaussian)

    def sweep(
        self, updates: Sequence[Update], steps: int, phase: str, tolerance: float | None = None
    ) -> VEM:
        """Make sweeps of these updates, telling the bound."""
        vem = VEM(self.model, self.guide, updates)
        told = lambda sweep: self.tell(phase, sweep, vem.elbo(self.batch))  # noqa: E731
        vem.run(self.batch, steps, tolerance=tolerance, callback=told if self.progress else None)
        return vem

    def tell(self, phase: str, sweep: int, bound: Tensor) -> None:
        """Tell the bound of every sequence and start after a sweep, and keep it."""
        if self.progress is not None:
            self.progress(phase, sweep, bound)
            self.trace.setdefault(phase, []).append(bound.cpu())


@STAGES.register("online_starts")
def online_starts(
    fit: Fit,
    *,
    noises: Sequence[Sequence[float]] = NOISES,
    velocity_decay: Sequence[float] = (0.95, 0.95, 0.9, 0.9),
) -> None:
    """An online pass with a constant-velocity prior, from every process noise.

    Args:
        fit: the fit, changed in place.
        noises: of the starts, see `NOISES`; they stand for that of a linear prior of the spec.
        velocity_decay: of centre x and y, width and height, a frame: a walker's motion is forgotten
            slowly, so that a hidden one is not extrapolated out of the scene and onto somebody
            else's detections.
    """
    single, observations = fit.single, fit.single.observations
    rows = observations.new_tensor([noise_rows(*noise) for noise in noises])
    fit.process_std = rows.repeat_interleave(single.num_sequences, 0).unsqueeze(1)
    prior = LinearGaussian(
        process_std=fit.process_std, velocity_decay=velocity_decay, scale="centre_box"
    ).to(observations)
    fit.batch = single.repeat(len(rows))
    fit.model = _program(fit, prior)
    fit.guide = MeanField(fit.model, fit.batch)
    fit.guide.responsibilities = online_assignment(fit.model, fit.batch)


@STAGES.register("sweeps")
def sweeps(
    fit: Fit,
    *,
    steps: int,
    likelihood: Literal["expected", "cavity"] = "expected",
    learn: Sequence[Literal["process_noise"]] = ("process_noise",),
    noise_strength: float = 20.0,
    tolerance: float | None = None,
) -> None:
    """Sweeps of variational EM over q(s), the process noise, q(v) and q(w).

    Args:
        fit: the fit, changed in place.
        steps: sweeps.
        likelihood: "cavity" leaves an observation's own pull out of its E-W step; "expected"
            ascends the bound.
        learn: noises to re-estimate in every sweep.
        noise_strength: what a start is worth, in frames, when its process noise is re-estimated.
        tolerance: stop as soon as no sweep moves a responsibility by more than this, in any
            sequence of the batch; None makes all of them.
    """
    updates: list[Update] = [SourceUpdate(), VisibilityUpdate()]
    if "process_noise" in learn:
        updates.insert(1, ProcessNoiseUpdate(_started(fit).process_std, noise_strength))
    updates.append(AssignmentUpdate(likelihood=likelihood, keep_first=True))
    phase = "cavity" if likelihood == "cavity" else "bound"
    _started(fit).sweep(updates, steps, phase, tolerance)


@STAGES.register("keep_best")
def keep_best(fit: Fit) -> None:
    """The start with the best bound of every sequence, after a last update of q(s) and q(v)."""
    vem = _started(fit).sweep([SourceUpdate(), VisibilityUpdate()], 1, "final")
    count, prior = fit.single.num_sequences, fit.model.prior
    restarts = keep_best_start(vem.elbo(fit.batch), fit.guide, fit.num_starts)
    rows = restarts.best * count + torch.arange(count, device=restarts.best.device)
    prior.process_std, fit.process_std = prior.process_std[rows], fit.process_std[rows]
    fit.batch, fit.elbo = fit.single, restarts.elbo.max(0).values


@STAGES.register("last_smoothing")
def last_smoothing(
    fit: Fit,
    *,
    decay: Sequence[float] = (0.97, 0.97, 0.97, 0.97),
    error_std: Sequence[float] = ERROR_STD,
    correlation: float = 0.95,
    independent: float = INDEPENDENT,
) -> None:
    """A last pass of the linear smoother with correlated errors; left out for a deep prior.

    Args:
        fit: the fit, changed in place.
        decay: of the velocity. Nobody can be mistaken any more, and who walks towards the camera
            grows as long as he walks: all sides of his box go on.
        error_std, independent: see `ERROR_STD` and `INDEPENDENT`.
        correlation: of the error, from one frame to the next.
    """
    if not fit.is_deep:
        _smooth(_kept(fit), _lasting(fit, decay), 0, error_std, correlation, independent)


@STAGES.register("deep_smoothing")
def deep_smoothing(
    fit: Fit,
    *,
    decay: Sequence[float] = FED_DECAY,
    num_histories: int = 16,
    error_std: Sequence[float] = ERROR_STD,
    correlation: float = FED_CORRELATION,
    independent: float = INDEPENDENT,
) -> None:
    """A smoother with the spec's deep prior, fed with the linear one's; left out for a linear one.

    Args:
        fit: the fit, changed in place.
        decay: of the velocity in the linear smoother that feeds it.
        num_histories: draws of the trajectory that the prior's variance is averaged over.
        error_std: as for `last_smoothing`, of both smoothers; empty: errors are independent, as
            when the assignment was made, and the linear solution stays as it is.
        correlation, independent: as for `last_smoothing`.
    """
    if not fit.is_deep:
        return
    error = (error_std, correlation, independent)
    if error_std:
        _smooth(_kept(fit), _lasting(fit, decay), 0, *error)
    _smooth(_kept(fit), fit.prior, num_histories, *error)
    fit.tell("prior", 0, fit.elbo)


def with_error(
    prior: SourcePrior,
    start: Anchor,  # of the prior, box-shaped: four coordinates in blocks
    std: Sequence[float] = ERROR_STD,
    correlation: float = FED_CORRELATION,
) -> tuple[WithError, Anchor]:
    """Return the prior and its anchor with the detector's error beside them."""
    wide = WithError(prior, correlation=correlation).to(start.loc)
    deviation = start.loc.new_tensor(std) * box_size(start.loc[..., :: prior.block_dim])
    return wide, wide.anchor(start, error_variance=deviation.square())


@torch.no_grad()
def _smooth(
    fit: Fit,
    prior: SourcePrior,
    num_draws: int,
    error_std: Sequence[float],
    correlation: float,
    independent: float,
) -> None:
    """Smooth once more with a prior, the assignment kept.

    A deep prior is fed with the trajectories of the fit: mean and draws.
    """
    batch, scale, given = fit.batch, 1.0, fit.guide.sources
    kept = _leading(fit.model.prior.block_dim, prior.block_dim)
    anchor = Anchor(*(kept(part) for part in batch.anchor))
    histories = kept(_mean_and_draws(given, 0 if prior.message_is_exact else num_draws))
    if error_std:
        prior, anchor = with_error(prior, anchor, error_std, correlation)
        histories = prior.join(histories, torch.zeros_like(histories[..., :: prior.block_dim - 1]))
        scale = independent
    batch = MixtureBatch(batch.observations, batch.mask, batch.variance, anchor)
    model = _program(fit, prior, scale)
    guide = MeanField(model, batch)
    guide.responsibilities, guide.visibility = fit.guide.responsibilities, fit.guide.visibility
    message = averaged_message(prior, histories[0], histories[1:], anchor=anchor)
    evidence = model.observation.pseudo_observations(batch, guide.assigned)
    guide.sources, divergence = smooth_and_compare(message, *evidence)
    fit.model, fit.guide, fit.batch = model, guide, batch
    fit.elbo = closed_form_elbo(model, guide, batch, known={"sources": -divergence.sum(1)})


def _program(fit: Fit, prior: SourcePrior, scale: float = 1.0) -> MixDVAE:
    """The program with another prior, the deviation of its noise times `scale`."""
    law = GaussianObservations(prior, noise_scale=scale * fit.noise_scale)
    return MixDVAE(prior, law, detector=fit.model.detector).to(fit.single.observations)


def _started(fit: Fit) -> Fit:
    if fit.process_std is None:
        raise SpecError("inference.stages: the first one must be online_starts")
    return fit


def _kept(fit: Fit) -> Fit:
    if fit.elbo is None:
        raise SpecError("inference.stages: a smoothing comes after keep_best")
    return fit


def _lasting(fit: Fit, decay: Sequence[float]) -> LinearGaussian:
    """The linear prior of the fit with another velocity decay."""
    prior = fit.model.prior
    if not isinstance(prior, LinearGaussian):
        raise SpecError("inference.stages: one linear smoothing after another; leave one out")
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
