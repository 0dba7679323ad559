"""The spectral likelihood against closed forms that nobody here wrote."""

import math

import pytest
import scipy.stats
import torch

from pyromodels.distributions.spectral import ComplexNormal, PowerSpectrum, itakura_saito
from pyromodels.emissions.spectral import Spectral


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_power_is_exponential():
    log_variance = torch.randn(4, 6, dtype=torch.float64)
    power = torch.rand(4, 6, dtype=torch.float64)
    expected = scipy.stats.expon(scale=log_variance.exp().numpy()).logpdf(power.numpy()).sum(-1)
    actual = PowerSpectrum(log_variance).log_prob(power)
    torch.testing.assert_close(actual, torch.from_numpy(expected))


def test_negative_log_density_is_itakura_saito_up_to_what_depends_on_the_data_alone():
    power = 3 * torch.rand(5, 7, dtype=torch.float64)
    laws = torch.randn(2, 5, 7, dtype=torch.float64)
    constants = [
        -PowerSpectrum(law).log_prob(power) - itakura_saito(power, law.exp()) for law in laws
    ]
    torch.testing.assert_close(constants[0], constants[1])
    torch.testing.assert_close(constants[0], (power.log() + 1).sum(-1))
    assert itakura_saito(power, power).abs().max() < 1e-12
    assert (itakura_saito(power, laws[0].exp()) > 0).all()


def test_itakura_saito_of_silence_is_refused():
    with pytest.raises(ValueError, match="power: given 2 bins without any.*floor"):
        itakura_saito(torch.tensor([0.0, 1.0, 0.0]), torch.ones(3))


def test_complex_normal_is_two_real_ones():
    log_variance = torch.randn(3, 5, dtype=torch.float64)
    s = torch.randn(3, 5, dtype=torch.complex128)
    half = torch.distributions.Normal(0.0, (0.5 * log_variance.exp()).sqrt())
    expected = (half.log_prob(s.real) + half.log_prob(s.imag)).sum(-1)
    law = ComplexNormal(log_variance)
    torch.testing.assert_close(law.log_prob(s), expected)
    power = PowerSpectrum(log_variance).log_prob(s.abs().square())
    constant = torch.full((3,), 5 * math.log(math.pi), dtype=torch.float64)
    torch.testing.assert_close(power - law.log_prob(s), constant)


def test_draws_have_the_moments_of_the_law():
    log_variance = torch.tensor([-2.0, 0.0, 1.5], dtype=torch.float64)
    num_draws = 40_000
    spectra = ComplexNormal(log_variance).rsample((num_draws,))
    power = PowerSpectrum(log_variance).rsample((num_draws,))
    noise = torch.randn(num_draws, 3, dtype=torch.float64)
    by_noise = PowerSpectrum.from_noise(log_variance.exp(), noise)
    error = log_variance.exp() * 6 / num_draws**0.5
    for draws in (spectra.abs().square(), power, by_noise):
        assert ((draws.mean(0) - log_variance.exp()).abs() < error).all()
        assert ((draws.std(0) - log_variance.exp()).abs() < 3 * error).all()
    assert (spectra.mean(0).abs() < error.sqrt() * 6).all()
    relation = (spectra**2).mean(0).abs()  # circularity: E[s^2] = 0
    assert (relation < 2 * error).all()


def test_noise_and_power_are_each_others_inverse():
    log_variance, noise = torch.randn(2, 50, dtype=torch.float64)
    power = PowerSpectrum.from_noise(log_variance.exp(), noise)
    torch.testing.assert_close(PowerSpectrum(log_variance).noise_of(power), noise)


@pytest.mark.parametrize("sees", ["power", "log_power"])
def test_what_networks_see_of_silence_is_finite(sees):
    assert Spectral(sees).see(torch.zeros(3, 4)).isfinite().all()


def test_options_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="sees: given 'decibels'"):
        Spectral("decibels")
    with pytest.raises(ValueError, match="floor"):
        Spectral(floor=0.0)
