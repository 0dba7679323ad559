"""The exact posterior of tiny problems, and what samplers and bounds make of it."""

import itertools
import math
import warnings

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import TraceEnum_ELBO

from pyromodels.dynamics.deep_ar import DeepAR
from pyromodels.guides.enumerated import Enumerated
from pyromodels.guides.mean_field import MeanField, chain
from pyromodels.guides.point import Point
from pyromodels.inference.engines.nuts import sample_nuts
from pyromodels.inference.engines.svi import SVI
from pyromodels.inference.mixture.bound import closed_form_elbo
from pyromodels.inference.mixture.updates import AssignmentUpdate, SourceUpdate
from pyromodels.inference.mixture.vem import VEM
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.observations.detector import Detector


@pytest.fixture
def tiny(mixture):
    """Two sources, three frames, unknown owners."""
    return mixture(2, 3, 2, 2, num_coordinates=1, order=1, missing=0.2, seed=3)


def dense_evidence(model, batch, row):
    """log p(o) of one sequence by dense Gaussians, assignment by assignment; random walk."""
    num_frames, num_sources = batch.num_frames, batch.num_sources
    loc, variance = (part[row, :, 0].numpy() for part in batch.anchor)
    step = model.prior.process_std.detach().numpy().item() ** 2
    order = np.minimum.outer(np.arange(num_frames), np.arange(num_frames))
    seen = [tuple(at) for at in batch.mask[row].nonzero().tolist()]
    o = np.array([batch.observations[row, t, k, 0] for t, k in seen])
    noise = np.diag([batch.variance[row, t, k, 0] for t, k in seen])
    scores = []
    for owners in itertools.product(range(num_sources), repeat=len(seen)):
        covariance = noise.copy()
        for i, j in itertools.product(range(len(seen)), repeat=2):
            if owners[i] == owners[j]:
                shared = order[seen[i][0], seen[j][0]]
                covariance[i, j] += variance[owners[i]] + step * shared
        d = o - loc[list(owners)]
        quadratic = d @ np.linalg.solve(covariance, d)
        _, log_det = np.linalg.slogdet(2 * np.pi * covariance)
        scores.append(-0.5 * (quadratic + log_det) - len(seen) * math.log(num_sources))
    return np.logaddexp.reduce(scores)


def test_the_evidence_is_that_of_dense_gaussians(tiny):
    model, batch = tiny
    expected = [dense_evidence(model, batch, row) for row in range(batch.num_sequences)]
    torch.testing.assert_close(Enumerated(model, batch).log_evidence, torch.tensor(expected))


def test_every_draw_of_the_exact_posterior_has_the_evidence_as_its_weight(mixture):
    model, batch = mixture(2, 3, 2, 2, order=2, missing=0.3)
    posterior = Posterior(model, Enumerated(model, batch), batch)
    draws = posterior.sample(50)
    log_weight = posterior.log_joint(draws) - posterior.log_prob(draws)
    expected = posterior.guide.log_evidence.expand(50, -1)
    torch.testing.assert_close(log_weight, expected, rtol=1e-10, atol=1e-10)


def test_moments_and_owners_of_the_exact_posterior_are_those_of_its_draws(tiny):
    model, batch = tiny
    guide = Enumerated(model, batch)
    torch.manual_seed(0)
    draws = Posterior(model, guide, batch).sample(20000)
    error = draws["s"].std(0) / math.sqrt(20000)
    assert ((draws["s"].mean(0) - guide.mean).abs() < 5 * error).all()
    torch.testing.assert_close(draws["s"].var(0), guide.variance, rtol=0.08, atol=0)
    first = (draws["w"] == 0).double().mean(0)
    assert ((first - guide.responsibilities[..., 0]).abs() < 0.02)[batch.mask].all()


