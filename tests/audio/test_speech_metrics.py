"""Figures of rebuilt speech against closed forms, limits and published numbers."""

import importlib.util
import math
import sys

import numpy as np
import pytest
import torch

from pyromodels.distributions.spectral import itakura_saito
from pyromodels.experiments.datasets.speech.synthesis import synthesise
from pyromodels.experiments.metrics.audio.distortion import scaled_rmse, si_sdr
from pyromodels.experiments.metrics.audio.perceptual import estoi, pesq_figures, raw_pesq
from pyromodels.experiments.metrics.audio.speech import speech_metrics


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def speech() -> torch.Tensor:
    return synthesise(1, 2.4)[0].signal


def test_rmse_and_si_sdr_are_functions_of_the_correlation():
    x, y = noise(3, 500), noise(3, 500) + 0.4 * noise(3, 500, seed=1)
    for row in range(3):
        a, b = x[row].numpy(), y[row].numpy()
        squared = np.dot(a, b) ** 2 / (np.dot(a, a) * np.dot(b, b))
        assert scaled_rmse(x, y)[row].item() == pytest.approx(
            math.sqrt(np.mean(a**2) * (1 - squared))
        )
        assert si_sdr(x, y)[row].item() == pytest.approx(10 * math.log10(squared / (1 - squared)))


def test_si_sdr_of_orthogonal_noise_is_the_ratio_of_powers_and_keeps_the_mean():
    x, wrong = torch.tensor([3.0, 0.0, 4.0, 0.0]), torch.tensor([0.0, 0.5, 0.0, 0.0])
    assert si_sdr(x, x + wrong).item() == pytest.approx(20.0)
    # An offset is a distortion: with means removed this would be infinite.
    flat = torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert si_sdr(flat, flat + 0.1).item() == pytest.approx(20.0, abs=1e-5)


def test_no_figure_depends_on_the_level_of_the_estimate(speech):
    estimate = speech + 0.03 * noise(len(speech)).float()
    assert speech_metrics(speech, 0.25 * estimate) == pytest.approx(
        speech_metrics(speech, estimate), rel=1e-5
    )


def test_equal_signals_have_the_best_figures(speech):
    figures = speech_metrics(speech, speech)
    assert figures["rmse"] < 1e-12
    assert figures["si_sdr"] == pytest.approx(-10 * math.log10(2**-52))
    assert figures["estoi"] == pytest.approx(1, abs=1e-9)
    assert figures["pesq_wb"] == pytest.approx(4.644, abs=1e-3)
    assert figures["pesq_nb"] == pytest.approx(4.549, abs=1e-3)
    assert figures["pesq_raw"] == pytest.approx(4.5, abs=1e-3)


def test_more_noise_is_worse_by_every_figure(speech):
    little, much = (
        speech_metrics(speech, speech + level * noise(len(speech)).float())
        for level in (0.003, 0.1)
    )
    assert little["rmse"] < much["rmse"]
    for key in ("si_sdr", "estoi", "pesq_wb", "pesq_nb", "pesq_raw"):
        assert little[key] > much[key], key


def test_raw_pesq_inverts_the_logistic():
    for raw in (-0.5, 1.0, 3.6, 4.5):
        narrow = 0.999 + 4 / (1 + math.exp(-1.4945 * raw + 4.6607))
        assert raw_pesq(narrow) == pytest.approx(raw)
    assert raw_pesq(3.68) == pytest.approx(3.60, abs=1e-2)  # published, means over files
    with pytest.raises(ValueError, match="narrow_band.*0.9"):
        raw_pesq(0.9)


def test_itakura_saito_by_hand():
    power, variance = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 1.0], [6.0, 4.0]])
    expected = torch.tensor([2 - math.log(2) - 1, 0.5 + math.log(2) - 1])
    torch.testing.assert_close(itakura_saito(power, variance), expected)
    torch.testing.assert_close(itakura_saito(5 * power, 5 * variance), expected)
    assert not itakura_saito(power, power).any()


@pytest.mark.parametrize("model", ["vae", "rvae_causal_513", "dkf", "srnn"])
def test_itakura_saito_of_published_models(audio_data, model):
    with np.load(audio_data / f"parity_{model}.npz") as arrays:
        power, variance = (
            torch.from_numpy(arrays[key]).transpose(0, 1) for key in ("power", "var")
        )
        published = float(arrays["loss_recon"])
    assert itakura_saito(power, variance).mean().item() == pytest.approx(published, rel=1e-5)


def test_without_pesq_its_keys_are_absent_and_a_warning_says_why(monkeypatch, speech):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "pesq" else find(n))
    with pytest.warns(UserWarning, match=r"pesq is not installed.*pyromodels\[pesq\]"):
        assert set(speech_metrics(speech, speech)) == {"rmse", "si_sdr", "estoi"}


@pytest.mark.parametrize(
    ("figure", "package", "extra"), [(estoi, "pystoi", "audio"), (pesq_figures, "pesq", "pesq")]
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, speech, figure, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{package}.*pyromodels\[{extra}\]"):
        figure(speech, speech)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: speech_metrics(x, x[:-1]), "38400.*38399.*equal shapes"),
        (lambda x: speech_metrics(x, 0 * x), "estimate is digital silence"),
        (lambda x: speech_metrics(x, x / 0), "estimate is .* not finite"),
        (lambda x: speech_metrics(x[None], x[None]), "one utterance"),
        (lambda x: estoi(x[:5000], x[:5000]), "ESTOI cannot judge these 0.31 s.*STFT frames"),
        (lambda x: pesq_figures(x[:3000], x[:3000]), "PESQ cannot judge these 0.19 s.*1/4 of a s"),
    ],
)
def test_errors_name_what_was_expected(speech, call, words):
    with pytest.raises(ValueError, match=words):
        call(speech)
