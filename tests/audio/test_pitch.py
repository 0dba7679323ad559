"""F0 of vowels of known F0; noise and silence are not voiced."""

import math

import pytest
import torch
from scipy.signal import lfilter

from pyromodels.errors import ShapeError
from pyromodels.experiments.metrics.audio.pitch import median_f0, track_pitch


def vowel(f0: float, seconds: float = 0.5, rate: int = 16_000) -> torch.Tensor:
    """An impulse a cycle through two formants, 500 and 1500 Hz."""
    cycles = f0 * torch.arange(int(rate * seconds), dtype=torch.float64) / rate
    wave = (cycles.floor().diff(prepend=cycles[:1] - 1) > 0).double().numpy()
    for formant in (500.0, 1500.0):
        radius = math.exp(-math.pi * 90 / rate)
        wave = lfilter([1.0], [1, -2 * radius * math.cos(2 * math.pi * formant / rate), radius**2],
                       wave)
    return torch.from_numpy(wave)


@pytest.mark.parametrize("f0", [70.0, 95.0, 123.4, 180.0, 250.0, 333.0])
def test_median_of_a_vowel_is_within_three_percent(f0):
    assert median_f0(vowel(f0)) == pytest.approx(f0, rel=0.03)
    assert track_pitch(vowel(f0)).voiced.double().mean() > 0.9


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_at_another_rate(rate):
    assert median_f0(vowel(140.0, rate=rate), sample_rate=rate) == pytest.approx(140, rel=0.03)


def test_a_sinusoid_is_exact_to_a_fraction_of_a_sample():
    time = torch.arange(16_000, dtype=torch.float64) / 16_000
    for f0 in (101.3, 217.9):
        pitch = track_pitch(torch.sin(2 * math.pi * f0 * time))
        assert (pitch.f0 / f0 - 1).abs().max() < 1e-3


def test_a_glide_is_followed():
    time = torch.arange(16_000, dtype=torch.float64) / 16_000
    phase = 100 * time + 50 * time**2                       # 100 to 200 Hz in a second
    wave = sum(torch.sin(2 * math.pi * k * phase) / k for k in range(1, 8))
    pitch = track_pitch(wave, hop=160)
    # The two windows compared span W + period samples; their middle is the frame's time.
    centre = (160 * torch.arange(len(pitch.f0)) + (512 + 16_000 / pitch.f0) / 2) / 16_000
    assert pitch.voiced.all()
    assert (pitch.f0 / (100 + 100 * centre) - 1).abs().max() < 0.03


def test_noise_and_silence_are_not_voiced():
    noise = torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    assert track_pitch(noise).voiced.double().mean() < 0.02
    with pytest.raises(ValueError, match="none of the .* frames of signal is voiced"):
        median_f0(torch.zeros(16_000))
    quiet_then_loud = torch.cat([1e-3 * vowel(100.0), vowel(200.0)])
    assert median_f0(quiet_then_loud) == pytest.approx(200, rel=0.03)


def test_level_does_not_matter():
    low, high = track_pitch(1e-4 * vowel(110.0)), track_pitch(vowel(110.0))
    torch.testing.assert_close(low.f0, high.f0)
    assert torch.equal(low.voiced, high.voiced)


def test_errors_name_what_was_expected():
    with pytest.raises(ShapeError, match=r"signal.*\(700,\).*780"):
        track_pitch(torch.zeros(700))
    with pytest.raises(ValueError, match="lowest < highest <= 4000 Hz"):
        track_pitch(vowel(100.0), lowest=300, highest=200)
