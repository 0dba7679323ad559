"""Reading, writing, trimming and cutting of signals."""

import math
import sys

import numpy as np
import pytest
import soundfile
import torch

from pyromodels.audio.stft import STFT
from pyromodels.experiments.datasets.speech.audio import (
    peak_normalise,
    read_audio,
    segments,
    trim_silence,
    write_wav,
)


def tone(num_samples: int, frequency: float = 440.0, rate: int = 16_000) -> torch.Tensor:
    return torch.sin(2 * math.pi * frequency * torch.arange(num_samples) / rate)


def test_int16_is_exact_at_its_steps_and_float32_everywhere(tmp_path):
    steps = torch.tensor([-32768, -1, 0, 1, 32767]) / 32768
    assert torch.equal(read_audio(write_wav(tmp_path / "a.wav", steps)), steps)
    signal = 3 * tone(100)
    written = write_wav(tmp_path / "b.wav", signal, encoding="float32")
    assert torch.equal(read_audio(written), signal)
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"
    assert soundfile.info(written).subtype == "FLOAT"


def test_int16_rounds_to_the_nearest_step(tmp_path):
    signal = 0.7 * tone(1000)
    read = read_audio(write_wav(tmp_path / "a.wav", signal))
    assert (read - signal).abs().max() <= 0.5 / 32768 + 1e-9
    assert read_audio(write_wav(tmp_path / "b.wav", torch.ones(1))).item() == 32767 / 32768


def test_channels_are_averaged(tmp_path):
    stereo = np.stack([np.full(50, 0.5), np.full(50, -0.25)], 1).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", stereo, 16_000, subtype="FLOAT")
    assert torch.equal(read_audio(tmp_path / "a.wav"), torch.full((50,), 0.125))


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_other_rates_become_16_khz(tmp_path, rate):
    write_wav(tmp_path / "a.wav", tone(rate, rate=rate), sample_rate=rate, encoding="float32")
    signal = read_audio(tmp_path / "a.wav")
    assert signal.shape == (16_000,) and signal.dtype == torch.float32
    inside = slice(500, -500)                               # the filter rings at both ends
    assert (signal - tone(16_000))[inside].abs().max() < 2e-3


def test_trim_is_the_loop_over_frames():
    rng = np.random.default_rng(0)
    level = np.repeat([1e-3, 0.02, 1.0, 1e-6, 0.05, 0.02], [3000, 2500, 4000, 6000, 1000, 2600])
    x = rng.standard_normal(level.size) * level
    padded = np.pad(x, 1024)
    power = [np.mean(padded[512 * t:512 * t + 2048] ** 2) for t in range(1 + x.size // 512)]
    for threshold in (10.0, 30.0, 45.0):
        loud = [t for t, p in enumerate(power) if 10 * np.log10(p / max(power)) > -threshold]
        expected = x[512 * loud[0]:min(512 * (loud[-1] + 1), x.size)]
        trimmed = trim_silence(torch.from_numpy(x), threshold_db=threshold)
        assert torch.equal(trimmed, torch.from_numpy(expected))
        assert len(expected) < x.size


def test_trim_ignores_the_level_and_leaves_silence_whole():
    signal = torch.cat([torch.zeros(5000), tone(5000), torch.zeros(5000)])
    assert 5000 < len(trim_silence(signal)) < 8000
    assert len(trim_silence(1e-7 * signal)) == len(trim_silence(signal))
    assert len(trim_silence(torch.zeros(3000))) == 3000


def test_segments_are_counted_placed_and_normalised_as_published():
    stft = STFT()
    for length, count in ((38143, 0), (38144, 1), (299 * 256 - 1, 1), (299 * 256, 2)):
        assert len(segments(torch.ones(length), 150, stft)) == count
    ramp = torch.arange(1.0, 500 * 256 + 1)
    cut = segments(ramp, 150, stft)
    assert cut.shape == (3, 38144)
    torch.testing.assert_close(cut[1], ramp[38144:2 * 38144] / (2 * 38144))


def test_peak_is_one_in_each_row_and_silence_stays():
    scaled = peak_normalise(torch.stack([-4 * tone(99), torch.zeros(99)]))
    assert scaled.abs().amax(-1).tolist() == [1.0, 0.0]


def test_without_soundfile_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    for call in (lambda: read_audio("a.wav"), lambda: write_wav(tmp_path / "a.wav", tone(9))):
        with pytest.raises(ModuleNotFoundError, match=r"soundfile.*pyromodels\[audio\]"):
            call()


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.wav is missing"):
        read_audio(tmp_path / "no.wav")
    (tmp_path / "text.wav").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.wav is not an audio file"):
        read_audio(tmp_path / "text.wav")
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 16_000, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"nan\.wav: given 2 samples, 1 of them not finite"):
        read_audio(tmp_path / "nan.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    with pytest.raises(ValueError, match=r"empty\.wav: given 0 samples"):
        read_audio(tmp_path / "empty.wav")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: write_wav(p, 1.01 * torch.ones(3)), "peak 1.01.*peak_normalise"),
        (lambda p: write_wav(p, torch.full((3,), math.nan)), "peak nan"),
        (lambda p: write_wav(p, torch.ones(3), encoding="int24"), "int24.*did you mean 'int16'"),
        (lambda p: write_wav(p, torch.ones(2, 3)), r"\(2, 3\).*one channel"),
        (lambda p: trim_silence(torch.ones(9), threshold_db=-30), "threshold_db.*-30"),
        (lambda p: segments(torch.ones(9), 1, STFT()), "num_frames.*1.*at least 2"),
    ],
)
def test_errors_name_what_was_expected(tmp_path, call, words):
    with pytest.raises(ValueError, match=words):
        call(tmp_path / "a.wav")
    assert not list(tmp_path.iterdir())
