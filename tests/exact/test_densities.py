"""Densities of signals: closed forms against scipy and autograd, shapes of sigma, refusals."""

import pytest
import torch
from scipy.stats import multivariate_normal
from torch.autograd.functional import jacobian

from pyromodels.densities.base import SmoothedDensity
from pyromodels.densities.gaussian import GaussianDensity
from pyromodels.errors import ShapeError


@pytest.mark.parametrize("sigma", [0.0, 0.7])
def test_gaussian_is_that_of_scipy(sigma):
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    density = GaussianDensity(mean=0.3, std=1.4)
    known = multivariate_normal([0.3] * 3, 1.4**2 + sigma**2)
    torch.testing.assert_close(density.log_prob(x, sigma), torch.as_tensor(known.logpdf(x)))
    expected = jacobian(lambda v: density.log_prob(v, sigma).sum(), x)
    torch.testing.assert_close(density.score(x, sigma), expected)
    torch.testing.assert_close(density.score(x, sigma), (0.3 - x) / (1.4**2 + sigma**2))


def test_sigma_may_differ_over_the_batch():
    x, sigma = torch.randn(5, 2, 6), torch.tensor([0.1, 2.0])
    density = GaussianDensity()
    found = density.log_prob(x, sigma)
    for i in range(2):
        torch.testing.assert_close(found[:, i], density.log_prob(x[:, i], sigma[i].item()))


def test_score_leaves_no_graph_and_works_without_gradients():
    with torch.no_grad():
        score = GaussianDensity().score(torch.ones(2, 3, requires_grad=True), 0.5)
    assert not score.requires_grad and score.shape == (2, 3)


class ScoreAlone(SmoothedDensity):
    has_density = False
    event_dim = 3

    def score(self, x, noise_std=0.0):
        return -x / self.over_event(self.noise_of(x, noise_std)).square()


def test_a_score_alone_has_no_density_and_any_event():
    density, x = ScoreAlone(), torch.ones(2, 1, 4, 4)
    torch.testing.assert_close(density.score(x, torch.tensor([1.0, 2.0]))[1], -x[1] / 4)
    with pytest.raises(NotImplementedError, match="ScoreAlone has no density"):
        density.log_prob(x, 1.0)


def test_refusals_name_what_was_given():
    density = GaussianDensity()
    with pytest.raises(ShapeError, match=r"noise_std.*\(3,\).*\(2,\)"):
        density.log_prob(torch.zeros(2, 5), torch.ones(3))
    with pytest.raises(ShapeError, match="x: given shape"):
        ScoreAlone().score(torch.zeros(4, 4), 1.0)
    with pytest.raises(ValueError, match="std"):
        GaussianDensity(std=0.0)
