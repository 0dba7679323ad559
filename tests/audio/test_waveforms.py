"""Toy waveforms: scipy's shapes, the law of periods, the Fourier series, and mixtures."""

import math

import numpy as np
import pytest
import torch
from scipy import signal

from pyromodels.audio.waveforms import KINDS, WaveformLaw, one_period
from pyromodels.experiments.datasets.waveforms.waveforms import Waveforms

SCIPY = {
    "sine": np.sin,
    "square": signal.square,
    "saw": signal.sawtooth,
    "triangle": lambda angle: signal.sawtooth(angle, 0.5),
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_period_is_that_of_scipy_at_every_period(kind):
    periods = torch.arange(3, 564)
    table = one_period(kind, periods)
    for period, row in zip(periods.tolist(), table, strict=True):
        turn = np.arange(period) / period  # rounded first, so that half a turn is half a turn
        expected = SCIPY[kind](2 * np.pi * turn)
        np.testing.assert_allclose(row[:period], expected, atol=1e-12)
        assert (row[period:] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("period", [4, 7, 24])
def test_band_limited_is_the_low_part_of_the_continuous_wave(kind, period):
    fine = 4096 * period  # of a wave nearly continuous, its harmonics below half the coarse rate
    wave = SCIPY[kind](2 * np.pi * (np.arange(fine) + 0.5) / fine)
    spectrum = np.fft.rfft(wave) * np.exp(-1j * np.pi * np.arange(fine // 2 + 1) / fine)
    spectrum[(period + 1) // 2 :] = 0
    expected = np.fft.irfft(spectrum, fine)[:: fine // period]
    found = one_period(kind, torch.tensor([period]), band_limited=True)[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("frequencies", "ends", "count", "keys"), [("released", [13, 563], 365, 649),
                                               ("paper", [3, 563], 375, 880)],
)
def test_periods_are_those_of_the_keys(frequencies, ends, count, keys):
    period, probability = WaveformLaw(frequencies=frequencies).periods()
    assert period[[0, -1]].tolist() == ends and len(period) == count
    for p, prob in zip(period.tolist()[:12], probability.tolist(), strict=False):
        held = sum(14700 // (440 * 2 ** ((n / 10 - 49) / 12)) == p for n in range(1, keys + 1))
        assert held / keys == pytest.approx(prob)
    assert probability.sum().item() == pytest.approx(1)


def test_draws_are_periodic_and_follow_the_law():
    law = WaveformLaw(frequencies="released")
    drawn = law.draw("saw", 4000, 1130, torch.Generator().manual_seed(0), torch.float64)
    steps = drawn.diff(dim=1)
    rise = steps.max(1).values  # of a saw: 2 a / P
    period = (drawn.amax(1) - drawn.amin(1)) / rise + 1
    assert (period - period.round()).abs().max() < 1e-6
    period = period.round().long()
    amplitude = rise * period / 2
    time = torch.arange(drawn.shape[1] - 563)
    later = drawn.gather(1, time + period[:, None])
    torch.testing.assert_close(later, drawn[:, : len(time)])
    phase = (drawn[:, 0] / amplitude + 1) / 2 * period
    known = law.periods()
    mean = (known.period * known.probability).sum()
    error = (known.period.double().square() * known.probability).sum() - mean**2
    assert abs(period.double().mean() - mean) < 5 * math.sqrt(error / 4000)
    assert abs((phase / (period - 1)).mean() - 0.5) < 5 * math.sqrt(1 / 12 / 4000)
    assert 0.8 <= amplitude.min() < 0.801 and 0.999 < amplitude.max() <= 1
    assert abs(amplitude.mean() - 0.9) < 5 * 0.2 / math.sqrt(12 * 4000)


@pytest.mark.parametrize("mix", ["mean", "sum"])
def test_mixtures_add_up_and_come_again(mix):
    data = Waveforms(KINDS, num_mixtures=3, length=50, mix=mix)
    mixture, sources, weights = data.mixtures(torch.float64)
    torch.testing.assert_close(getattr(sources, mix)(1), mixture)
    torch.testing.assert_close((weights[:, None] * sources).sum(1), mixture)
    assert torch.equal(data.mixtures(torch.float64).sources, sources)
    other = Waveforms(KINDS, num_mixtures=3, length=50, seed=1).mixtures(torch.float64)
    assert not torch.equal(other.sources, sources)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kinds": ("sine", "sine")}, "kinds"),
        ({"kinds": ("bell",)}, "bell"),
        ({"mix": "max"}, "mix"),
        ({"length": 0}, "length"),
    ],
)
def test_waveforms_refuse(options, words):
    with pytest.raises(ValueError, match=words):
        Waveforms(**options)


def test_law_refuses():
    with pytest.raises(ValueError, match="frequencies"):
        WaveformLaw(frequencies="all")
    with pytest.raises(ValueError, match="amplitude"):
        WaveformLaw(amplitude=(1.0, 0.5))
    with pytest.raises(ValueError, match="period"):
        one_period("sine", torch.tensor([0]))
