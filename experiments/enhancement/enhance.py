"""Noisy speech made clean: the posterior of the speech, sequence by sequence or many at once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from pyromodels.audio.blocks import in_blocks
from pyromodels.batch import SequenceBatch
from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.emissions.complex import power_of, spectra_of
from pyromodels.errors import SpecError, check_choice, mismatch
from pyromodels.experiments.separation.separate import SeparationInference, shares
from pyromodels.guides.denoising import Denoising, EncodedSpeech, FreeSpeech, SampledSpeech
from pyromodels.inference.engines.coordinate_ascent import CoordinateAscent
from pyromodels.inference.engines.svi import SVI
from pyromodels.inference.enhancement.bound import EnhancementBound
from pyromodels.inference.enhancement.mcem import (
    PROPOSALS,
    ProposalName,
    check_draws,
    monte_carlo_em,
)
from pyromodels.inference.enhancement.vem import enhancement_em
from pyromodels.inference.training.progress import progress
from pyromodels.models.enhancement import Enhancement
from pyromodels.networks.assigner import Assigner
from pyromodels.noise.base import NoiseModel, Sizes, subtracted
from pyromodels.registry import NOISES

Start = Literal["encoder", "subtracted", "network"]
Method = Literal["vem", "mcem"]


@dataclass(frozen=True)
class EnhancementInference:
    """How noisy speech is made clean.

    Args:
        method: beside noise of low rank, "vem", variational EM, or "mcem", Monte-Carlo EM, whose
            draws of z are those of Metropolis chains.
        steps: beside noise of low rank, sweeps of EM over many sequences at once; beside a network,
            steps of Adam on encoder and noise, each sequence alone (NA). 0 leaves what training on
            noisy speech has made of both (ND); with both it is NDA.
        learning_rate: of Adam; None: 0.1 in variational EM, where nothing is shared, and 5e-4 of
            networks, as published.
        starts: of q(z) in EM: "encoder", what the prior's encoder hears; or "subtracted", what it
            hears once the level of quiet frames is taken off; or "network", once a network has said
            whose each bin is. Of several the one with the best bound is kept, sequence by sequence;
            the bound of Monte-Carlo EM is that of a Gaussian with the moments of the draws.
        network: weights of that network, of two sources, speech first: a name that ships with the
            package, or a path; it is what `run separation` trains on recordings of both.
        average: take the mean of what inference and that network say: they err elsewhere.
        num_draws: of z, that estimate and variance are averaged over; in Monte-Carlo EM those of
            all chains, over which the M step is averaged too.
        num_chains: of a sequence, in Monte-Carlo EM; `num_draws` is a multiple of it.
        chain_steps: of every chain, a sweep; the first half burns in.
        proposal: of the chains, "langevin", along the slope, or "random_walk", as published.
        batch_size: sequences at once.
        block_frames: longer sequences are taken in blocks of so many, so that memory is bounded.
        overlap_frames: of two blocks, cross-faded.
    """

    method: Method = "vem"
    steps: int = 40
    learning_rate: float | None = None
    starts: tuple[Start, ...] = ("subtracted",)
    network: str = "assigner_speech_noise"
    average: bool = False
    num_draws: int = 10
    num_chains: int = 2
    chain_steps: int = 20
    proposal: ProposalName = "langevin"
    batch_size: int = 12
    block_frames: int = 1000
    overlap_frames: int = 60

    def __post_init__(self) -> None:
        """Refuse what is no choice."""
        check_choice("method", self.method, "vem", "mcem")
        check_choice("proposal", self.proposal, *PROPOSALS)
        for start in self.starts:
            check_choice("starts", start, "encoder", "subtracted", "network")
        counts = {"steps": 0, "num_draws": 1, "batch_size": 1, "num_chains": 1, "chain_steps": 1}
        for name, least in counts.items():
            if getattr(self, name) < least:
                expected = f"{least} or more"
                raise SpecError(mismatch(name, given=getattr(self, name), expected=expected))
        if self.method == "mcem":
            check_draws(self.num_draws, self.num_chains, self.chain_steps)
            if self.learning_rate is not None:
                given = f"{self.learning_rate} beside method = mcem"
                raise SpecError(mismatch("learning_rate", given=given, expected="none"))
        if not 0 <= self.overlap_frames < self.block_frames:
            given = f"{self.overlap_frames} of blocks of {self.block_frames}"
            raise SpecError(mismatch("overlap_frames", given=given, expected="fewer, 0 or more"))
        if not self.starts:
            raise SpecError(mismatch("starts", given="none", expected="one or more"))

    @property
    def asks_network(self) -> bool:
        """Whether the network is asked at all."""
        return self.average or "network" in self.starts

    def rate(self, *, alone: bool) -> float:
        """Return the learning rate: of variational EM, or of networks on one sequence alone."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 5e-4 if alone else 0.1


