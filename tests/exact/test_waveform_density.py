"""The exact law of toy waveforms against brute force: every wave, a quadrature over amplitudes."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import grad

from pyromodels.audio.waveforms import KINDS, PeriodLaw, WaveformLaw, one_period
from pyromodels.densities.waveform import WaveformDensity, truncated_normal


@pytest.fixture
def short_periods(monkeypatch):
    """A law of few waves."""
    law = PeriodLaw(torch.tensor([3, 4, 7, 11]), torch.tensor([0.1, 0.4, 0.3, 0.2]).double())
    monkeypatch.setattr(WaveformLaw, "periods", lambda self: law)
    return law


def every_wave(kind: str, law: PeriodLaw, length: int):
    """All waves (W, T) of amplitude 1 and log p(P) / P of each."""
    waves, logs = [], []
    for period, probability in zip(law.period.tolist(), law.probability.tolist(), strict=True):
        row = one_period(kind, torch.tensor([period]))[0]
        for phase in range(period):
            waves.append(row[(torch.arange(length) + phase) % period])
            logs.append(math.log(probability / period))
    return torch.stack(waves), torch.tensor(logs, dtype=torch.float64)


def brute_force(x, sigma, kind, law, amplitude):
    """log p_sigma by Gauss-Legendre over the amplitude, in 40 panels."""
    waves, logs = every_wave(kind, law, x.shape[-1])
    low, high = amplitude
    if low == high:
        points, weights = torch.tensor([low]).double(), torch.ones(1).double()
    else:
        nodes, masses = map(torch.from_numpy, np.polynomial.legendre.leggauss(20))
        edges = torch.linspace(0, 1, 41, dtype=torch.float64)[:-1, None]
        points = low + (high - low) * (edges + (nodes + 1) / 80).flatten()
        weights = (masses / 80).repeat(40)
    error = (x[:, None, None] - points[:, None, None] * waves).square().sum(-1)  # (B, A, W)
    log_law = -error / (2 * sigma**2) - x.shape[-1] / 2 * math.log(2 * math.pi * sigma**2)
    return (log_law + weights.log()[:, None] + logs).flatten(1).logsumexp(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("amplitude", [(0.8, 1.0), (1.0, 1.0), (0.5, 1.2)])
@pytest.mark.parametrize("sigma", [0.05, 0.4, 3.0])
def test_density_and_score_are_those_of_brute_force(short_periods, kind, amplitude, sigma):
    random = torch.Generator().manual_seed(1)
    waves, _ = every_wave(kind, short_periods, 30)
    chosen = waves[torch.randint(len(waves), (6,), generator=random)]
    scales = torch.tensor([0.3, 0.8, 0.9, 1.0, 1.5, -1.0]).double()[:, None]
    noise = torch.randn(6, 30, generator=random, dtype=torch.float64)
    x = (scales * chosen + sigma * noise).requires_grad_()
    density = WaveformDensity(kind=kind, amplitude=amplitude)
    found, known = (density.log_prob(x, sigma), brute_force(x, sigma, kind, short_periods,
                                                            amplitude))
    torch.testing.assert_close(found, known, rtol=1e-9, atol=1e-9)
    (expected,) = grad(known.sum(), x)
    (by_autograd,) = grad(found.sum(), x)
    torch.testing.assert_close(by_autograd, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(density.score(x, sigma), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_signals_shorter_than_a_period(short_periods, length):
    x = torch.linspace(-1, 1, length).double()[None]
    density = WaveformDensity(kind="sine")
    known = brute_force(x, 0.3, "sine", short_periods, (0.8, 1.0))
    torch.testing.assert_close(density.log_prob(x, 0.3), known)
    assert density.score(x, 0.3).isfinite().all()


def test_chunks_of_batch_and_periods_change_nothing():
    """The whole law, with sigma of its own for every signal, in pieces and one by one."""
    random = torch.Generator().manual_seed(2)
    x = WaveformLaw().draw("saw", 3, 200, random, torch.float64)[:, None].repeat(1, 2, 1)
    sigma = torch.tensor([0.02, 0.5]).double()
    x = x + sigma[:, None] * torch.randn(x.shape, generator=random, dtype=torch.float64)
    whole, pieces = WaveformDensity(kind="saw"), WaveformDensity(kind="saw", max_elements=1)
    torch.testing.assert_close(pieces.log_prob(x, sigma), whole.log_prob(x, sigma))
    torch.testing.assert_close(pieces.score(x, sigma), whole.score(x, sigma))
    for i in range(2):
        alone = whole.log_prob(x[1, i], sigma[i].item())
        torch.testing.assert_close(alone, whole.log_prob(x, sigma)[1, i])


def test_a_wave_is_found_again_under_noise():
    """The law's own draws, at the paper's smallest noise: the score points home."""
    random = torch.Generator().manual_seed(3)
    for kind in KINDS:
        wave = WaveformLaw().draw(kind, 2, 1024, random)
        noisy = wave + 0.05 * torch.randn(wave.shape, generator=random)
        density = WaveformDensity(kind=kind).float()
        home = noisy + 0.05**2 * density.score(noisy, 0.05)
        assert home.dtype == torch.float32
        assert (home - wave).square().mean() < 1e-4 * 0.05
        own = density.log_prob(noisy, 0.05)
        for other in {*KINDS} - {kind}:
            assert (own > WaveformDensity(kind=other).log_prob(noisy, 0.05)).all()


def testtruncated_normal_mass_keeps_its_digits_far_out():
    low = torch.tensor([-40.0, -3.0, -0.1, 0.0, 2.0, 30.0, 1e4]).double()
    high = low + torch.tensor([1.0, 2.0, 0.3, 1e-3, 9.0, 1.0, 50.0]).double()
    z = low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, 200001).double()
    mode = torch.where(low > 0, low, torch.where(high < 0, high, torch.zeros(()).double()))
    law = (0.5 * (mode[:, None] ** 2 - z**2)).exp() / math.sqrt(2 * math.pi)
    log_mass, mean = truncated_normal(low, high)
    mass = torch.trapezoid(law, z)
    torch.testing.assert_close(log_mass[:-1], mass.log()[:-1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mean[:-1], torch.trapezoid(law * z, z)[:-1] / mass[:-1])
    torch.testing.assert_close(mean[-1], torch.tensor(1e4 + 1e-4, dtype=torch.float64),
                               rtol=1e-11, atol=0)


def test_refusals():
    with pytest.raises(ValueError, match="noise_std: given 0.0; expected above zero"):
        WaveformDensity(kind="sine").log_prob(torch.zeros(1, 8))
    with pytest.raises(ValueError, match="bell"):
        WaveformDensity(kind="bell")
    with pytest.raises(ValueError, match="max_elements"):
        WaveformDensity(kind="sine", max_elements=0)


