r"""Speech-like signals from a source-filter synthesiser: no recording, no language, no words.

They have what models of speech are built around (harmonics of a moving F0, moving formants, noise,
pauses), with a truth that recordings lack: who "speaks" and in which F0 range. Tests and smoke runs
need no corpus; figures on them say nothing about speech.

.. math:: x = \text{formants} * (\text{loudness of the voice} \cdot \text{source})
          + \text{loudness of the noise} \cdot \text{noise} + \text{room}

**Source.** A glottal pulse a cycle, each cycle's length jittered; breath noise with it.
**Formants.** Five resonators in cascade, moving linearly from vowel to vowel.
**Noise.** Fricatives and bursts: white noise through one resonator, long or short.
**Speaker.** F0 range and position, length of the vocal tract, breath; speakers alternate between a
low F0 range and a high one.
**Room.** White noise 60 dB below the voice, so that no bin is digital silence.

Reference:
    D. H. Klatt, "Software for a cascade/parallel formant synthesizer", 1980, for the resonator.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.signal import lfilter, sosfilt
from torch import Tensor

from pyromodels.errors import mismatch
from pyromodels.experiments.datasets.speech.audio import SAMPLE_RATE, peak_normalise

F0_RANGES = ((90.0, 130.0), (180.0, 250.0))
"""Hertz, low and high; speaker k has range k mod 2."""

_VOWELS = np.array([                  # Hz, shape: (7, 5), of a vocal tract of 17 cm
    [750.0, 1250.0, 2500.0, 3500.0, 4500.0],
    [550.0, 1800.0, 2500.0, 3500.0, 4500.0],
    [400.0, 2000.0, 2600.0, 3550.0, 4500.0],
    [300.0, 2250.0, 2950.0, 3600.0, 4600.0],
    [550.0, 900.0, 2450.0, 3400.0, 4450.0],
    [350.0, 800.0, 2300.0, 3350.0, 4400.0],
    [500.0, 1450.0, 2450.0, 3450.0, 4500.0],
])
_BANDWIDTHS = np.array([70.0, 100.0, 150.0, 250.0, 400.0])                 # Hz
_PHONES = {                           # probability after a vowel, shortest and longest in seconds
    "fricative": (0.35, 0.06, 0.14),
    "burst": (0.30, 0.015, 0.03),
    "pause": (0.20, 0.06, 0.20),
    "none": (0.15, 0.0, 0.0),
}
_BLOCK = 160                          # samples between two settings of the formants
_RAMP = 320                           # samples in which a phone fades in and out


class SyntheticUtterance(NamedTuple):
    """One signal and the speaker behind it."""

    signal: Tensor                    # float32, shape: (n,), peak 1
    f0_range: tuple[float, float]     # Hz; the F0 of every voiced cycle lies in it, but for jitter
    speaker: int


class _Speaker(NamedTuple):
    f0_range: tuple[float, float]
    position: float                   # where in that range, 0 to 1
    tract: float                      # factor on all formants
    breath: float                     # of the source's standard deviation


class _Score(NamedTuple):
    """What is uttered: loudness of voice and noise, the noise itself, the formants' corners."""

    voiced: np.ndarray                # shape: (n,)
    noisy: np.ndarray                 # shape: (n,)
    noise: np.ndarray                 # shape: (n,)
    times: np.ndarray                 # samples, shape: (vowels,)
    formants: np.ndarray              # Hz, shape: (vowels, 5)


def synthesise(
    num_utterances: int,
    seconds: float,
    *,
    num_speakers: int = 4,
    seed: int = 0,
) -> list[SyntheticUtterance]:
    """Return utterances at 16 kHz, number i by speaker i mod ``num_speakers``.

    Each depends on the seed, its number and its speaker only, not on how many are asked for.

    Raises:
        ValueError: for a number below 1, or less than half a second.

    Example:
        >>> low, high = synthesise(2, 1.0, num_speakers=2)
        >>> low.signal.shape, low.f0_range, high.f0_range
        (torch.Size([16000]), (90.0, 130.0), (180.0, 250.0))
    """
    for argument, value in (("num_utterances", num_utterances), ("num_speakers", num_speakers)):
        if value < 1:
            raise ValueError(mismatch(argument, given=value, expected="at least 1"))
    if not 0.5 <= seconds < float("inf"):
        raise ValueError(mismatch("seconds", given=seconds, expected="at least 0.5"))
    utterances = []
    for number in range(num_utterances):
        speaker = _speaker(number % num_speakers, seed)
        rng = np.random.default_rng([seed, 1, number])
        signal = torch.from_numpy(_utter(rng, speaker, round(seconds * SAMPLE_RATE)))
        utterances.append(SyntheticUtterance(
            peak_normalise(signal).float(), speaker.f0_range, number % num_speakers
        ))
    return utterances


