"""Mixtures of speech-like signals, tones and noises that are made: no recording is needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyromodels.errors import SpecError, unknown
from pyromodels.experiments.datasets import DATASETS
from pyromodels.experiments.datasets.mixtures.mixtures import Mixture, MixtureData
from pyromodels.experiments.datasets.speech.audio import (
    SAMPLE_RATE,
    peak_normalise,
    read_audio,
    write_wav,
)
from pyromodels.experiments.datasets.speech.recordings import SpeechData, load_speech_folder
from pyromodels.experiments.datasets.speech.synthesis import synthesise
from pyromodels.experiments.harness.records import runs_folder

Maker = Callable[[int, int], list[Tensor]]
"""How many, seed -> signals."""
COUNTS = {"train": 48, "valid": 8, "test": 8}
SECONDS = 3.0


@DATASETS.register("synthetic_mixtures")
def synthetic_mixtures(
    kinds: tuple[str, ...] = ("speech", "tones"), num_mixtures: int = 6, num_frames: int = 100
) -> MixtureData:
    """Signals of a synthesiser, mixed; figures of them say nothing about sound.

    Recordings are written as wav files once, below the folder of runs, and read like any other.
    Levels of a mixture lie between -5 and 5 dB.

    Args:
        kinds: of the sources, two or more of "speech", "tones" and "noise".
        num_mixtures: to be taken apart, of test recordings.
        num_frames: of a mixture, at a hop of 256 samples.
    """
    recordings = {kind: _recordings(kind) for kind in kinds}
    length, mixtures = (num_frames - 1) * 256, []
    for number in range(num_mixtures):
        parts = []
        for place, data in enumerate(recordings.values()):
            signal = read_audio(data.test[number % len(data.test)])[:length]
            level = 10 ** (((number % 3) - 1) * 5.0 * (place > 0) / 20)
            parts.append(level * signal / signal.square().mean().sqrt())
        sources = torch.stack(parts)
        mixtures.append(Mixture(f"mixture{number}", sources / sources.sum(0).abs().max()))
    return MixtureData("synthetic-mixtures", recordings, tuple(mixtures))


def _recordings(kind: str) -> SpeechData:
    if kind not in MAKERS:
        raise SpecError(unknown("kind of made source", given=kind, known=MAKERS))
    folder = runs_folder() / "synthetic-mixtures" / kind
    for number, (split, count) in enumerate(COUNTS.items()):
        _write(folder / split, MAKERS[kind], count, number)
    return replace(load_speech_folder(folder), name=f"synthetic-{kind}")


def _write(place: Path, make: Maker, count: int, seed: int) -> None:
    place.mkdir(parents=True, exist_ok=True)
    if len(list(place.glob("*.wav"))) != count:
        for i, signal in enumerate(make(count, seed)):
            write_wav(place / f"{i:03d}.wav", signal)


def _speech(count: int, seed: int) -> list[Tensor]:
    return [utterance.signal for utterance in synthesise(count, SECONDS, seed=seed)]


def tones(count: int, seed: int) -> list[Tensor]:  # each float32, shape: (n,), peak 1
    r"""Return melodies of a wind instrument: notes of a few harmonics, vibrato and breath.

        x = envelope (\sum_h h^{-1.5} sin(2 pi h \int f dt) + breath),   f = f_0 (1 + vibrato)

    Example:
        >>> tones(1, 0)[0].shape
        torch.Size([48000])
    """
    melodies = []
    for number in range(count):
        rng = np.random.default_rng([seed, 2, number])
        seconds = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
        pitch, loudness = np.zeros_like(seconds), np.zeros_like(seconds)
        start = 0.0
        while start < SECONDS:
            length = rng.uniform(0.2, 0.8)
            here = (seconds >= start) & (seconds < start + length)
            pitch[here] = 261.6 * 2 ** (rng.integers(0, 25) / 12)
            inside = (seconds[here] - start) / length
            loudness[here] = np.minimum(1, np.minimum(inside, 1 - inside) * 12) ** 0.7
            start += length
        vibrato = 0.006 * np.sin(2 * math.pi * rng.uniform(4.5, 6) * seconds)
        phase = 2 * math.pi * np.cumsum(pitch * (1 + vibrato)) / SAMPLE_RATE
        harmonics = sum(
            h**-1.5 * np.sin(h * phase) * (h * pitch < SAMPLE_RATE / 2.2) for h in range(1, 7)
        )
        breath = 0.02 * rng.standard_normal(len(seconds))
        room = 1e-3 * rng.standard_normal(len(seconds))
        melodies.append(
            peak_normalise(torch.from_numpy(loudness * (harmonics + breath) + room)).float()
        )
    return melodies


def noises(count: int, seed: int) -> list[Tensor]:  # each float32, shape: (n,), peak 1
    """Return noises of a slope of their own, by turns steady and swelling: a fan, a passing car.

    Example:
        >>> noises(2, 0)[1].shape
        torch.Size([48000])
    """
    made = []
    for number in range(count):
        rng = np.random.default_rng([seed, 3, number])
        length = round(SECONDS * SAMPLE_RATE)
        hertz = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
        colour = np.maximum(hertz, 50.0) ** -rng.uniform(0.2, 1.2)
        hum = 1 + 8 * np.exp(-((hertz - rng.uniform(200, 3000)) / 150) ** 2)
        spectrum = np.fft.rfft(rng.standard_normal(length)) * colour * hum
        seconds = np.arange(length) / SAMPLE_RATE
        swell = 1 + 0.8 * (number % 2) * np.sin(2 * math.pi * rng.uniform(0.2, 0.6) * seconds)
        made.append(peak_normalise(torch.from_numpy(np.fft.irfft(spectrum) * swell)).float())
    return made


MAKERS: dict[str, Maker] = {"speech": _speech, "tones": tones, "noise": noises}
