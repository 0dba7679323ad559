"""Mixtures drawn from recordings of single sources, for networks that learn to take them apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyromodels.audio.stft import STFT
from pyromodels.errors import mismatch


@dataclass(frozen=True)
class Simulation:
    """How mixtures are made of recordings.

    Args:
        num_frames: T.
        level_db: levels of the sources relative to the first, drawn uniformly between the two.
        speed: recordings are played slower or faster by up to this factor.
        equalisation_db: standard deviation of a smooth random gain over frequency.
    """

    num_frames: int = 64
    level_db: tuple[float, float] = (-7.0, 12.0)
    speed: float = 1.2
    equalisation_db: float = 3.5


def simulated(
    recordings: Sequence[Tensor],  # one long signal a source, each (n,)
    num_mixtures: int,
    stft: STFT,
    options: Simulation,
) -> Tensor:  # spectra of the sources, complex, shape: (B, N, T, F)
    """Draw spectra of sources from torch's global generator; their sum is a mixture.

    Sources are cut from anywhere of their recordings; one factor of speed serves all cuts of a
    call. The mixture has a mean power of about one.
    """
    found = []
    for signal in recordings:
        rate = options.speed ** (2 * torch.rand(()).item() - 1)
        found.append(_cuts(signal, num_mixtures, stft, options, rate))
    spectra = torch.stack(found, 1)
    power = spectra.abs().square().mean((-2, -1), keepdim=True).clamp_min(1e-12)
    low, high = options.level_db
    levels = low + (high - low) * torch.rand(power.shape, device=power.device)
    levels[:, 0] = 0.0
    spectra = spectra * (10 ** (levels / 10) / power).sqrt()
    total = spectra.sum(1, keepdim=True).abs().square().mean((-2, -1), keepdim=True)
    return spectra / total.sqrt()


def _cuts(
    signal: Tensor, num: int, stft: STFT, options: Simulation, rate: float
) -> Tensor:  # complex, shape: (num, T, F)
    length = stft.num_samples(options.num_frames)
    before = round(length * rate)
    if len(signal) < before:
        given = f"{len(signal)} samples"
        expected = f"at least {before}, the longest cut of num_frames={options.num_frames}"
        raise ValueError(mismatch("recordings of a source", given=given, expected=expected))
    place, device = torch.arange(before, device=signal.device), signal.device
    # a cut that is almost silent says nothing: take the louder of two
    cuts, other = (
        signal[torch.randint(len(signal) - before + 1, (num, 1), device=device) + place]
        for _ in range(2)
    )
    louder = cuts.square().mean(-1, keepdim=True) >= 0.05 * other.square().mean(-1, keepdim=True)
    cuts = torch.where(louder, cuts, other)
    if before != length:
        bins = length // 2 + 1
        spectrum = torch.fft.rfft(cuts)
        spectrum = torch.nn.functional.pad(spectrum, (0, max(bins - spectrum.shape[-1], 0)))
        cuts = torch.fft.irfft(spectrum[:, :bins], n=length)
    return stft.analyse(cuts) * _equaliser(num, stft.num_bins, options.equalisation_db, device)


def _equaliser(
    num: int, num_bins: int, deviation_db: float, device: torch.device
) -> Tensor:  # shape: (num, 1, F)
    """Draw smooth gains: a few cosines over the logarithm of frequency."""
    place = torch.linspace(0, 1, num_bins, device=device).add(0.02).log()
    place = (place - place[0]) / (place[-1] - place[0])
    waves = torch.cos(math.pi * torch.arange(1, 6, device=device)[:, None] * place)  # (5, F)
    gains = torch.randn(num, len(waves), device=device) * deviation_db * math.sqrt(2 / len(waves))
    return 10 ** ((gains @ waves) / 20).unsqueeze(1)
