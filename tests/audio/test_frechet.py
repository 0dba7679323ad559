"""The distance against Gaussians in closed form; the features against their description."""

import math

import pytest
import torch
from scipy.linalg import sqrtm

from pyromodels.errors import ShapeError
from pyromodels.experiments.datasets.speech.synthesis import synthesise
from pyromodels.experiments.metrics.audio.frechet import (
    frechet_distance,
    frechet_log_mel,
    log_mel_features,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def white(num: int, dim: int, seed: int = 0) -> torch.Tensor:
    """Vectors whose sample mean is 0 and whose sample covariance is 1, exactly."""
    centred = noise(num, dim, seed=seed)
    centred = centred - centred.mean(0)
    return torch.linalg.qr(centred).Q * math.sqrt(num - 1)


def test_commuting_gaussians_in_closed_form():
    a, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 0.5, 3.0])
    shift = torch.tensor([0.5, -1.0, 2.0])
    expected = (shift.square() + (a - b).square()).sum().item()
    distance = frechet_distance(white(40, 3) * a, white(70, 3, seed=1) * b + shift)
    assert distance == pytest.approx(expected)


def test_any_gaussians_by_the_square_root_of_a_matrix():
    mix = noise(4, 4, seed=2)
    a, b = noise(50, 4), noise(30, 4, seed=1) @ mix + 1
    covariances = [s.T.cov().numpy() for s in (a, b)]
    expected = (a.mean(0) - b.mean(0)).square().sum().item() + sum(
        c.trace() for c in covariances
    ) - 2 * sqrtm(covariances[0] @ covariances[1]).real.trace()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


def test_fewer_vectors_than_features_are_no_obstacle():
    a = noise(5, 40)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 2) == pytest.approx(160)


def test_features_ignore_the_level_and_notice_the_colour():
    signal = synthesise(1, 1.0)[0].signal
    features = log_mel_features(signal)
    assert features.shape == (60,)
    torch.testing.assert_close(log_mel_features(0.01 * signal), features, rtol=0, atol=1e-4)
    brighter = log_mel_features(signal.diff())
    assert brighter[15:20].mean() > features[15:20].mean() + 3


def test_features_of_a_tone_are_in_the_band_of_its_frequency():
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(16_000) / 16_000)
    mel = 2595 * torch.log10(1 + torch.tensor([60.0, 1000.0, 7600.0]) / 700)
    nearest = round(((mel[1] - mel[0]) / (mel[2] - mel[0]) * 21).item()) - 1
    mean, deviation, change = log_mel_features(tone).split(20)
    assert mean.argmax() == nearest
    assert mean.max() > -2 and mean.min() < -50
    assert deviation[nearest] < 2 and change[nearest] < 2   # the first and last frame are halved


def test_other_sounds_are_farther_than_more_of_the_same():
    speech = [u.signal for u in synthesise(40, 1.0)]
    hiss = [noise(16_000, seed=seed) for seed in range(20)]
    same = frechet_log_mel(speech[::2], speech[1::2])
    assert 0 < same < frechet_log_mel(speech[::2], hiss) / 10


def test_errors_name_what_was_expected():
    tone = torch.sin(torch.arange(4000.0))
    with pytest.raises(ShapeError, match=r"\(5, 3\), \(5, 4\)"):
        frechet_distance(noise(5, 3), noise(5, 4))
    with pytest.raises(ValueError, match="5, 1 vectors.*covariance"):
        frechet_distance(noise(5, 3), noise(1, 3))
    with pytest.raises(ValueError, match="NaN"):
        frechet_distance(noise(5, 3), noise(5, 3) * math.nan)
    with pytest.raises(ValueError, match="2, 0 utterances"):
        frechet_log_mel([tone, tone], [])
    with pytest.raises(ShapeError, match="n >= 512 samples"):
        log_mel_features(tone[:500])
    for wrong in (0 * tone, tone * math.nan):
        with pytest.raises(ValueError, match="loudest band"):
            log_mel_features(wrong)