def test_one_source_is_the_smoother_of_variational_em(mixture):
    model, batch = mixture(2, 6, 2, 1)
    vem = VEM(model, MeanField(model, batch), [AssignmentUpdate(), SourceUpdate()])
    vem.sweep(batch)
    exact = Enumerated(model, batch)
    torch.testing.assert_close(exact.mean, vem.guide.sources.mean)
    torch.testing.assert_close(exact.variance, vem.guide.sources.variance)
    torch.testing.assert_close(exact.log_evidence, vem.elbo(batch))


def test_the_variance_far_from_the_origin_does_not_cancel_in_float32(tiny):
    guide = Enumerated(*tiny)
    expected = guide.variance
    guide.loc += 3000.0
    actual = guide.float().variance.double()
    torch.testing.assert_close(actual, expected, rtol=2e-2, atol=0)


def test_what_cannot_be_enumerated_is_refused(mixture):
    with pytest.raises(ValueError, match="at most max_hypotheses = 100"):
        Enumerated(*mixture(1, 4, 3, 2, missing=0.0), max_hypotheses=100)
    with pytest.raises(ValueError, match="mean_field, chain"):
        Enumerated(*mixture(detector=Detector()))
    _, batch = mixture(order=1)
    with pytest.raises(ValueError, match="linear-Gaussian"):
        Enumerated(MixDVAE(DeepAR(source_dim=2)), batch)


# ---- discrete sites that a guide leaves to the model


def test_owners_left_to_the_model_have_their_exact_law(tiny):
    model, batch = tiny
    torch.manual_seed(1)
    posterior = Posterior(model, chain(model, batch), batch)
    one = posterior.sample(1)["s"]
    posterior = Posterior(model, Point(model, batch, init={"s": one[0].unsqueeze(1)}), batch)
    draws = posterior.sample(4000)
    log_weight, log_parts = posterior.model_and_guide.layout.components["o"]({"s": one})
    eta = (log_weight + log_parts).softmax(-1)[0]
    frequency = (draws["w"] == 0).double().mean(0)
    tolerance = 5 * (eta[..., 0] * eta[..., 1] / 4000).sqrt() + 1e-9
    assert ((frequency - eta[..., 0]).abs() < tolerance)[batch.mask].all()
    owner = draws["w"].clamp_min(0).unsqueeze(-1)
    log_q = eta.expand(4000, *eta.shape).gather(-1, owner).squeeze(-1).log()
    log_q = log_q.masked_fill(~batch.mask, 0.0).sum((-1, -2))  # the point itself has weight 1
    torch.testing.assert_close(posterior.log_prob(draws), log_q)


@pytest.mark.parametrize("detector", [None, Detector()], ids=["plain", "detector"])
def test_log_weights_without_w_are_those_of_the_collapsed_bound(mixture, detector):
    """log p - log q with w drawn exactly does not depend on w: it is log sum_w p - log q(s, v)."""
    model, batch = mixture(2, 4, 3, 2, detector=detector)
    posterior = Posterior(model, chain(model, batch), batch)
    torch.manual_seed(2)
    draws = posterior.sample(400)
    log_weight = posterior.log_joint(draws) - posterior.log_prob(draws)
    elbo = TraceEnum_ELBO(max_plate_nesting=3, num_particles=400, vectorize_particles=True)
    bound = -elbo.loss(model, posterior.guide, batch)
    # Pyro sums the 0 of a masked slot over its values: a constant too much, which no gradient sees
    bound -= (~batch.mask).sum() * math.log(batch.num_sources + model.num_extra)
    total = log_weight.sum(-1)
    assert abs(total.mean() - bound) < 7 * total.std() / math.sqrt(400)
    owners = {**draws, "w": posterior.sample(400)["w"]}
    again = posterior.log_joint(owners) - posterior.log_prob(owners)
    torch.testing.assert_close(again, log_weight)


