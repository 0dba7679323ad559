"""A score network: what it says by Tweedie's formula, its kinds, its loss, its training."""

import pytest
import torch

from pyromodels.audio.waveforms import WaveformLaw
from pyromodels.densities.gaussian import GaussianDensity
from pyromodels.densities.score_network import ScoreNetwork
from pyromodels.errors import ShapeError, SpecError
from pyromodels.experiments.priors.score_training import (
    ScoreTraining,
    drawn,
    find_or_train_score,
)

KINDS = ("sine", "square", "saw")


def small(**keywords):
    torch.manual_seed(0)
    return ScoreNetwork(KINDS, num_channels=8, num_rounds=1, **keywords)


def stirred(density):
    """With weights away from the zeros that training starts at."""
    for parameter in density.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return density


def test_before_training_it_is_the_score_of_a_gaussian():
    density, x = small(), torch.randn(5, 32)
    sigma = torch.tensor([0.05, 0.2, 0.6, 1.0, 2.0])
    expected = GaussianDensity(std=0.6).score(x, sigma)
    torch.testing.assert_close(density.score(x, sigma), expected, rtol=1e-4, atol=1e-3)


def test_score_is_that_of_what_it_takes_for_the_signal():
    density, x = stirred(small()), torch.randn(2, 3, 32)
    score = density.score(x, 0.3)
    torch.testing.assert_close(x + 0.3**2 * score, density.denoised(x, 0.3))
    assert not score.requires_grad
    by_hand = density.network(x[1], torch.full((3,), 0.3), torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(density.denoised(x, 0.3)[1], by_hand)


def test_kinds_share_a_network_and_are_told_apart():
    density, x = stirred(small()), torch.randn(2, 32)
    saw = density.of("saw")
    assert saw.network is density.network and density.number == 0
    assert not torch.allclose(saw.score(x, 0.3), density.score(x, 0.3))
    torch.testing.assert_close(small(kind="saw").of("sine").score(x, 0.3),
                               small().score(x, 0.3))
    with pytest.raises(SpecError, match="kind.*sow.*saw"):
        density.of("sow")
    with pytest.raises(SpecError, match="kinds"):
        ScoreNetwork(("saw", "saw"))


def test_the_loss_is_of_order_one_at_every_level_and_lowest_at_the_signal():
    density = small()
    signal = 0.6 * torch.randn(2000, 16)
    noise, kind = torch.randn(2000, 16), torch.zeros(2000, dtype=torch.long)
    for sigma in (0.01, 0.6, 2.0):  # of white signals nothing is left to say: F is of power one
        loss = density.loss(signal, noise, torch.full((2000,), sigma), kind)
        assert abs(loss.mean() - 1) < 0.05
    density.network.forward = lambda x, noise_std, kind: signal
    assert density.loss(signal, noise, torch.ones(2000), kind).abs().max() == 0


def test_every_parameter_learns_once_away_from_the_start():
    density = stirred(small())
    kind = torch.tensor([0, 1, 2])
    loss = density.loss(torch.randn(3, 32), torch.randn(3, 32), torch.rand(3) + 0.1, kind)
    loss.sum().backward()
    for name, parameter in density.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_refusals():
    with pytest.raises(ValueError, match="noise_std: given 0.0"):
        small().score(torch.zeros(2, 32))
    with pytest.raises(ShapeError, match="multiple of stride=8"):
        small().score(torch.zeros(2, 33), 0.1)
    with pytest.raises(SpecError, match="noise_std"):
        ScoreTraining(noise_std=(1.0, 0.1))
    with pytest.raises(SpecError, match="residue: given 2"):
        ScoreTraining(residue=2.0)
    with pytest.raises(SpecError, match="weights of a density"):
        find_or_train_score(WaveformLaw(), KINDS, ScoreTraining(weights="srnn_mot"), 0)


@pytest.mark.parametrize("residue", [0.0, 1.0])
def test_drawn_noise_has_the_power_it_says(residue):
    torch.manual_seed(0)
    options = ScoreTraining(residue=residue, length=64)
    signals, noise, sigma, kind = drawn(WaveformLaw(), KINDS, 3000, options)
    assert signals.shape == noise.shape == (3000, 64)
    assert kind.bincount().tolist() == [1000] * 3
    power = noise.square().mean(-1)
    assert abs(power.mean() - 1) < 5 * power.std() / 3000**0.5
    assert 0.005 <= sigma.min() and sigma.max() <= 2 and abs(sigma.log().median() + 2.3) < 0.25
    square = signals[kind == 1].abs()
    torch.testing.assert_close(square, square[:, :1].expand_as(square))
    spread = noise.square().mean(0).std() + (noise[:, 1:] * noise[:, :-1]).mean()
    assert (spread > 0.1) == bool(residue)  # waveforms have neighbours that are alike


def test_training_lowers_the_loss_and_is_found_again(tmp_path, monkeypatch):
    monkeypatch.setenv("PYROMODELS_RUNS", str(tmp_path))
    options = ScoreTraining(num_channels=8, num_rounds=1, length=64, steps=160, steps_per_epoch=40,
                            batch_size=12, learning_rate=2e-2, noise_std=(0.1, 0.5))
    made = find_or_train_score(WaveformLaw(), KINDS, options, 0)
    losses = [record["valid_loss"] for record in made.history]
    assert losses[-1] < 0.9 * losses[0]
    again = find_or_train_score(WaveformLaw(), KINDS, options, 0)
    x = torch.randn(2, 64)
    torch.testing.assert_close(made.prior.score(x, 0.3), again.prior.score(x, 0.3))
    with pytest.raises(SpecError, match="guide.weights.*a score network of triangle"):
        find_or_train_score(
            WaveformLaw(), ("saw", "triangle"), ScoreTraining(weights=str(again.folder)), 1
        )
    named = find_or_train_score(
        WaveformLaw(), KINDS, ScoreTraining(weights=str(again.folder)), 1
    )
    torch.testing.assert_close(named.prior.score(x, 0.3), again.prior.score(x, 0.3))


def test_shipped_weights_denoise_what_they_were_trained_on():
    density = find_or_train_score(
        WaveformLaw(), KINDS, ScoreTraining(weights="score_waveforms"), 0
    ).prior
    torch.manual_seed(0)
    with torch.no_grad():
        loss = density.loss(*drawn(WaveformLaw(), density.kinds, 64, ScoreTraining()))
    assert loss.mean() < 0.2  # 1 for the best linear estimate
