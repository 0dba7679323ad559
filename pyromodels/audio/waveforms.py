"""Periodic waveforms of a whole number of samples, and the law of their periods.

Reference: Frank and Ilse, 2020, "Problems using deep generative models for probabilistic audio
source separation", section 3.1; what it leaves out is taken from the published code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pyromodels.errors import check_choice, mismatch

KINDS = ("sine", "square", "saw", "triangle")
SAMPLE_RATE = 14_700
"""Hertz, of the published code; the paper says 16 000."""
HIGHEST_KEY = {"paper": 880, "released": 649}
"""Tenths of a piano key, from 1 on: 26 Hz to the 4186 Hz of the paper, or to 1102 Hz."""


class PeriodLaw(NamedTuple):
    """How probable periods are."""

    period: Tensor  # samples, ascending, int64, shape: (P,)
    probability: Tensor  # float64, shape: (P,)


@dataclass(frozen=True)
class WaveformLaw:
    r"""The law of a toy waveform: a period, a phase and an amplitude.

    .. math:: f = 440 \cdot 2^{(n - 49)/12}, \quad P = \lfloor r / f \rfloor, \quad
              \phi \sim U\{0 .. P - 1\}, \quad a \sim U(a_0, a_1), \quad
              s_t = a\, w_P((t + \phi) \bmod P)

    with key n drawn uniformly from 0.1, 0.2, ... Periods and phases are whole samples, so there is
    a finite set of shapes, and signals are exactly periodic.

    Args:
        frequencies: "paper", 26 to 4186 Hz (it says 27 Hz; periods of 3 to 563 samples), or
            "released", 26 to 1102 Hz (13 to 563), as the published code draws.
        amplitude: a_0 and a_1, equal for one amplitude.
        band_limited: leave out harmonics at half the rate and above, which fold in the paper's.
        sample_rate: r, hertz.

    Raises:
        ValueError: for other frequencies, or amplitudes that are not positive and ordered.

    Example:
        >>> period, probability = WaveformLaw(frequencies="released").periods()
        >>> period[[0, -1]].tolist(), len(period)
        ([13, 563], 365)
    """

    frequencies: Literal["paper", "released"] = "paper"
    amplitude: tuple[float, float] = (0.8, 1.0)
    band_limited: bool = False
    sample_rate: int = SAMPLE_RATE

    def __post_init__(self) -> None:
        check_choice("frequencies", self.frequencies, *HIGHEST_KEY)
        if len(self.amplitude) != 2 or not 0 < self.amplitude[0] <= self.amplitude[1]:
            expected = "two amplitudes, positive and ascending"
            raise ValueError(mismatch("amplitude", given=self.amplitude, expected=expected))

    def periods(self) -> PeriodLaw:
        """Return the periods there are."""
        period, count = self._of_keys().unique(return_counts=True)
        return PeriodLaw(period, count.double() / count.sum())

    def draw(
        self,
        kind: str,
        num: int,
        length: int,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:  # on the device of the generator, shape: (num, length)
        """Draw waveforms.

        Args:
            kind: of `KINDS`.
            num: how many.
            length: samples.
            generator: of the draws.
            dtype: of what is returned.
        """
        device = generator.device
        uniform = torch.rand(3, num, 1, generator=generator, device=device, dtype=torch.float64)
        keys = self._of_keys().to(device)
        period = keys[(uniform[0] * len(keys)).long()]  # (num, 1)
        phase = (uniform[1] * period).long()
        amplitude = self.amplitude[0] + uniform[2] * (self.amplitude[1] - self.amplitude[0])
        table = one_period(kind, period[:, 0], band_limited=self.band_limited)
        time = torch.arange(length, device=device)
        return (amplitude * table.gather(1, (time + phase) % period)).to(dtype)

    def _of_keys(self) -> Tensor:  # samples, int64, shape: (keys,)
        key = torch.arange(1, HIGHEST_KEY[self.frequencies] + 1, dtype=torch.float64) / 10
        return (self.sample_rate // (440 * 2 ** ((key - 49) / 12))).long()


def one_period(
    kind: str,
    period: Tensor,  # samples, int64, shape: (n,)
    *,
    band_limited: bool = False,
) -> Tensor:  # float64, shape: (n, longest period)
    """Return one period of waveforms of amplitude 1 from phase 0 on; zero after it.

    Raises:
        ValueError: for another kind, or a period below 1.
    """
    check_choice("kind", kind, *KINDS)
    if period.numel() == 0 or int(period.min()) < 1:
        raise ValueError(mismatch("period", given=period, expected="at least one sample each"))
    longest, period = int(period.max()), period.unsqueeze(-1)
    sample = torch.arange(longest, device=period.device)
    make = _series if band_limited else _shape
    return torch.where(sample < period, make(kind, sample, period), 0.0)


def _shape(kind: str, sample: Tensor, period: Tensor) -> Tensor:
    turn = sample.double() / period  # below 1 within the period
    shapes: dict[str, Callable[[], Tensor]] = {
        "sine": lambda: torch.sin(2 * math.pi * turn),
        "square": lambda: torch.where(2 * sample < period, 1.0, -1.0).double(),
        "saw": lambda: 2 * turn - 1,
        "triangle": lambda: 1 - (4 * turn - 2).abs(),
    }
    return shapes[kind]()


def _series(kind: str, sample: Tensor, period: Tensor) -> Tensor:
    """Sum the harmonics below half the sample rate."""
    angle = 2 * math.pi * sample.double() / period
    series: dict[str, Callable[[int], Tensor]] = {
        "square": lambda k: 4 / (math.pi * k) * torch.sin(k * angle) * (k % 2),
        "saw": lambda k: -2 / (math.pi * k) * torch.sin(k * angle),
        "triangle": lambda k: -8 / (math.pi * k) ** 2 * torch.cos(k * angle) * (k % 2),
    }
    if kind == "sine":
        return torch.sin(angle)
    total = torch.zeros_like(angle)
    for k in range(1, (sample.numel() + 1) // 2):
        total += torch.where(2 * k < period, series[kind](k), 0.0)
    return total