def test_summing_owners_out_gives_a_bound_between_mean_field_and_evidence(mixture):
    model, batch = mixture(2, 3, 2, 2, num_coordinates=1, order=1, missing=0.0, seed=3)
    vem = VEM(model, MeanField(model, batch), [AssignmentUpdate(), SourceUpdate()])
    vem.run(batch, 1000, tolerance=1e-12)
    guide = vem.guide.parametrised("marginal")
    sample = {"num_particles": 32, "vectorize_particles": True}
    elbo = TraceEnum_ELBO(max_plate_nesting=3, **sample)
    pyro.set_rng_seed(0)
    svi = SVI(model, guide, elbo=elbo, learning_rate=0.05, num_steps=200)
    for _ in range(200):
        svi.step(batch)
    losses = torch.tensor([svi.evaluate_loss(batch) for _ in range(100)])
    error = losses.std() / 10
    evidence = Enumerated(model, batch).log_evidence.sum()
    mean_field = vem.elbo(batch).sum()
    assert -losses.mean() - 5 * error > mean_field
    assert -losses.mean() < evidence + 5 * error


def test_the_collapsed_guide_says_that_it_has_no_closed_form_bound(tiny):
    model, batch = tiny
    guide = chain(model, batch)
    with pytest.raises(ValueError, match="TraceEnum_ELBO"):
        SVI(model, guide, elbo=closed_form_elbo).step(batch)
    assert not hasattr(guide, "responsibilities")
    with pytest.raises(ValueError, match="mean_field or marginal"):
        MeanField(model, batch).parametrised("none")


# ---- NUTS


def sampled(model, batch, num_samples):
    pyro.set_rng_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sample_nuts(
            model, batch, num_samples=num_samples, num_warmup=100, num_chains=2, jit=True
        )


def agree(draws, mean, variance, batch):
    """Means and variances over two chains agree within five errors at a tenth of the draws."""
    flat = draws.flatten(0, 1)
    effective = len(flat) / 4
    assert ((flat.mean(0) - mean).abs() < 5 * (variance / effective).sqrt()).all()
    assert ((flat.var(0) / variance - 1).abs() < 5 * math.sqrt(2 / effective)).all()


def test_nuts_finds_the_kalman_smoother_where_the_owner_is_known(mixture):
    model, batch = mixture(1, 3, 1, 1, num_coordinates=1, order=1, missing=0.0)
    before = [p.requires_grad for p in model.parameters()]
    guide = sampled(model, batch, 200)
    assert [p.requires_grad for p in model.parameters()] == before
    posterior = Posterior(model, guide, batch)
    draws = posterior.sample()["s"].unflatten(0, (2, 200))
    vem = VEM(model, MeanField(model, batch), [AssignmentUpdate(), SourceUpdate()])
    vem.sweep(batch)
    exact = vem.guide.sources
    agree(draws, exact.mean, exact.variance, batch)
    now, then = (draws.flatten(0, 1) - exact.mean)[..., 0].unbind(-1)[:2]
    cross = (now * then).mean(0).squeeze()
    assert (cross - exact.cross_covariance.flatten()[0]).abs() < 5 * exact.variance.max() / 12
    data = posterior.to_inference_data()
    assert dict(data.posterior.sizes)["chain"] == 2 and data.posterior.sizes["draw"] == 200
    assert list(data.sample_stats.data_vars) == ["lp"]


def test_nuts_finds_the_exact_posterior_where_the_owners_are_unknown(mixture):
    model, batch = mixture(1, 2, 2, 2, num_coordinates=1, order=1, missing=0.0, seed=5)
    guide = sampled(model, batch, 200)
    exact = Enumerated(model, batch)
    posterior = Posterior(model, guide, batch)
    draws = posterior.sample()
    agree(draws["s"].unflatten(0, (2, 200)), exact.mean, exact.variance, batch)
    first = (draws["w"] == 0).double().mean(0)
    assert ((first - exact.responsibilities[..., 0]).abs() < 5 * 0.5 / math.sqrt(150)).all()


def test_nuts_says_what_it_cannot_sample(mixture):
    model, batch = mixture(detector=Detector())
    with pytest.raises(ValueError, match="NUTS cannot serve the site 'v'"):
        sample_nuts(model, batch)
    with pytest.raises(ValueError, match="num_chains"):
        sample_nuts(model, batch, num_chains=0)
