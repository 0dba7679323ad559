"""Mixtures of one length taken apart: where inference starts, and what it makes of that."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from pyro.distributions import TorchDistribution
from pyro.infer import TraceEnum_ELBO
from torch import Tensor

from pyromodels.audio.blocks import in_blocks
from pyromodels.batch import MixtureBatch
from pyromodels.distributions.chain import GaussianChain
from pyromodels.dynamics.by_source import BySource
from pyromodels.emissions.complex import spectra_of
from pyromodels.errors import SpecError, check_choice, mismatch
from pyromodels.experiments.separation.baselines.oracles import ideal_binary_mask
from pyromodels.experiments.separation.vkf import Walks, kalman_em
from pyromodels.guides.amortised_assignment import AmortisedAssignment
from pyromodels.guides.factorised import FactorisedGuide
from pyromodels.guides.mean_field import MeanField
from pyromodels.guides.wiener import Wiener
from pyromodels.inference.additive.wiener import wiener_em
from pyromodels.inference.engines.coordinate_ascent import CoordinateAscent, Update
from pyromodels.inference.engines.svi import SVI
from pyromodels.inference.mixture.bound import closed_form_elbo
from pyromodels.inference.mixture.forward import ForwardSourceUpdate
from pyromodels.inference.mixture.updates import (
    AssignmentUpdate,
    FineTuneUpdate,
    SourceUpdate,
)
from pyromodels.inference.mixture.vem import VEM
from pyromodels.inference.objectives.closed_form import Bound
from pyromodels.inference.training.progress import progress
from pyromodels.models.additive import Additive
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.networks.assigner import Assigner
from pyromodels.observations.spectra import ComplexSpectra, spectra_batch

Program = Literal["mixture", "additive"]
Start = Literal["assigner", "encoders", "oracle"]
Engine = Literal["vem", "svi"]


@dataclass(frozen=True)
class SeparationInference:
    """How mixtures are taken apart.

    Args:
        program: "mixture" gives every bin to one source (`MixDVAE`), "additive" adds the sources.
        start: "assigner", a network that has learnt to tell the sources apart on mixtures of their
            recordings; "encoders", as published: each source as its own model hears the mixture; or
            "oracle", the ideal binary mask, which mixtures of known truth have.
        engine: from there, "vem", variational EM, or "svi" in the mixture program, where q(w) and
            q(s) are what the network of the start "assigner" says (`AmortisedAssignment`), and Adam
            moves a copy of it, one for all mixtures of one length, which it reads whole.
        steps: sweeps of variational EM, or steps of Adam; 0 leaves the start as it is.
        learning_rate: of Adam, in SVI.
        elbo: what SVI climbs: "closed_form", as variational EM, or "trace_enum", Pyro's estimator,
            which draws s and z, and so counts what priors' latents cost.
        order: of E-S in the mixture program: "forward", frame after frame as published, or
            "whole", all frames given the sweep before. Walks (`vkf`) have a smoother of their own.
        ratio: of the observation's variance to the power of a bin; 0.03 in the published code, 1e-4
            in the thesis, which walks need.
        damping: how far a sweep goes, in (0, 1].
        fine_tune: learning rate of Adam, which moves the networks of the priors by a step on their
            own bounds in every sweep of the mixture program, for all mixtures of one length
            together; 0, as published for sound: they are held.
        block_frames: that the network is given at once; a longer mixture is read in blocks.
        overlap_frames: over which blocks are faded into each other.
    """

    program: Program = "mixture"
    start: Start = "assigner"
    engine: Engine = "vem"
    steps: int = 20
    learning_rate: float = 1e-4
    elbo: Literal["closed_form", "trace_enum"] = "closed_form"
    order: Literal["forward", "whole"] = "forward"
    ratio: float = 0.03
    damping: float = 1.0
    fine_tune: float = 0.0
    block_frames: int = 300
    overlap_frames: int = 60

    def __post_init__(self) -> None:
        """Refuse what is no choice."""
        check_choice("program", self.program, "mixture", "additive")
        check_choice("start", self.start, "assigner", "encoders", "oracle")
        check_choice("engine", self.engine, "vem", "svi")
        check_choice("elbo", self.elbo, "closed_form", "trace_enum")
        check_choice("order", self.order, "forward", "whole")
        if self.engine == "svi":
            self._check_svi()
        if self.steps < 0:
            raise SpecError(mismatch("steps", given=self.steps, expected="0 or more"))
        if self.fine_tune < 0 or (self.fine_tune and self.program != "mixture"):
            given = f"{self.fine_tune} in the {self.program} program"
            expected = "0, or a learning rate in the mixture program"
            raise SpecError(mismatch("fine_tune", given=given, expected=expected))
        if not 0 <= self.overlap_frames < self.block_frames:
            expected = f"0 or more, less than block_frames={self.block_frames}"
            raise SpecError(
                mismatch("overlap_frames", given=self.overlap_frames, expected=expected)
            )

    def _check_svi(self) -> None:
        """Refuse what steps of Adam on the network have no use for."""
        wanted = {"program": "mixture", "start": "assigner", "damping": 1.0, "fine_tune": 0.0}
        for name, expected in wanted.items():
            if getattr(self, name) != expected:
                given = f"{getattr(self, name)} beside engine = svi"
                raise SpecError(mismatch(name, given=given, expected=expected))
        if self.learning_rate <= 0:
            expected = "a number above 0"
            raise SpecError(mismatch("learning_rate", given=self.learning_rate, expected=expected))


class Separated(NamedTuple):
    """Mixtures of one length, and what was made of them."""

    start: Tensor  # the sources as inference found them, complex, shape: (B, N, T, F)
    estimate: Tensor  # the sources as it left them, complex, shape: (B, N, T, F)
    variance: Tensor | None  # E_q|s - estimate|^2, shape: (B, N, T, F); None without a sweep
    draws: Tensor | None  # of q(s), complex, shape: (draws, B, N, T, F); likewise
    bounds: Tensor  # after every sweep, nats, shape: (steps, B)
    program: Any  # the model
    guide: Any
    batch: MixtureBatch | None
    between: Mapping[int, Tensor] = {}  # the estimate after some of the sweeps, by number


@torch.no_grad()
def separate(
    mixture: Tensor,  # complex, shape: (B, T, F)
    prior: BySource | Walks | None,
    options: SeparationInference,
    *,
    assigner: Assigner | None = None,
    encoders: BySource | None = None,
    truth: Tensor | None = None,  # complex, shape: (B, N, T, F)
    num_draws: int = 0,
    after: Collection[int] = (),
) -> Separated:
    """Take mixtures apart.

    Args:
        mixture: their spectra.
        prior: of each source, of complex spectra, or of all of them; None where no sweep is made.
        options: how.
        assigner: the network of the start "assigner".
        encoders: the models of the start "encoders", where they are others than the prior's.
        truth: the sources, of the start "oracle".
        num_draws: of q(s).
        after: sweeps whose estimates are kept, in the memory of the CPU; those that are not made
            have none.
    """
    start, share = begin(mixture, prior, options, assigner, encoders, truth)
    if not options.steps:
        nothing = mixture.real.new_zeros(0, len(mixture))
        return Separated(start, start, None, None, nothing, None, None, None)
    batch = observed(mixture, start.shape[1], prior, options)
    engine = ascent(prior, batch, start, share, options, assigner)
    guide: Any = engine.guide
    bounds, between = [], {}
    for number in range(1, options.steps + 1):
        bounds.append(_after_a_step(engine, batch))
        if number in after:
            between[number] = spectra_of(_sources(guide, batch).mean).cpu()
    law = _sources(guide, batch)
    draws = spectra_of(law.rsample(torch.Size([num_draws])))
    variance = law.variance.unflatten(-1, (-1, 2)).sum(-1)
    return Separated(
        start, spectra_of(law.mean), variance, draws, torch.stack(bounds), engine.model, guide,
        batch, between,
    )


@torch.no_grad()
def begin(
    mixture: Tensor,  # complex, shape: (B, T, F)
    prior: BySource | Walks | None,
    options: SeparationInference,
    assigner: Assigner | None = None,
    encoders: BySource | None = None,
    truth: Tensor | None = None,  # complex, shape: (B, N, T, F)
) -> tuple[Tensor, Tensor | None]:  # complex, (B, N, T, F); of every bin, (B, T, F, N)
    """Return the sources that inference starts from, and what q(w) is told, as `separate`."""
    if options.start == "encoders":
        if encoders is None and isinstance(prior, BySource):
            encoders = prior
        start = heard(encoders, mixture)
        if isinstance(prior, Walks):  # of the start these are told q(w) alone
            return start, ideal_binary_mask(start).movedim(1, -1).to(mixture.real)
        return start, None
    if options.start == "assigner":
        share = shares(assigner, mixture, options)
    else:
        share = ideal_binary_mask(truth).movedim(1, -1).to(mixture.real)
    return share.movedim(-1, 1) * mixture.unsqueeze(1), share


def observed(
    mixture: Tensor,  # complex, shape: (B, T, F)
    num_sources: int,
    prior: BySource | Walks,
    options: SeparationInference,
) -> MixtureBatch:
    """Return mixtures as the programs observe them."""
    anchor = prior.anchor(mixture, num_sources) if isinstance(prior, Walks) else None
    return spectra_batch(mixture, num_sources, ratio=options.ratio, anchor=anchor)


def ascent(
    prior: BySource | Walks,
    batch: MixtureBatch,
    start: Tensor,  # complex, shape: (B, N, T, F)
    share: Tensor | None,  # shape: (B, T, F, N)
    options: SeparationInference,
    assigner: Assigner | None = None,
) -> CoordinateAscent | SVI:
    """Return the engine of a program, its guide at the start."""
    if isinstance(prior, Walks):
        return kalman_em(prior, batch, share, damping=options.damping)
    if options.program == "additive":
        return _additive(prior, batch, start, options)
    if options.engine == "svi":
        return _svi(prior, batch, assigner, options)
    return _mixture(prior, batch, start, share, options)


def shares(
    assigner: Assigner,
    mixture: Tensor,  # complex, shape: (B, T, F)
    options: SeparationInference,
) -> Tensor:  # shape: (B, T, F, N)
    """Return what a network gives each source of every bin, block by block.

    Every block is told at its own level, as training was.
    """
    def share(block: Tensor) -> Tensor:
        return assigner(block.abs().square()).softmax(-1)

    return in_blocks(
        share, mixture, options.block_frames, options.overlap_frames,
        each=lambda starts: progress(
            starts, desc="taking apart", unit="block", leave=False, disable=len(starts) == 1
        ),
    )


def heard(prior: BySource, mixture: Tensor) -> Tensor:
    """Return the mixture as each source's model rebuilds it, by the phase of the mixture."""
    parts = torch.view_as_real(mixture).flatten(-2)
    wide = parts.unsqueeze(1).expand(-1, len(prior.priors), -1, -1)
    variance = prior.gaussian_message(wide, anchor=None).covariance.flatten(-3)
    power = variance.unflatten(-1, (-1, 2)).sum(-1)
    return torch.polar(power.sqrt(), mixture.angle().unsqueeze(1).expand_as(power))


