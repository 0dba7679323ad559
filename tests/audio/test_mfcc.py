"""Forty features: against loops written from the formulas, and against features stored before."""

import math

import numpy as np
import pytest
import torch

from pyromodels.errors import ShapeError
from pyromodels.experiments.datasets.labelled.mfcc import features
from pyromodels.experiments.datasets.speech.audio import read_audio


def tone(frequency: float, rate: int, seconds: float = 0.2) -> torch.Tensor:
    return torch.sin(2 * math.pi * frequency / rate * torch.arange(round(seconds * rate)))


def mel_corners(rate: int, size: int) -> list[int]:
    """Bins where the 26 triangles begin, peak and end: 28 points equally far apart in mel."""
    top = 2595 * math.log10(1 + rate / 1400)
    hertz = [700 * (10 ** (top * j / 27 / 2595) - 1) for j in range(28)]
    return [int((size + 1) * f / rate) for f in hertz]


def log_mel_by_loops(signal: np.ndarray, rate: int) -> list[list[float]]:
    """Every frame's 26 log powers, the Fourier transform as a sum of products."""
    window, shift, size = {8000: (200, 80, 256), 16_000: (400, 160, 512)}[rate]
    corners, rows = mel_corners(rate, size), []
    bins, samples = np.arange(size // 2 + 1), np.arange(window)
    fourier = np.exp(-2j * np.pi * np.outer(bins, samples) / size)
    for start in range(0, max(1, len(signal) - window + shift), shift):
        frame = np.zeros(window)
        for n in range(window):
            if start + n < len(signal):
                before = 0.97 * signal[start + n - 1] if start + n else 0.0
                hamming = 0.54 - 0.46 * math.cos(2 * math.pi * n / (window - 1))
                frame[n] = (signal[start + n] - before) * hamming
        power = abs(fourier @ frame) ** 2 / size
        row = []
        for left, peak, right in zip(corners, corners[1:], corners[2:], strict=False):
            total = sum((k - left) / (peak - left) * power[k] for k in range(left, peak))
            total += sum((right - k) / (right - peak) * power[k] for k in range(peak, right))
            row.append(math.log(total))
        rows.append(row)
    return rows


def by_loops(signal: np.ndarray, rate: int) -> np.ndarray:
    cepstra = []
    for row in log_mel_by_loops(signal, rate):
        cepstra.append([])
        for q in range(13):
            total = sum(v * math.cos(math.pi * q * (j + 0.5) / 26) for j, v in enumerate(row))
            norm = math.sqrt((1 if q == 0 else 2) / 26)
            cepstra[-1].append((1 + 11 * math.sin(math.pi * q / 22)) * norm * total)

    def slopes(x: list[list[float]]) -> list[list[float]]:
        def at(t: int) -> np.ndarray:
            return np.array(x[min(max(t, 0), len(x) - 1)])

        return [list(sum(i * (at(t + i) - at(t - i)) for i in (1, 2)) / 10) for t in range(len(x))]

    first = slopes(cepstra)
    window, shift = round(0.025 * rate), round(0.01 * rate)
    energy = [[math.log(sum(v * v for v in signal[t * shift:t * shift + window]) / window + 1e-10)]
              for t in range(len(cepstra))]
    return np.concatenate((cepstra, first, slopes(first), energy), axis=1)


@pytest.mark.parametrize("rate", [8000, 16_000])
@pytest.mark.parametrize("length", [0.02, 0.025, 0.0301, 0.0851])
def test_against_loops(rate, length):
    generator = torch.Generator().manual_seed(0)
    signal = 0.1 * torch.randn(round(length * rate), generator=generator, dtype=torch.float64)
    expected = by_loops(signal.numpy(), rate)
    found = features(signal, rate)
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("samples", "frames"), [
    (1, 1), (399, 1), (400, 1), (401, 2), (560, 2), (561, 3), (16_000, 99),
])
def test_the_last_frame_is_completed(samples, frames):
    assert features(torch.ones(samples), 16_000).shape == (frames, 40)


