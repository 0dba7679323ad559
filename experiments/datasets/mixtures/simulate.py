"""Mixtures drawn from recordings of single sources, for networks that learn to take them apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyromodels.audio.stft import STFT
from pyromodels.errors import SpecError, mismatch


@dataclass(frozen=True)
class Simulation:
    """How mixtures are made of recordings.

    Args:
        num_frames: T.
        level_db: levels of the sources relative to the first, drawn uniformly between the two.
        speed: recordings are played slower or faster by up to this factor.
        equalisation_db: standard deviation of a smooth random gain over frequency.
        together: share of mixtures whose sources are cut from one place of all recordings, which
            must go together, e.g. as the stems of songs do, and keep the levels they have there;
            all others are cut each from anywhere.
    """

    num_frames: int = 64
    level_db: tuple[float, float] = (-7.0, 12.0)
    speed: float = 1.2
    equalisation_db: float = 3.5
    together: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        if not 0 <= self.together <= 1:
            raise SpecError(mismatch("together", given=self.together, expected="0 to 1"))


def simulated(
    recordings: Sequence[Tensor],  # one long signal a source, each (n,)
    num_mixtures: int,
    stft: STFT,
    options: Simulation,
) -> Tensor:  # spectra of the sources, complex, shape: (B, N, T, F)
    """Draw spectra of sources from torch's global generator; their sum is a mixture.

    Sources are cut from anywhere of their recordings; one factor of speed serves all cuts of a
    source in a call, and all sources that are cut together. The mixture has a mean power of about
    one.

    Raises:
        ValueError: for recordings shorter than a cut, or of other lengths than those that they
            shall be cut together with.
    """
    num_together = 0
    if options.together:
        if len({len(signal) for signal in recordings}) > 1:
            given = f"lengths {[len(signal) for signal in recordings]}"
            raise ValueError(mismatch("recordings of together", given=given, expected="one length"))
        num_together = int((torch.rand(num_mixtures) < options.together).sum())
    parts = [
        draw(recordings, num, stft, options)
        for draw, num in ((_apart, num_mixtures - num_together), (_together, num_together)) if num
    ]
    spectra = torch.cat(parts)
    total = spectra.sum(1, keepdim=True).abs().square().mean((-2, -1), keepdim=True)
    return spectra / total.sqrt().clamp_min(1e-6)


def _apart(
    recordings: Sequence[Tensor], num: int, stft: STFT, options: Simulation
) -> Tensor:  # complex, shape: (num, N, T, F)
    """Draw sources from anywhere of their recordings, at drawn levels."""
    found = []
    for signal in recordings:
        cuts = _louder_cuts(signal, num, stft, options, _rate(options))
        found.append(_spectra(cuts, stft, options))
    spectra = torch.stack(found, 1)
    power = spectra.abs().square().mean((-2, -1), keepdim=True).clamp_min(1e-12)
    low, high = options.level_db
    levels = low + (high - low) * torch.rand(power.shape, device=power.device)
    levels[:, 0] = 0.0
    return spectra * (10 ** (levels / 10) / power).sqrt()


def _together(
    recordings: Sequence[Tensor], num: int, stft: STFT, options: Simulation
) -> Tensor:  # complex, shape: (num, N, T, F)
    """Draw sources from one place of all recordings, at the levels that they have there."""
    cuts = _cuts(torch.stack([*recordings]), num, stft, options, _rate(options))
    return torch.stack([_spectra(part, stft, options) for part in cuts], 1)


def _rate(options: Simulation) -> float:
    return options.speed ** (2 * torch.rand(()).item() - 1)


def _cuts(
    signals: Tensor,  # shape: (*, n)
    num: int,
    stft: STFT,
    options: Simulation,
    rate: float,
) -> Tensor:  # shape: (*, num, samples at another speed)
    """Cut pieces of signals, at the same places of all."""
    before = round(stft.num_samples(options.num_frames) * rate)
    if signals.shape[-1] < before:
        given = f"{signals.shape[-1]} samples"
        expected = f"at least {before}, the longest cut of num_frames={options.num_frames}"
        raise ValueError(mismatch("recordings of a source", given=given, expected=expected))
    device = signals.device
    start = torch.randint(signals.shape[-1] - before + 1, (num, 1), device=device)
    return signals[..., start + torch.arange(before, device=device)]


def _louder_cuts(
    signal: Tensor, num: int, stft: STFT, options: Simulation, rate: float
) -> Tensor:  # shape: (num, samples at another speed)
    """Cut pieces twice and take the louder ones: what is almost silent says nothing."""
    cuts, other = (_cuts(signal, num, stft, options, rate) for _ in range(2))
    louder = cuts.square().mean(-1, keepdim=True) >= 0.05 * other.square().mean(-1, keepdim=True)
    return torch.where(louder, cuts, other)


def _spectra(
    cuts: Tensor,  # shape: (num, samples at another speed)
    stft: STFT,
    options: Simulation,
) -> Tensor:  # complex, shape: (num, T, F)
    """Return what cuts sound like at the speed that they are played at, each through an equaliser.
    """
    (num, before), length = cuts.shape, stft.num_samples(options.num_frames)
    if before != length:
        bins = length // 2 + 1
        spectrum = torch.fft.rfft(cuts)
        spectrum = torch.nn.functional.pad(spectrum, (0, max(bins - spectrum.shape[-1], 0)))
        cuts = torch.fft.irfft(spectrum[:, :bins], n=length)
    return stft.analyse(cuts) * _equaliser(num, stft.num_bins, options.equalisation_db, cuts.device)


def _equaliser(
    num: int, num_bins: int, deviation_db: float, device: torch.device
) -> Tensor:  # shape: (num, 1, F)
    """Draw smooth gains: a few cosines over the logarithm of frequency."""
    place = torch.linspace(0, 1, num_bins, device=device).add(0.02).log()
    place = (place - place[0]) / (place[-1] - place[0])
    waves = torch.cos(math.pi * torch.arange(1, 6, device=device)[:, None] * place)  # (5, F)
    gains = torch.randn(num, len(waves), device=device) * deviation_db * math.sqrt(2 / len(waves))
    return 10 ** ((gains @ waves) / 20).unsqueeze(1)