class Enhanced(NamedTuple):
    """One sequence, and what was made of it."""

    estimate: Tensor  # E[s | x] as heard, complex, shape: (T, F)
    variance: Tensor  # E|s - estimate|^2, shape: (T, F)
    draws: Tensor  # complex, shape: (draws, T, F)
    bounds: Tensor  # of every start, nats a frame, shape: (starts,)
    estimates: Tensor  # of every start, complex, shape: (starts, T, F)
    alone: Tensor | None = None  # what a network makes of it alone, complex, shape: (T, F)
    inferred: Tensor | None = None  # and inference, where the estimate is the mean of the two
    noise: Tensor | None = None  # E_q[v_n], the variance of the noise, shape: (T, F)


class Made(NamedTuple):
    """Programs that were fitted to sequences."""

    model: Enhancement
    guide: Denoising
    batch: SequenceBatch


def padded(spectra: Sequence[Tensor]) -> SequenceBatch:  # complex, shapes (T_i, F)
    """Return sequences of different lengths as one batch, parts of bins side by side."""
    x = pad_sequence([torch.view_as_real(s).flatten(-2) for s in spectra], batch_first=True)
    lengths = torch.tensor([len(s) for s in spectra], device=x.device)
    return SequenceBatch(x, torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1))


class Recipe(NamedTuple):
    """What noisy spectra are met with."""

    prior: DynamicalPrior  # of clean spectra
    noise: NoiseModel | Mapping[str, Any]  # a trained network, or a table: each sequence its own
    options: EnhancementInference
    gain: bool  # whether speech is as loud as it is in every frame
    keep_draws: int = 0  # of the posterior, of every sequence
    network: Assigner | None = None  # where the options ask it


def enhance(
    spectra: Sequence[Tensor], recipe: Recipe, *, what: str = "enhancing"
) -> list[Enhanced]:
    """Make noisy spectra (T_i, F), complex, clean, in their order; a bar says how far it is."""
    options = recipe.options
    alone = isinstance(recipe.noise, NoiseModel) and options.steps > 0
    size = 1 if alone else options.batch_size
    order = sorted(range(len(spectra)), key=lambda i: len(spectra[i]))
    short = [i for i in order if len(spectra[i]) <= options.block_frames]
    found: dict[int, Enhanced] = {}
    with progress(total=len(order), desc=what, unit="sequence") as bar:
        for first in range(0, len(short), size):
            rows = short[first : first + size]
            found |= zip(rows, together([spectra[i] for i in rows], recipe), strict=True)
            bar.update(len(rows))
        for i in order[len(short) :]:
            found[i] = block_by_block(spectra[i], recipe)
            bar.update()
    return [found[i] for i in range(len(spectra))]


