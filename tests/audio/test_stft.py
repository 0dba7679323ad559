"""The transform against its defining sum, its inverse, and the published power spectrograms."""

import math

import numpy as np
import pytest
import torch

from pyromodels.audio.stft import STFT
from pyromodels.errors import ShapeError
from pyromodels.experiments.datasets.speech.audio import peak_normalise, read_audio, trim_silence


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_every_coefficient_is_the_defining_sum():
    stft, signal = STFT(window=16, hop=6), noise(45)
    expected = torch.zeros(8, 9, dtype=torch.complex128)
    for t in range(8):
        for f in range(9):
            for i in range(16):
                sample = t * 6 + i - 8
                if 0 <= sample < 45:
                    weight = math.sin(math.pi * (i + 0.5) / 16) * signal[sample].item()
                    phase = -2 * math.pi * f * i / 16
                    expected[t, f] += complex(weight * math.cos(phase), weight * math.sin(phase))
    torch.testing.assert_close(stft.analyse(signal), expected)


@pytest.mark.parametrize("length", [1, 255, 256, 257, 38144, 40000])
def test_the_inverse_returns_the_signal_of_any_length(length):
    stft, signal = STFT(), noise(2, length)
    spectrum = stft.analyse(signal)
    assert spectrum.shape == (2, stft.num_frames(length), stft.num_bins)
    torch.testing.assert_close(stft.synthesise(spectrum, length), signal)


def test_batches_are_signals_side_by_side():
    stft, signal = STFT(64, 16), noise(2, 3, 160)
    spectrum = stft.analyse(signal)
    assert spectrum.shape == (2, 3, 11, 33)
    torch.testing.assert_close(spectrum[1, 2], stft.analyse(signal[1, 2]))
    torch.testing.assert_close(stft.synthesise(spectrum)[1, 2], signal[1, 2])


def test_no_signals_have_no_spectra():
    stft = STFT(64, 16)
    spectrum = stft.analyse(torch.zeros(0, 160))
    assert spectrum.shape == (0, 11, 33) and spectrum.dtype == torch.complex64
    assert stft.synthesise(spectrum).shape == (0, 160)


def test_frames_and_samples_are_inverse_counts():
    stft = STFT()
    assert stft.num_bins == 513
    assert (stft.num_samples(150), stft.num_frames(38144)) == (38144, 150)
    assert [stft.num_frames(n) for n in (1, 255, 256)] == [1, 1, 2]


def test_synthesis_is_the_least_squares_signal():
    stft = STFT(32, 8)
    wanted = torch.complex(noise(6, 17), noise(6, 17, seed=1))
    twice = torch.tensor([1.0, *[2.0] * 15, 1.0])           # bins that stand for two

    def distance(signal: torch.Tensor) -> torch.Tensor:
        difference = stft.analyse(signal) - torch.complex(
            wanted.real, wanted.imag * (twice == 2)         # a real signal has no such parts
        )
        return (twice * difference.abs().square()).sum()

    signal = stft.synthesise(wanted).requires_grad_()
    (gradient,) = torch.autograd.grad(distance(signal), signal)
    assert gradient.abs().max() < 1e-9
    assert torch.autograd.grad(distance(signal + 0.1), signal)[0].abs().max() > 1


@pytest.mark.parametrize("model", ["srnn", "vae"])
def test_published_power_spectrograms_come_out_of_the_recordings(audio_data, model):
    with np.load(audio_data / f"parity_{model}.npz") as arrays:
        power, window = torch.from_numpy(arrays["power"]), int(arrays["window"])
        files = arrays["source_files"].tolist()
    for column, file in enumerate(files):
        signal = trim_silence(read_audio(audio_data / file), threshold_db=30)
        signal = peak_normalise(signal[4000:4000 + 49 * 256])
        magnitude, expected = STFT(window).analyse(signal).abs(), power[:, column].sqrt()
        # Rounding of a float32 transform is relative to the largest coefficient, not to each.
        assert (magnitude - expected).abs().max() < 2e-7 * expected.max()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: STFT(window=15), "window.*15.*even"),
        (lambda: STFT(window=16, hop=9), "hop.*9.*1 to 8"),
        (lambda: STFT().analyse(torch.zeros(2, 0)), r"signal.*\(2, 0\).*at least one"),
        (lambda: STFT().synthesise(torch.zeros(513, 7, dtype=torch.complex64)), "before frequency"),
        (lambda: STFT().synthesise(torch.zeros(7, 513)), "complex"),
        (lambda: STFT().synthesise(torch.zeros(7, 513, dtype=torch.complex64), 5000), "1536.*1791"),
        (lambda: STFT().synthesise(torch.zeros(1, 513, dtype=torch.complex64)), "length.*0.*1 fr"),
    ],
)
def test_errors_name_what_was_expected(call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert isinstance(caught.value, ShapeError) or "window" in words or "hop" in words


def test_the_variance_of_a_signal_is_that_of_its_draws():
    torch.manual_seed(0)
    stft = STFT(window=16, hop=4)
    variance = torch.rand(2, 6, 9) * torch.tensor([1.0, 9.0])[:, None, None]
    variance[0, :, 1:8] = 0                             # the ends alone: real parts
    errors = variance.sqrt() * torch.randn(20000, 2, 6, 9, dtype=torch.complex64)
    found = stft.synthesise(errors).square().mean(0)
    torch.testing.assert_close(stft.signal_variance(variance), found, atol=0.0, rtol=0.06)
    with pytest.raises(ShapeError, match="variance"):
        stft.signal_variance(variance[..., 1:])