@pytest.mark.parametrize("filter_number", [3, 10, 20, 25])
def test_a_tone_excites_its_filter(filter_number):
    """Thirteen of 26 cosines blur the log powers of the filters, but their peak stays in place."""
    rate = 16_000
    peak = mel_corners(rate, 512)[filter_number + 1]
    cepstra = features(tone(peak * rate / 512, rate), rate)[5, :13].double()
    q, j = torch.arange(13.0, dtype=torch.float64), torch.arange(26.0, dtype=torch.float64)
    lifter = 1 + 11 * torch.sin(math.pi * q / 22)
    basis = torch.cos(math.pi * torch.outer(j + 0.5, q) / 26) * (2 / 26) ** 0.5
    basis[:, 0] /= 2 ** 0.5
    assert (basis @ (cepstra / lifter)).argmax() == filter_number


@pytest.mark.parametrize("gain", [1e-2, 3.0])
def test_a_gain_moves_energy_and_c0_alone(gain):
    generator = torch.Generator().manual_seed(1)
    signal = torch.randn(4000, generator=generator, dtype=torch.float64)
    moved = features(gain * signal, 16_000) - features(signal, 16_000)
    expected = torch.zeros(40)
    expected[0], expected[39] = 2 * math.log(gain) * 26 ** 0.5, 2 * math.log(gain)
    torch.testing.assert_close(moved, expected.expand_as(moved), rtol=0, atol=1e-4)


def test_slopes_of_a_ramp():
    """A level that grows by r nats a frame makes c0 a line: slope 2 r sqrt(26), slope of it 0."""
    growth = 0.05
    noise = torch.randn(160, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    time = torch.arange(160 * 30, dtype=torch.float64) / 160
    found = features(noise.repeat(30) * (growth * time).exp(), 16_000)
    inner = slice(5, -5)               # slopes of slopes see 4 frames; both ends are different
    level = 2 * growth * 26 ** 0.5
    torch.testing.assert_close(found[inner, 13], torch.full_like(found[inner, 13], level),
                               rtol=0, atol=1e-4)
    assert found[inner, 14:39].abs().max() < 1e-4


def test_digital_silence_has_features():
    found = features(torch.zeros(1000), 16_000)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[:, 39], torch.full_like(found[:, 39], math.log(1e-10)))
    assert found[:, 13:39].abs().max() == 0


@pytest.mark.parametrize(("signal", "rate", "error", "words"), [
    (torch.zeros(2, 500), 16_000, ShapeError, r"\(2, 500\).*Average"),
    (torch.zeros(0), 16_000, ShapeError, r"\(0,\)"),
    (torch.zeros(500), 4000, ValueError, "4000.*8000"),
    (torch.tensor([0.0, math.nan]), 16_000, ValueError, "NaN"),
])
def test_what_is_refused(signal, rate, error, words):
    with pytest.raises(error, match=words):
        features(signal, rate)


def test_stored_features_of_the_same_recordings(tvnf_data, audio_data):
    """The FLAC files hold the prompts at a 4th or 8th of their level, so 2 or 3 bits are gone.

    At the level found from the energies the loud half of the frames must agree to what rounding
    leaves: it is most of what is in the quietest filters, so medians are compared.
    """
    stored = np.load(tvnf_data / "phones_asterisk.npz", allow_pickle=False)
    x, length, utterance, start = (stored[key] for key in ("x", "len", "utt", "start"))
    files = {path.stem.removeprefix("ast_en_"): path
             for path in sorted((audio_data / "speech").glob("*/ast_en_agent-*.flac"))}
    compared = 0
    for number, name in enumerate(stored["utts"]):
        rows = np.flatnonzero(utterance == number)
        if str(name) not in files or not len(rows):
            continue
        signal = read_audio(files[str(name)]).double()
        if (start + length)[rows].max() != len(features(signal, 16_000)):
            continue                  # its end was trimmed
        expected = np.concatenate([x[row, :length[row]] for row in rows])
        frames = np.concatenate([start[row] + np.arange(length[row]) for row in rows])
        loud = expected[:, 39] > np.median(expected[:, 39])
        energy = features(signal, 16_000).numpy()[frames, 39]
        gain = math.exp(np.median((expected[:, 39] - energy)[loud]) / 2)
        assert min(abs(gain - 4), abs(gain - 8)) < 5e-3
        found = features(round(gain) * signal, 16_000).numpy()[frames]
        error = np.abs(found - expected)[loud]
        assert np.median(error[:, :13]) < 0.1
        assert np.median(error[:, 13:39]) < 0.03
        assert np.median(error[:, 39]) < 1e-3
        compared += 1
    assert compared >= 3