def together(spectra: Sequence[Tensor], recipe: Recipe) -> list[Enhanced]:
    """Make several sequences clean at once."""
    alone: list[Tensor | None] = [None] * len(spectra)
    if recipe.network is not None:
        alone = [by_network(spectrum, recipe.network) for spectrum in spectra]
    of_start = [
        posterior(made, recipe.options.num_draws, recipe.keep_draws)
        for made in fitted(spectra, alone, recipe)
    ]
    bounds = torch.stack([said.bound for said in of_start])  # (starts, B)
    found = []
    for row, (spectrum, best) in enumerate(zip(spectra, bounds.argmax(0).tolist(), strict=True)):
        length, said = len(spectrum), of_start[best]
        one = Enhanced(
            said.mean[row, :length], said.variance[row, :length], said.draws[:, row, :length],
            bounds[:, row], torch.stack([other.mean[row, :length] for other in of_start]),
            alone[row], noise=said.noise[row, :length],
        )
        found.append(averaged(one, spectrum) if recipe.options.average else one)
    return found


def averaged(said: Enhanced, spectrum: Tensor) -> Enhanced:
    r"""Return the mean of what inference and the network say, as a mixture of equal parts.

        E[s] = (m + M x) / 2,   Var[s] = (V + M (1 - M) |x|^2) / 2 + |m - M x|^2 / 4

    M is the network's share, V the posterior's variance. Every other draw is the network's.
    """
    share = (said.alone.abs() / spectrum.abs().clamp_min(1e-20)).clamp(0, 1)
    own = share * (1 - share) * spectrum.abs().square()
    draws = said.draws.clone()
    chance = torch.randn_like(draws[1::2])
    draws[1::2] = said.alone + own.sqrt() * chance
    spread = (said.estimate - said.alone).abs().square() / 4
    return said._replace(
        estimate=(said.estimate + said.alone) / 2, variance=(said.variance + own) / 2 + spread,
        draws=draws, inferred=said.estimate,
    )


@torch.no_grad()
def by_network(spectrum: Tensor, network: Assigner) -> Tensor:  # complex, shape: (T, F)
    """Return what a network gives the speech."""
    share = shares(network, spectrum[None], SeparationInference(start="assigner", steps=0))
    return share[0, ..., 0] * spectrum


def block_by_block(spectrum: Tensor, recipe: Recipe) -> Enhanced:
    """Make one long sequence (T, F) clean in blocks that overlap; each has a noise of its own."""
    options, bounds = recipe.options, []

    def one(block: Tensor) -> Tensor:
        (said,) = together([block], recipe)
        bounds.append(said.bounds)
        others = [part for part in (said.alone, said.inferred) if part is not None]
        parts = [said.estimate, said.variance.to(block), said.noise.to(block), *said.draws,
                 *said.estimates, *others]
        return torch.stack(parts, -1)

    each = partial(progress, desc="blocks", unit="block", leave=False)
    estimate, variance, noise, *parts = in_blocks(
        one, spectrum, options.block_frames, options.overlap_frames, each=each
    ).unbind(-1)
    draws, parts = parts[: recipe.keep_draws], parts[recipe.keep_draws :]
    kept = torch.stack(draws) if draws else spectrum.new_zeros(0, *spectrum.shape)
    bound = torch.stack(bounds).mean(0)
    estimates, (alone, inferred, *_) = parts[: len(bound)], [*parts[len(bound) :], None, None]
    return Enhanced(estimate, variance.real, kept, bound, torch.stack(estimates), alone, inferred,
                    noise.real)


def fitted(
    spectra: Sequence[Tensor], alone: Sequence[Tensor | None], recipe: Recipe
) -> Iterator[Made]:
    """Yield model and guide from every start; a trained network of noise has one, its encoder.

    Args:
        spectra: of every sequence, complex, shapes (T_i, F).
        alone: likewise, what the network of the start makes of them; None without one.
        recipe: how.
    """
    batch, options = padded(spectra), recipe.options
    if isinstance(recipe.noise, NoiseModel):
        yield adapted(batch, recipe.prior, recipe.noise, options)
        return
    power, latent_dim = power_of(batch.x), recipe.prior.latent_dim
    sizes = Sizes(batch.num_sequences, batch.num_frames, power.shape[-1], latent_dim)
    for start in options.starts:
        heard, rest = batch, power
        if start == "subtracted":
            heard = subtracted(batch)
        elif start == "network":
            heard = padded(alone)
            rest = (power - power_of(heard.x)).clamp_min(0)
        noise = NOISES.build(recipe.noise, sizes).to(batch.x)
        noise.begin(rest, batch.mask)
        zero = nn.Parameter(torch.zeros_like(power[..., 0])) if recipe.gain else None
        model = Enhancement(recipe.prior, noise, gain=zero)
        engine = em_of(model, heard, options)
        engine.run(batch, options.steps)
        yield Made(model, engine.guide, batch)