def _mixture(
    prior: BySource,
    batch: MixtureBatch,
    start: Tensor,
    share: Tensor | None,
    options: SeparationInference,
) -> CoordinateAscent:
    if options.fine_tune:
        prior = copy.deepcopy(prior)
    model = MixDVAE(prior, ComplexSpectra(prior))
    guide = MeanField(model, batch)
    loc = torch.view_as_real(start.contiguous()).flatten(-2)
    little = torch.full_like(loc, 1e-12)[..., None, None]  # the start is told without an error
    guide.sources = GaussianChain(loc.unsqueeze(-1), little, None, covariance=little)
    if share is not None:
        guide.responsibilities = share
    sources: Update = ForwardSourceUpdate() if options.order == "forward" else SourceUpdate()
    updates = [sources, AssignmentUpdate()]
    if options.fine_tune:
        updates.insert(1, FineTuneUpdate(prior, options.fine_tune))
    return VEM(model, guide, updates, damping=options.damping)


def _svi(
    prior: BySource, batch: MixtureBatch, assigner: Assigner, options: SeparationInference
) -> SVI:
    model = MixDVAE(prior, ComplexSpectra(prior))
    guide = AmortisedAssignment(model, batch, network=copy.deepcopy(assigner))
    elbo: Bound | TraceEnum_ELBO = closed_form_elbo
    if options.elbo == "trace_enum":
        elbo = TraceEnum_ELBO(max_plate_nesting=model.max_plate_nesting)
    return SVI(
        model, guide, elbo=elbo, learning_rate=options.learning_rate, num_steps=options.steps
    )


def _after_a_step(engine: CoordinateAscent | SVI, batch: MixtureBatch) -> Tensor:
    """Take a step; return the bound of every mixture after it, nats, (B,)."""
    if isinstance(engine, CoordinateAscent):
        return engine.elbo(batch, known=engine.sweep(batch))
    with torch.enable_grad():
        engine.step(batch)
    model: Any = engine.model
    guide: Any = engine.guide
    return closed_form_elbo(model, guide, batch)


def _sources(guide: Wiener | FactorisedGuide, batch: MixtureBatch) -> TorchDistribution:
    """Return q(s), batch (B, N), event (T, 2 F)."""
    return guide.sources(batch) if isinstance(guide, Wiener) else guide.of(batch).sources


def _additive(
    prior: BySource, batch: MixtureBatch, start: Tensor, options: SeparationInference
) -> CoordinateAscent:
    model = Additive(prior)
    guide = Wiener(model, batch)
    parts = torch.view_as_real(start.contiguous()).flatten(-2)
    guide.variances = prior.gaussian_message(parts, anchor=None).covariance.flatten(-3)
    return wiener_em(model, guide, damping=options.damping)