def _speaker(number: int, seed: int) -> _Speaker:
    rng = np.random.default_rng([seed, 0, number])
    high = number % 2
    tract = rng.uniform(0.95, 1.05) * (1.17 if high else 1.0)
    return _Speaker(F0_RANGES[high], rng.uniform(0.3, 0.7), tract, rng.uniform(0.05, 0.2))


def _utter(rng: np.random.Generator, speaker: _Speaker, num_samples: int) -> np.ndarray:
    score = _compose(rng, num_samples)
    fade = np.hanning(_RAMP) / np.hanning(_RAMP).sum()
    voiced, noisy = (np.convolve(e, fade, "same") for e in (score.voiced, score.noisy))
    centres = np.arange(0, num_samples, _BLOCK) + _BLOCK / 2
    tracks = np.stack([np.interp(centres, score.times, f) for f in score.formants.T], 1)
    vowels = _vocal_tract(_glottis(rng, speaker, num_samples) * voiced, speaker.tract * tracks)
    room = 1e-3 * rng.standard_normal(num_samples)
    return vowels / vowels.std() + score.noise * noisy + room


def _compose(rng: np.random.Generator, num_samples: int) -> _Score:
    """Draw vowels, each followed by a fricative, a burst, a pause or the next vowel."""
    voiced, noisy, noise = np.zeros((3, num_samples + SAMPLE_RATE))        # room for the last phone
    times, formants = [], []
    names, chances = list(_PHONES), [chance for chance, _, _ in _PHONES.values()]
    start = int(rng.uniform(0.02, 0.08) * SAMPLE_RATE)
    while start < num_samples:
        end = start + int(rng.uniform(0.09, 0.26) * SAMPLE_RATE)
        voiced[start:end] = rng.uniform(0.5, 1.0)
        times.append((start + end) / 2)
        formants.append(_VOWELS[rng.integers(len(_VOWELS))] * rng.normal(1, 0.03, 5))
        _, shortest, longest = _PHONES[phone := names[rng.choice(len(names), p=chances)]]
        start = end + int(rng.uniform(shortest, longest) * SAMPLE_RATE)
        if phone in ("fricative", "burst"):
            b, a = np.split(_resonator(rng.uniform(2500, 6500), 1200.0), 2)
            hiss = lfilter(b, a, rng.standard_normal(start - end))
            noise[end:start] = hiss / hiss.std()
            noisy[end:start] = rng.uniform(0.2, 0.8)
    voiced, noisy, noise = (wave[:num_samples] for wave in (voiced, noisy, noise))
    return _Score(voiced, noisy, noise, np.array(times), np.array(formants))


def _glottis(rng: np.random.Generator, speaker: _Speaker, num_samples: int) -> np.ndarray:
    """Draw the derivative of the glottal flow, one pulse a cycle, and breath while it flows."""
    seconds = np.arange(num_samples) / SAMPLE_RATE
    melody = np.sin(2 * np.pi * (rng.uniform(0.5, 1.5) * seconds + rng.uniform()))
    decline = 0.5 - seconds / seconds[-1]
    low, high = speaker.f0_range
    f0 = low * (high / low) ** (speaker.position + 0.2 * decline + 0.2 * melody)
    cycles = np.cumsum(f0) / SAMPLE_RATE
    jitter = 1 + 0.008 * rng.standard_normal(int(cycles[-1]) + 1)
    cycles = np.cumsum(f0 * jitter[cycles.astype(int)]) / SAMPLE_RATE
    opening = cycles % 1 / 0.6                                             # above 1: closed
    flow = np.where(opening < 1, opening**2 * (1 - opening), 0.0)
    pulses = np.diff(flow, prepend=0.0)
    breath = speaker.breath * pulses.std() * rng.standard_normal(num_samples)
    return pulses + breath * flow / flow.max()


def _vocal_tract(
    source: np.ndarray,               # shape: (n,)
    formants: np.ndarray,             # Hz, shape: (blocks, 5)
) -> np.ndarray:                      # shape: (n,)
    """Filter block by block; each resonator keeps its state as it moves."""
    sections = [_resonator(f, _BANDWIDTHS) for f in formants]
    state, output = np.zeros((len(_BANDWIDTHS), 2)), np.empty_like(source)
    for block, section in enumerate(sections):
        here = slice(block * _BLOCK, (block + 1) * _BLOCK)
        output[here], state = sosfilt(section, source[here], zi=state)
    return output


def _resonator(
    frequency: float | np.ndarray,    # Hz, shape: (*)
    bandwidth: float | np.ndarray,    # Hz, shape: (*)
) -> np.ndarray:                      # second-order section b0 b1 b2 1 a1 a2, shape: (*, 6)
    """Return a pair of poles, of gain 1 at frequency zero."""
    radius = np.exp(-np.pi * np.asarray(bandwidth) / SAMPLE_RATE)
    a1 = -2 * radius * np.cos(2 * np.pi * np.asarray(frequency) / SAMPLE_RATE)
    zero, one = np.zeros_like(a1), np.ones_like(a1)
    return np.stack([1 + a1 + radius**2, zero, zero, one, a1, radius**2], -1)