def em_of(
    model: Enhancement,
    heard: SequenceBatch,  # what the encoder is told, as the start says
    options: EnhancementInference,
) -> CoordinateAscent:
    """Return the EM that the options name, where it starts."""
    if options.method == "vem":
        guide = FreeSpeech(model, heard)
        return enhancement_em(model, guide, learning_rate=options.rate(alone=False))
    return monte_carlo_em(
        model, SampledSpeech(model, heard, num_draws=options.num_draws),
        num_chains=options.num_chains, num_steps=options.chain_steps,
        proposal=options.proposal,
    )


def adapted(
    batch: SequenceBatch,
    prior: DynamicalPrior,
    noise: NoiseModel,
    options: EnhancementInference,
) -> Made:
    """Return copies of encoder and network, moved to one batch by gradients (thesis, 6.16)."""
    if not options.steps:
        model = Enhancement(prior, noise)
        return Made(model, EncodedSpeech(model), batch)
    model = Enhancement(*copy.deepcopy((prior, noise)))
    hold_decoder(model.prior)
    made = Made(model, EncodedSpeech(model), batch)
    engine = SVI(model, made.guide, elbo=EnhancementBound(), train_model=True,
                 learning_rate=options.rate(alone=True), max_grad_norm=100.0)
    for _ in range(options.steps):
        engine.step(batch)
    return made


def hold_decoder(prior: DynamicalPrior) -> None:
    """Let gradients move the encoder alone: p(s | z) is what is known of clean speech."""
    prior.requires_grad_(False)
    prior.encoder.requires_grad_(True)


class Said(NamedTuple):
    """The posterior of the speech as heard, of a batch."""

    mean: Tensor  # complex, shape: (B, T, F)
    variance: Tensor  # shape: (B, T, F)
    draws: Tensor  # complex, shape: (draws, B, T, F)
    bound: Tensor  # nats a frame, shape: (B,)
    noise: Tensor  # E_z[v_n], shape: (B, T, F)


@torch.no_grad()
def posterior(made: Made, num_draws: int, keep_draws: int) -> Said:
    r"""Return mean and variance of p(s | x), averaged over q(z), one draw of z at a time.

        E[s] = E_z[m(z)],      Var[s] = E_z[v(z)] + E_z|m(z)|^2 - |E[s]|^2
    """
    model, guide, batch = made
    x = spectra_of(batch.x)
    share = square = inner = heard = torch.zeros_like(x.real)
    draws = []
    for number, z in enumerate(islice(guide.latent_draws(batch), max(num_draws, keep_draws))):
        speech, noise = model.variances(batch, z)
        gain = speech / (speech + noise)
        if number < num_draws:
            share, square, inner = share + gain, square + gain**2, inner + gain * noise
            heard = heard + noise
        if number < keep_draws:
            chance = torch.randn_like(x) * (gain * noise).sqrt()  # complex, of unit variance
            draws.append(gain * x + chance)
    share, square, inner = (part / num_draws for part in (share, square, inner))
    spread = inner + (square - share**2).clamp_min(0) * x.abs().square()
    bound = EnhancementBound(num_draws)(model, guide, batch) / batch.mask.sum(-1)
    kept = torch.stack(draws) if draws else x.new_zeros(0, *x.shape)
    return Said(share * x, spread, kept, bound, heard / num_draws)
