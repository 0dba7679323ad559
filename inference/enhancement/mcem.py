"""Monte-Carlo EM of speech in low-rank noise: Metropolis draws of z, multiplicative updates."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from pyromodels.batch import SequenceBatch
from pyromodels.dynamics.cell import MarkovCell, standard_normal
from pyromodels.emissions.complex import power_of
from pyromodels.errors import SpecError, check_choice, mismatch
from pyromodels.guides.denoising import SampledSpeech
from pyromodels.inference.engines.coordinate_ascent import CoordinateAscent, Update
from pyromodels.inference.enhancement.bound import EnhancementBound, log_density
from pyromodels.inference.enhancement.vem import NoiseUpdate, check_noise
from pyromodels.models.enhancement import Enhancement


class Proposal(NamedTuple):
    """How far proposals go, and where to: what is best for many dimensions d."""

    along_slope: bool  # whether they follow the slope of the density
    accepted: float  # the share that should be
    factor: float  # of the first deviation, in units of the posterior's: factor d^power
    power: float


ProposalName = Literal["langevin", "random_walk"]
PROPOSALS: dict[str, Proposal] = {
    "langevin": Proposal(True, 0.574, 1.65, -1 / 6),
    "random_walk": Proposal(False, 0.234, 2.38, -1 / 2),
}


class Chains(NamedTuple):
    """Where chains are, each of every sequence."""

    z: Tensor  # shape: (C, B, T, L)
    evidence: Tensor  # log p(x_t | z), nats, zero where no frame is; shape: (C, B, T)
    prior: Tensor  # log p(z_t | z_<t), likewise
    slope: Tensor  # of their sum in z, zero where proposals do not follow it; shape: as z
    log_step: Tensor  # log of the proposal's deviation; shape: (C, B, T), or (C, B, 1)


class MetropolisUpdate(Update):
    r"""E step: draws of p(z | x), the noise held, by chains that go on from sweep to sweep.

        z* = z + \epsilon e [+ \epsilon^2 / 2 d log p(x, z) / dz],    e ~ N(0, I),   accepted with
        probability min(1, p(x, z*) q(z | z*) / p(x, z) q(z* | z))

    What is proposed and accepted together is the least that the decoder allows:

    ======================  ================================================================
    frames know each other  together
    ======================  ================================================================
    not at all (VAE)        a frame, all frames of a sequence at once
    by z_{t-1} (DKF)        a frame, the even ones at once and then the odd ones
    by a memory (RVAE)      the whole sequence
    ======================  ================================================================

    The deviation \epsilon of each is found while a chain burns in, in the first half of the steps
    of every sweep, so that the share of proposals is accepted that is best for many dimensions;
    then it is held.

    Departure: the published proposal is a random walk of deviation 0.1, without the slope. The
    steps of a walk shrink with the square root of what is proposed together, T L in an RVAE; those
    along the slope with its sixth root (a Metropolis-adjusted Langevin algorithm), see
    docs/enhancement.md for what that gains.

    Reference: Leglaive, Girin and Horaud, 2018, A variance modeling framework based on variational
    autoencoders for speech enhancement, algorithm 1; Roberts and Rosenthal, 1998, Optimal scaling
    of discrete approximations to Langevin diffusions.

    Args:
        num_chains: C, of every sequence; the guide's draws are a multiple of it.
        num_steps: of every chain, a sweep. The guide takes draws of the second half.
        proposal: along the slope, "langevin", or a "random_walk".
    """

    changes_model = False

    def __init__(
        self, *, num_chains: int = 2, num_steps: int = 20, proposal: ProposalName = "langevin"
    ) -> None:
        check_choice("proposal", proposal, *PROPOSALS)
        self.num_chains, self.num_steps = num_chains, num_steps
        self.proposal = PROPOSALS[proposal]
        self.log_step: Tensor | None = None

    def __call__(self, model: Enhancement, guide: SampledSpeech, batch: SequenceBatch) -> None:
        """Set the guide's draws.

        Raises:
            SpecError: where the draws are no multiple of the chains, or more than the steps give.
        """
        total = guide.draws.shape[1]
        check_draws(total, self.num_chains, self.num_steps)
        num_draws, kept = total // self.num_chains, self.num_steps - self.num_steps // 2
        every = kept // num_draws
        chains, draws = self.started(model, guide, batch), []
        for left in reversed(range(self.num_steps)):
            chains = moved(model, batch, chains, self.proposal, adapt=left >= kept)
            if left % every == 0 and left < every * num_draws:
                draws.append(chains.z)
        self.log_step = chains.log_step
        guide.draws = torch.cat(draws).movedim(0, 1)

    def started(self, model: Enhancement, guide: SampledSpeech, batch: SequenceBatch) -> Chains:
        """Return the chains where they were, at the last of the draws."""
        z = guide.draws[:, -self.num_chains :].movedim(1, 0)
        known = surveyed(model, batch, z, self.proposal)
        if self.log_step is not None and self.log_step.shape[:2] == z.shape[:2]:
            return Chains(z, *known, self.log_step)
        by_frame = isinstance(model.prior.cell, MarkovCell)
        together = z.shape[-1] * (1 if by_frame else z.shape[-2])
        scale = guide.moments[1].exp().mean((-2, -1))
        step = self.proposal.factor * scale * together**self.proposal.power
        wide = known[0] if by_frame else known[0][..., :1]
        return Chains(z, *known, step.log().unsqueeze(-1).expand_as(wide))


def check_draws(num_draws: int, num_chains: int, num_steps: int) -> None:
    """Raise `SpecError` where chains cannot give so many draws in the second half of their steps.

    Args:
        num_draws: of all chains together.
        num_chains: that share them equally.
        num_steps: of each.
    """
    kept = num_steps - num_steps // 2
    if num_draws % num_chains or not 0 < num_draws // num_chains <= kept:
        given = f"{num_draws} draws of {num_chains} chains of {num_steps} steps"
        expected = f"a multiple of the chains, {kept} or fewer of each"
        raise SpecError(mismatch("num_draws", given=given, expected=expected))


def log_densities(
    model: Enhancement,
    batch: SequenceBatch,
    z: Tensor,  # shape: (*, B, T, L)
) -> tuple[Tensor, Tensor]:  # nats, zero where no frame is; each (*, B, T)
    """Return log p(x_t | z) and log p(z_t | z_<t)."""
    speech, noise = model.variances(batch, z)
    evidence = log_density(power_of(batch.x), speech + noise)
    prior = model.latent_law(z).log_prob(z)
    return evidence * batch.mask, prior * batch.mask


def surveyed(
    model: Enhancement,
    batch: SequenceBatch,
    z: Tensor,  # shape: (C, B, T, L)
    proposal: Proposal,
) -> tuple[Tensor, Tensor, Tensor]:  # (C, B, T), (C, B, T), as z
    """Return `log_densities`, and the slope of their sum where proposals follow it."""
    if not proposal.along_slope:
        return *log_densities(model, batch, z), z.new_zeros(()).expand_as(z)
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        evidence, prior = log_densities(model, batch, z)
        (slope,) = torch.autograd.grad((evidence + prior).sum(), z)
    return evidence.detach(), prior.detach(), slope


def moved(
    model: Enhancement, batch: SequenceBatch, chains: Chains, proposal: Proposal, *, adapt: bool
) -> Chains:
    """Return the chains after one proposal for every frame, see `MetropolisUpdate`.

    Args:
        model: the program.
        batch: the data.
        chains: before.
        proposal: which.
        adapt: move the deviation of the proposals towards the share that should be accepted.
    """
    if not is_chain(model):
        return proposed(model, batch, chains, batch.mask, proposal, adapt=adapt)
    odd = torch.arange(batch.num_frames, device=batch.mask.device) % 2 == 1
    for some in (~odd, odd):
        chains = proposed(model, batch, chains, batch.mask & some, proposal, adapt=adapt)
        if proposal.along_slope:  # that of the others has changed
            chains = chains._replace(slope=surveyed(model, batch, chains.z, proposal)[2])
    return chains


def proposed(
    model: Enhancement,
    batch: SequenceBatch,
    chains: Chains,
    frames: Tensor,  # that are proposed, shape: (B, T)
    proposal: Proposal,
    *,
    adapt: bool,
) -> Chains:
    """Return the chains after one proposal for some frames."""
    z, evidence, prior, slope, log_step = chains
    by_frame = isinstance(model.prior.cell, MarkovCell)
    step, noise = (log_step.exp() * frames).unsqueeze(-1), torch.randn_like(z)
    new = z + step * noise + step.square() / 2 * slope
    new_evidence, new_prior, new_slope = surveyed(model, batch, new, proposal)
    back = noise + step / 2 * (slope + new_slope)  # the noise that would lead back, but for a sign
    change = new_prior - prior
    ratio = new_evidence - evidence + change + (noise.square() - back.square()).sum(-1) / 2
    if not by_frame:
        ratio = ratio.sum(-1, keepdim=True)
    elif is_chain(model):  # neighbours hold still: the next frame's change is that of z_t
        ratio[..., :-1] += change[..., 1:]
    chance = ratio.clamp_max(0.0).exp().nan_to_num()  # where nothing is finite: refused
    taken = told = (torch.rand_like(chance) < chance) & frames
    if is_chain(model):
        told = taken | pad(taken[..., :-1], (1, 0))
    if adapt:
        log_step = log_step + 0.2 * (chance - proposal.accepted) * (frames if by_frame else 1)
    wide = taken.unsqueeze(-1)
    return Chains(
        torch.where(wide, new, z), torch.where(taken, new_evidence, evidence),
        torch.where(told, new_prior, prior), torch.where(wide, new_slope, slope), log_step,
    )


def is_chain(model: Enhancement) -> bool:
    """Whether frames know each other by z_{t-1}, and by nothing else."""
    cell = model.prior.cell
    return isinstance(cell, MarkovCell) and cell.prior is not standard_normal


def monte_carlo_em(
    model: Enhancement,
    guide: SampledSpeech,
    *,
    num_chains: int = 2,
    num_steps: int = 20,
    proposal: ProposalName = "langevin",
    noise_updates: int = 3,
) -> CoordinateAscent:
    """Return the engine that alternates the two steps, the draws last.

    Args:
        model: the program, its noise of low rank.
        guide: its guide.
        num_chains: see `MetropolisUpdate`.
        num_steps: likewise.
        proposal: likewise.
        noise_updates: of the noise, a sweep, over all draws of the guide.

    Raises:
        SpecError: for noise that is not of low rank.
    """
    check_noise(model, "Monte-Carlo EM")
    noise = NoiseUpdate(num_draws=guide.draws.shape[1], times=noise_updates)
    draws = MetropolisUpdate(num_chains=num_chains, num_steps=num_steps, proposal=proposal)
    return CoordinateAscent(model, guide, [noise, draws], bound=EnhancementBound(10))
