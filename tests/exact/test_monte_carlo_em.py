"""Monte-Carlo EM: draws of z against a grid, their moments, and what the M step climbs."""

import itertools
import math

import pytest
import torch

from pyromodels.batch import SequenceBatch
from pyromodels.dynamics.dkf import DKF
from pyromodels.dynamics.rvae import RVAE
from pyromodels.dynamics.vae import VAE
from pyromodels.emissions.complex import power_of
from pyromodels.errors import ShapeError, SpecError
from pyromodels.experiments.enhancement.enhance import Made, posterior
from pyromodels.guides.denoising import SampledSpeech
from pyromodels.inference.enhancement.bound import EnhancementBound, log_density
from pyromodels.inference.enhancement.mcem import (
    PROPOSALS,
    MetropolisUpdate,
    is_chain,
    log_densities,
    monte_carlo_em,
    moved,
    surveyed,
)
from pyromodels.inference.enhancement.vem import NoiseUpdate
from pyromodels.models.enhancement import Enhancement
from pyromodels.noise.base import Sizes
from pyromodels.registry import NOISES

F = 4
CHAINS = 1500
KINDS = (VAE, DKF, RVAE)


def model_of(kind, num_frames, *, latent_dim=1, num_sequences=1, gain=False, noise="nmf"):
    torch.manual_seed(1)
    prior = kind(source_dim=F, latent_dim=latent_dim, emission="complex").double().eval()
    for name, network in prior.cell.networks().items():
        for parameter in network.parameters() if name in ("decoder", "lstm") else ():
            parameter.data.mul_(4)  # spectra that tell one z from another
    noise = NOISES.build({"name": noise}, Sizes(num_sequences, num_frames, F, latent_dim)).double()
    for parameter in noise.parameters():
        torch.nn.init.normal_(parameter, -1.0, 0.3)
    shape = (num_sequences, num_frames)
    gain = torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64)) if gain else None
    return Enhancement(prior, noise, gain=gain)


def batch_of(num_frames, num_sequences=1):
    torch.manual_seed(2)
    x = torch.randn(num_sequences, num_frames, 2 * F, dtype=torch.float64)
    return SequenceBatch(x, torch.ones(num_sequences, num_frames, dtype=torch.bool))


def by_grid(model, batch):
    """Mean of z and of z z' of two frames with one latent, by a sum over a grid."""
    line = torch.linspace(-7, 7, 281, dtype=torch.float64)
    z = torch.cartesian_prod(line, line)
    evidence, prior = log_densities(model, batch, z[:, None, :, None])
    weight = (evidence + prior).sum(-1)[:, 0].softmax(0)
    return weight @ z, torch.einsum("n,na,nb->ab", weight, z, z)


