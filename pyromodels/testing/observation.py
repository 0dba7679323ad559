"""What every law of observations must fulfil, ours or yours."""

import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.chain import GaussianChain
from pyromodels.distributions.message import Anchor
from pyromodels.observations.base import ObservationLaw

NUM_SEQUENCES, NUM_SOURCES, NUM_FRAMES, NUM_SLOTS = 2, 2, 3, 2


def check_log_prob(law: ObservationLaw) -> None:
    """The law given an owner, which the program samples, is that of every owner's score."""
    batch, sources, _ = problem(law)
    s = sources.loc
    scores = law.log_prob(batch, s)
    for owner in range(NUM_SOURCES):
        own = law.assigned(batch, s.unsqueeze(1), torch.full(batch.mask.shape, owner))
        torch.testing.assert_close(own.log_prob(batch.observations), scores[..., owner])


def check_expected_log_prob(law: ObservationLaw) -> None:
    """A q(s) that knows s expects its score; any other loses half the trace of what it does not."""
    batch, sources, _ = problem(law)
    certain = GaussianChain(sources.loc_blocks, torch.zeros_like(sources.innovation))
    for chain, precise in ((certain, 0.0), (sources, 1.0)):
        lost = torch.stack([_lost(law, batch, chain, k) for k in range(NUM_SLOTS)], 2)
        scores = law.log_prob(batch, chain.loc) - precise * lost
        torch.testing.assert_close(law.expected_log_prob(batch, chain), scores)


def check_pseudo_observations(law: ObservationLaw) -> None:
    r"""\prod_k p(o_k | s)^eta is what its information says, up to a constant, at any s."""
    batch, sources, assigned = problem(law)
    precision, information = law.pseudo_observations(batch, assigned)
    values = []
    for s in (sources.loc, sources.loc.flip(0), torch.zeros_like(sources.loc)):
        blocks = s.unflatten(-1, information.shape[-2:])
        square = torch.einsum("...i,...ij,...j->...", blocks, precision, blocks)
        said = ((blocks * information).sum(-1) - 0.5 * square).sum(-1)  # (B, N, T)
        exact = (assigned * law.log_prob(batch, s)).sum(2)  # (B, T, N)
        values.append(exact.mT - said)
    torch.testing.assert_close(values[0], values[2])
    torch.testing.assert_close(values[1], values[2])


def check_predictive_log_prob(law: ObservationLaw) -> None:
    """Bayes' rule in one frame: log p(o, s) - log p(s | o) is the same number at any s."""
    batch, sources, _ = problem(law)
    found = law.predictive_log_prob(batch, sources)
    for k, n in ((0, 0), (1, 1)):
        assigned = torch.zeros(*batch.mask.shape, NUM_SOURCES)
        assigned[:, :, k, n] = 1.0
        precision, information = law.pseudo_observations(batch, assigned)
        prior = torch.linalg.inv(sources.innovation)
        covariance = torch.linalg.inv(prior + precision)
        total = (prior @ sources.loc_blocks.unsqueeze(-1)).squeeze(-1) + information
        posterior = GaussianChain((covariance @ total.unsqueeze(-1)).squeeze(-1), covariance)
        s = posterior.loc
        ratio = sources.log_prob(s)[:, n] - posterior.log_prob(s)[:, n]
        scores = law.log_prob(batch, s)[:, :, k, n].sum(-1)
        torch.testing.assert_close(found[:, :, k, n].sum(-1), scores + ratio)


def check_cavity_log_prob(law: ObservationLaw) -> None:
    """An observation that has put nothing into q(s) is judged by q(s) itself."""
    batch, sources, assigned = problem(law)
    torch.testing.assert_close(
        law.cavity_log_prob(batch, sources, torch.zeros_like(assigned)),
        law.predictive_log_prob(batch, sources),
    )


def _lost(law: ObservationLaw, batch: MixtureBatch, chain: GaussianChain, slot: int) -> Tensor:
    """Half the trace of precision times covariance for one slot, shape (B, T, N)."""
    assigned = torch.zeros(*batch.mask.shape, NUM_SOURCES)
    assigned[:, :, slot] = 1.0
    precision, _ = law.pseudo_observations(batch, assigned)
    return 0.5 * (precision * chain.covariance.mT).sum((-1, -2, -3)).mT


def problem(law: ObservationLaw) -> tuple[MixtureBatch, GaussianChain, Tensor]:
    """Return observations, a q(s) without correlations over time, and responsibilities."""
    shape = (NUM_SEQUENCES, NUM_FRAMES, NUM_SLOTS, law.num_features)
    mask = torch.ones(shape[:-1], dtype=torch.bool)
    loc = torch.randn(NUM_SEQUENCES, NUM_SOURCES, NUM_FRAMES, 2, 2)
    anchor = Anchor(loc[:, :, 0].flatten(-2), torch.ones(NUM_SEQUENCES, NUM_SOURCES, 4))
    batch = MixtureBatch(torch.randn(shape), mask, 0.1 + torch.rand(shape), anchor)
    covariance = torch.diag_embed(0.1 + torch.rand_like(loc))
    return batch, GaussianChain(loc, covariance), torch.rand(*shape[:-1], NUM_SOURCES)


OBSERVATION_CHECKS = (
    check_log_prob,
    check_expected_log_prob,
    check_pseudo_observations,
    check_predictive_log_prob,
    check_cavity_log_prob,
)
