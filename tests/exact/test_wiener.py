"""The Wiener posterior against conditioning a joint Gaussian by its covariance matrix."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from pyromodels.distributions.wiener import WienerPaths

NUM_SOURCES, NUM_FRAMES, DIM = 3, 2, 2
CLOSE = {"atol": 1e-10, "rtol": 1e-10}


@pytest.fixture
def law():
    torch.manual_seed(0)
    observed = torch.randn(4, NUM_FRAMES, DIM, dtype=torch.float64)
    variance = 0.1 + torch.rand(4, NUM_SOURCES, NUM_FRAMES, DIM, dtype=torch.float64)
    noise = 0.05 + torch.rand(NUM_FRAMES, DIM, dtype=torch.float64)
    return WienerPaths(observed, variance, noise)


def conditioned(law):
    """p(s_1..N | o) of every coordinate from the joint covariance of (s, o)."""
    prior = torch.diag_embed(law.variances.movedim(1, -1))  # (B, T, D, N, N)
    with_sum = law.variances.movedim(1, -1)  # Cov(s, o)
    total = (with_sum.sum(-1) + law.noise_variance)[..., None]
    mean = with_sum / total * law.observed[..., None]
    covariance = prior - with_sum[..., None] * with_sum[..., None, :] / total[..., None]
    return MultivariateNormal(mean, covariance)


def test_moments_are_those_of_the_conditioned_joint(law):
    exact = conditioned(law)
    torch.testing.assert_close(law.mean, exact.mean.movedim(-1, 1), **CLOSE)
    torch.testing.assert_close(law.variance, exact.variance.movedim(-1, 1), **CLOSE)


def test_the_density_of_all_sources_is_the_joint_one(law):
    s = torch.randn(5, *law.batch_shape, *law.event_shape, dtype=torch.float64)
    exact = conditioned(law).log_prob(s.movedim(-3, -1)).sum((-2, -1))
    torch.testing.assert_close(law.log_prob(s).sum(-1), exact, **CLOSE)


def test_noise_and_sources_are_a_bijection(law):
    noise = torch.randn(*law.batch_shape, *law.event_shape, dtype=torch.float64)
    torch.testing.assert_close(law.noise_of(law.roll_out(noise)), noise, atol=1e-8, rtol=1e-8)


def test_draws_have_the_moments(law):
    torch.manual_seed(1)
    draws = law.rsample(torch.Size([20000]))
    error = (draws.mean(0) - law.mean) / (law.variance / len(draws)).sqrt()
    assert error.abs().max() < 5
    ratio = draws.var(0) / law.variance
    assert (ratio - 1).abs().max() < 5 * (2 / len(draws)) ** 0.5
    # what the sources leave of the observation is the noise's
    rest = law.observed - draws.sum(-3)
    spread = law.noise_variance * (1 - law.noise_variance / law.total)
    assert (rest.var(0) / spread - 1).abs().max() < 5 * (2 / len(draws)) ** 0.5


def test_the_evidence_is_that_of_the_sum(law):
    total = law.variances.sum(1) + law.noise_variance
    exact = torch.distributions.Normal(0.0, total.sqrt()).log_prob(law.observed).sum((1, 2))
    torch.testing.assert_close(law.log_evidence(), exact, **CLOSE)
