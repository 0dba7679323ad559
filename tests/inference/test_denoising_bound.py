"""The bound of a score: against the log density of Gaussians, and the closed form of the integral.
"""

import math

import pytest
import torch
from scipy.integrate import quad

from pyromodels.densities.gaussian import GaussianDensity
from pyromodels.densities.score_network import ScoreNetwork
from pyromodels.inference.objectives.denoising_bound import denoising_bound


def bound(density, x, **options):
    told = {"noise_std": (0.01, 30.0), "scale": density.std, "num_levels": 200} | options
    generator = torch.Generator().manual_seed(0)
    return denoising_bound(density, x, generator=generator, **told)


def test_it_is_what_quadrature_says():
    density, x = GaussianDensity(std=0.7), torch.tensor([0.3, -1.1], dtype=torch.float64)
    low, high, dim = 0.05, 4.0, len(x)

    def lost(log_sigma):
        var, noise = 0.7**2, math.exp(2 * log_sigma)
        error = (noise**2 * x.square().sum().item() + dim * var**2 * noise) / (var + noise) ** 2
        return error / noise

    total = high**2 + 0.7**2
    prior = torch.distributions.kl_divergence(
        torch.distributions.Normal(x, high),
        torch.distributions.Normal(torch.zeros(2, dtype=torch.float64), total**0.5),
    ).sum()
    expected = -0.5 * dim * math.log(2 * math.pi * math.e * low**2) - prior
    expected = expected - quad(lost, math.log(low), math.log(high))[0]
    found = bound(density, x, noise_std=(low, high), num_draws=8000)
    assert abs(found - expected) < 0.04  # five standard errors


@pytest.mark.parametrize("mean", [0.0, 0.4])
def test_of_an_exact_score_it_is_almost_the_log_density_and_below_it_in_the_mean(mean):
    torch.manual_seed(0)
    density = GaussianDensity(mean=mean, std=0.7)
    x = mean + 0.7 * torch.randn(5, 1, 2, dtype=torch.float64)
    known, found = density.log_prob(x), bound(density, x, num_levels=100, num_draws=4000)
    assert found.shape == (5, 1)
    error = known - found
    # a little is lost at the least sigma, 0.01, and by the mean that the start does not know
    assert error.abs().max() < 0.15
    assert -0.06 < error.mean() < 0.08  # of which five standard errors are 0.07


def test_a_wrong_score_has_a_lower_bound():
    x = 0.7 * torch.randn(200, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    right, wide, narrow = (
        bound(GaussianDensity(std=std), x, scale=0.7).mean() for std in (0.7, 1.4, 0.35)
    )
    assert right > wide + 0.1 and right > narrow + 0.1


def test_events_of_any_shape_and_a_network():
    density = ScoreNetwork(num_channels=8, num_rounds=1)
    found = denoising_bound(density, torch.zeros(2, 3, 32), noise_std=(0.1, 2.0), scale=0.6)
    assert found.shape == (2, 3) and found.isfinite().all()


@pytest.mark.parametrize(
    "told, said",
    [
        ({"noise_std": (1.0, 0.1)}, "noise_std"),
        ({"noise_std": (0.0, 1.0)}, "noise_std"),
        ({"scale": 0.0}, "scale: given 0.0"),
        ({"num_levels": 0}, "num_levels: given 0"),
    ],
)
def test_refusals(told, said):
    with pytest.raises(ValueError, match=said):
        bound(GaussianDensity(), torch.zeros(2, 3), **told)