@pytest.mark.parametrize("proposal", PROPOSALS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_draws_have_the_moments_of_the_posterior(kind, proposal):
    """Many chains, the last draw of each: independent, so that errors are known."""
    model, batch = model_of(kind, 2), batch_of(2)
    guide = SampledSpeech(model, batch, num_draws=CHAINS, init_scale=1.0)
    torch.manual_seed(3)
    update = MetropolisUpdate(num_chains=CHAINS, num_steps=80, proposal=proposal)
    update(model, guide, batch)
    mean, square = by_grid(model, batch)
    z = guide.draws[0, :, :, 0]
    assert (mean.abs() / (square.diagonal() - mean**2).sqrt()).max() > 0.2  # not that of p(z)
    for drawn, exact in ((z, mean), (z[:, :, None] * z[:, None], square)):
        error = drawn.std(0) / math.sqrt(CHAINS)
        assert ((drawn.mean(0) - exact).abs() < 5 * error).all()


@pytest.mark.parametrize("proposal", PROPOSALS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_a_chain_knows_of_its_draws_is_so_and_padding_stays(kind, proposal):
    model = model_of(kind, 7, latent_dim=2, num_sequences=2)
    batch = batch_of(7, 2)
    batch.mask[1, 4:] = False
    batch = SequenceBatch(batch.x, batch.mask)
    guide = SampledSpeech(model, batch)
    update = MetropolisUpdate(num_chains=5, proposal=proposal)
    chains = update.started(model, guide, batch)
    before = chains.z
    for _ in range(6):
        chains = moved(model, batch, chains, PROPOSALS[proposal], adapt=True)
    evidence, prior = log_densities(model, batch, chains.z)
    torch.testing.assert_close(chains.evidence, evidence)
    torch.testing.assert_close(chains.prior, prior)
    slope = surveyed(model, batch, chains.z, PROPOSALS[proposal])[2]
    torch.testing.assert_close(chains.slope, slope)
    assert slope[:, batch.mask].any() == (proposal == "langevin")
    still = (chains.z == before).all(-1)
    assert still[:, 1, 4:].all() and not still[:, batch.mask].all()
    together = still[:, 0].float().mean(-1)
    assert set(together.tolist()) <= {0.0, 1.0} or kind is not RVAE
    assert is_chain(model) == (kind is DKF)


@pytest.mark.parametrize("proposal", PROPOSALS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_share_that_is_accepted_is_the_one_that_is_asked_for(kind, proposal):
    model, batch = model_of(kind, 6, latent_dim=2), batch_of(6)
    guide = SampledSpeech(model, batch, num_draws=200)
    update = MetropolisUpdate(num_chains=200, num_steps=80, proposal=proposal)
    torch.manual_seed(0)
    update(model, guide, batch)
    chains, accepted = update.started(model, guide, batch), []
    for _ in range(20):
        after = moved(model, batch, chains, PROPOSALS[proposal], adapt=False)
        accepted.append((after.z != chains.z).any(-1).double().mean())
        chains = after
    assert abs(torch.stack(accepted).mean() - PROPOSALS[proposal].accepted) < 0.06


@pytest.mark.parametrize("gain", [False, True])
@torch.no_grad()
def test_updates_of_the_noise_climb_what_is_expected_over_the_draws(gain):
    model = model_of(RVAE, 6, latent_dim=2, num_sequences=2, gain=gain)
    batch = batch_of(6, 2)
    guide, update = SampledSpeech(model, batch, num_draws=4), NoiseUpdate(num_draws=4)
    z = guide.draws.movedim(1, 0)

    def expected():
        return log_density(power_of(batch.x), sum(model.variances(batch, z))).mean(0).sum()

    values = []
    for _ in range(30):
        values.append(expected().item())
        update(model, guide, batch)
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(values)) and values[-1] > values[0] + 1
    for _ in range(600):
        update(model, guide, batch)
    with torch.enable_grad():
        slopes = torch.autograd.grad(expected(), [model.noise.log_activations])
    assert slopes[0].abs().max() < 1e-3


@torch.no_grad()
def test_the_estimate_is_the_mean_of_wiener_filters_over_the_draws():
    model, batch = model_of(RVAE, 5, latent_dim=2, gain=True), batch_of(5)
    guide = SampledSpeech(model, batch, num_draws=6, init_scale=1.0)
    said = posterior(Made(model, guide, batch), 6, 2)
    x = torch.view_as_complex(batch.x.unflatten(-1, (-1, 2)))
    speech, noise = model.variances(batch, guide.draws.movedim(1, 0))
    means, inner = speech / (speech + noise) * x, speech * noise / (speech + noise)
    torch.testing.assert_close(said.mean, means.mean(0))
    spread = inner.mean(0) + (means - means.mean(0)).abs().square().mean(0)
    torch.testing.assert_close(said.variance, spread)
    assert said.draws.shape == (2, 1, 5, F)


def test_it_climbs_and_goes_on_where_it_was():
    model, batch = model_of(VAE, 20, latent_dim=2, gain=True), batch_of(20)
    torch.manual_seed(0)
    guide = SampledSpeech(model, batch)
    engine = monte_carlo_em(model, guide)
    before = engine.elbo(batch).sum()
    engine.run(batch, 10)
    after = engine.elbo(batch).sum()
    assert after > before + 5 and guide.draws.shape == (1, 10, 20, 2)
    loc, log_scale = guide.moments
    torch.testing.assert_close(loc, guide.draws.mean(1))
    torch.testing.assert_close(log_scale.exp().square(), guide.draws.var(1, correction=0))
    chains = engine.updates[1].started(model, guide, batch)
    torch.testing.assert_close(chains.z, guide.draws[:, -2:].movedim(1, 0))
    torch.testing.assert_close(chains.log_step, engine.updates[1].log_step)


def test_its_bound_is_one_of_the_evidence():
    model, batch = model_of(DKF, 2), batch_of(2)
    guide = SampledSpeech(model, batch, num_draws=500, init_scale=1.0)
    line = torch.linspace(-7, 7, 281, dtype=torch.float64)
    z = torch.cartesian_prod(line, line)[:, None, :, None]
    with torch.no_grad():
        MetropolisUpdate(num_chains=500, num_steps=80)(model, guide, batch)
        evidence, prior = log_densities(model, batch, z)
        exact = (evidence + prior).sum(-1).logsumexp(0) + 2 * (line[1] - line[0]).log()
        bound = EnhancementBound(4000)(model, guide, batch)
    assert exact - 0.5 < bound < exact + 0.02


def test_what_it_cannot_do_is_refused():
    model, batch = model_of(RVAE, 5), batch_of(5)
    guide = SampledSpeech(model, batch, num_draws=10)
    with pytest.raises(ValueError, match="langevin or random_walk"):
        MetropolisUpdate(proposal="gibbs")
    with pytest.raises(SpecError, match="10 draws of 3 chains.*multiple"):
        MetropolisUpdate(num_chains=3)(model, guide, batch)
    with pytest.raises(SpecError, match="2 or fewer of each"):
        MetropolisUpdate(num_chains=2, num_steps=4)(model, guide, batch)
    with pytest.raises(SpecError, match="Monte-Carlo EM.*expected nmf"):
        monte_carlo_em(model_of(RVAE, 5, noise="lv"), guide)
    with pytest.raises(ShapeError, match="guide's"):
        next(guide.latent_draws(batch_of(4)))
    engine = monte_carlo_em(model, guide)
    engine.damping = 0.5
    with pytest.raises(ValueError, match="made of draws"):
        engine.sweep(batch)
