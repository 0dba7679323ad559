"""The exact law of the toy waveforms: log p_sigma and its score, summed over a finite set."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from pyromodels.audio.waveforms import KINDS, WaveformLaw, one_period
from pyromodels.densities.base import SmoothedDensity
from pyromodels.errors import check_choice, check_positive, mismatch
from pyromodels.registry import DENSITIES

NUM_PERIODS = 32
"""Of a chunk."""
SPAN = 100.0
"""Nats below the best wave of a chunk that cannot be seen in double precision any more."""
LEAST_ENERGY = 1e-12
"""Of a wave that is zero in the whole frame: its amplitude is still to be integrated out."""


class _Waves(NamedTuple):
    """All waves of a few periods of about the same length."""

    period: Tensor  # P, shape: (C,)
    log_prior: Tensor  # log p(P) / P, shape: (C,)
    wave: Tensor  # spectrum of two periods of w_P, shape: (C, F)
    power: Tensor  # of its square
    longest: int  # samples of the longest period
    size: int  # of the FFT


class _Weighed(NamedTuple):
    """The same, given signals."""

    log_weight: Tensor  # log p(x, P, phi) less what all waves share, shape: (b, C, longest)
    amplitude: Tensor  # E[a | x, P, phi], shape: (b, C, longest)


@DENSITIES.register("waveform")
class WaveformDensity(SmoothedDensity):
    r"""p(s) of a toy waveform: every period and phase there is, times a uniform amplitude.

    .. math::
        p_\sigma(x) = \sum_P p(P) \frac1P \sum_{\phi < P} \int U(a; a_0, a_1)\,
                      N(x;\, a\, w_{P,\phi},\, \sigma^2 I)\, da, \qquad
        \nabla \log p_\sigma(x) = (E[s \mid x] - x) / \sigma^2

    The sum over phases is a correlation, taken by FFT of the signal folded at every period; the
    integral over the amplitude is in closed form (error functions). Work is a few million
    operations a signal whatever its length, done in double precision, and memory is bounded by
    `max_elements` values at a time. Without noise p is singular: there is no density at sigma = 0.

    Args:
        kind: "sine", "square", "saw" or "triangle".
        frequencies: as of `WaveformLaw`.
        amplitude: a_0 and a_1; equal for one amplitude.
        band_limited: of the waves.
        max_elements: values of one tensor at a time.

    Raises:
        ValueError: for what the law refuses, or no noise.

    Example:
        >>> density = WaveformDensity(kind="sine", amplitude=(1.0, 1.0))
        >>> time = torch.arange(256)
        >>> x = torch.sin(2 * math.pi * time / 50)[None]
        >>> density.log_prob(x, 0.1).item() > density.log_prob(0.9 * x, 0.1).item()
        True
        >>> (density.denoised(0.9 * x, 0.1) - x).abs().max().item() < 1e-4
        True
    """

    def __init__(
        self,
        *,
        kind: str,
        frequencies: Literal["paper", "released"] = "paper",
        amplitude: tuple[float, float] = (0.8, 1.0),
        band_limited: bool = False,
        max_elements: int = 2**20,
    ) -> None:
        super().__init__()
        low, high = amplitude
        self.law = WaveformLaw(frequencies, (low, high), band_limited)
        self.kind, self.max_elements = kind, max_elements
        check_choice("kind", kind, *KINDS)
        check_positive(self, "max_elements")
        self._waves: dict[torch.device, list[_Waves]] = {}  # no buffers: float() would round them

    def log_prob(
        self,
        x: Tensor,  # shape: (*batch, T)
        noise_std: float | Tensor = 0.0,
    ) -> Tensor:  # nats, shape: (*batch)
        """Return log p_sigma(x).

        Raises:
            ValueError: for sigma = 0, where there is no density; on an accelerator it is not looked
                at, and the result is NaN.
        """
        parts = []
        for rows, sigma, waves in self._rows(x, noise_std):
            of_waves = [self._weigh(rows, sigma, w).log_weight.flatten(1).logsumexp(1)
                        for w in waves]
            length, variance = rows.shape[1], sigma.square()
            shared = rows.square().sum(1) / variance + length * torch.log(2 * math.pi * variance)
            parts.append(torch.stack(of_waves).logsumexp(0) - 0.5 * shared)
        return torch.cat(parts).reshape(x.shape[:-1]).to(x.dtype)

    @torch.no_grad()
    def score(
        self,
        x: Tensor,  # shape: (*batch, T)
        noise_std: float | Tensor = 0.0,
    ) -> Tensor:  # shape: (*batch, T)
        """Return the gradient of log p_sigma at x, in closed form."""
        wide = x.double()
        variance = self.over_event(self.noise_of(wide, noise_std)).square()
        return ((self.denoised(wide, noise_std) - wide) / variance).to(x.dtype)

    @torch.no_grad()
    def denoised(
        self,
        x: Tensor,  # shape: (*batch, T)
        noise_std: float | Tensor,
    ) -> Tensor:  # E[s | x], shape: (*batch, T)
        """Return the mean of the waveform that noise was added to."""
        means = []
        for rows, sigma, waves in self._rows(x, noise_std):
            top = rows.new_full((len(rows), 1, 1), -math.inf)  # of the weights so far
            mass, mean = torch.zeros_like(top[:, 0]), torch.zeros_like(rows)
            for w in waves:
                log_weight, amplitude = self._weigh(rows, sigma, w)
                above = torch.maximum(top, log_weight.amax((1, 2), keepdim=True))
                kept, weight = (top - above).exp()[:, 0], (log_weight - above).exp()
                by_phase = _correlate(weight * amplitude, w.wave, w)  # at t mod P
                at = _time(rows, w.period).expand(len(rows), -1, -1)
                mean = kept * mean + by_phase.gather(2, at).sum(1)
                mass = kept * mass + weight.sum((1, 2))[:, None]
                top = above
            means.append(mean / mass)
        return torch.cat(means).reshape(x.shape).to(x.dtype)

    def _rows(
        self, x: Tensor, noise_std: float | Tensor
    ) -> Iterator[tuple[Tensor, Tensor, list[_Waves]]]:
        """Split the batch: rows (b, T), their sigma (b,), and the waves."""
        sigma = self.noise_of(x, noise_std).double().reshape(-1)
        if sigma.device.type == "cpu" and not bool((sigma > 0).all()):
            given, hint = sigma.min().item(), "Without noise the law is singular."
            raise ValueError(mismatch("noise_std", given=given, expected="above zero", hint=hint))
        if x.device not in self._waves:
            self._waves[x.device] = self._made(x.device)
        waves, length = self._waves[x.device], x.shape[-1]
        widest = max(len(w.period) * max(w.size, length) for w in waves)
        few, rows = max(1, self.max_elements // widest), x.double().reshape(-1, length)
        for part, of_part in zip(rows.split(few), sigma.split(few), strict=True):
            yield part, of_part, waves

    def _made(self, device: torch.device) -> list[_Waves]:
        made, (period, probability) = [], self.law.periods()
        for of_chunk, prior in zip(period.split(NUM_PERIODS), probability.split(NUM_PERIODS),
                                   strict=True):  # periods ascend
            wave = one_period(self.kind, of_chunk, band_limited=self.law.band_limited)
            longest = wave.shape[1]
            twice = torch.arange(2 * longest - 1) % of_chunk[:, None]
            wave, size = wave.gather(1, twice), next_fast_len(2 * longest - 1, real=True)
            made.append(_Waves(
                period=of_chunk.to(device),
                log_prior=(prior / of_chunk).log().to(device),
                wave=torch.fft.rfft(wave, size).to(device),
                power=torch.fft.rfft(wave.square(), size).to(device),
                longest=longest,
                size=size,
            ))
        return made

    def _weigh(self, rows: Tensor, sigma: Tensor, w: _Waves) -> _Weighed:
        """Integrate the amplitude out: log w of exp(-|x - a w|^2 / 2 sigma^2), less |x|^2."""
        there = torch.arange(w.longest, device=rows.device) < w.period[:, None]  # phases
        product = _correlate(_fold(rows, w), w.wave, w)  # <x, w>, (b, C, longest)
        energy = _correlate(_fold(torch.ones_like(rows[:1]), w), w.power, w)  # |w|^2
        product = product.where(there, 0.0)
        energy = energy.where(there, 1.0).clamp_min(LEAST_ENERGY)
        noise = sigma[:, None, None]
        (low, high), centre, scale = self.law.amplitude, product / energy, noise / energy.sqrt()
        nearest = centre.clamp(low, high)
        log_weight = (nearest * product - 0.5 * nearest.square() * energy) / noise.square()
        log_weight = (log_weight + w.log_prior[:, None]).where(there, -math.inf)
        if low == high:
            return _Weighed(log_weight, nearest)
        # the mean over amplitudes is no more than the best of them: what is far below stays so
        kept: Any = ...
        if rows.device.type == "cpu":  # elsewhere it would wait for the device
            kept = log_weight.detach() > log_weight.detach().amax((1, 2), keepdim=True) - SPAN
        centre, scale = centre[kept], scale.expand(log_weight.shape)[kept]
        log_mass, shift = truncated_normal((low - centre) / scale, (high - centre) / scale)
        log_mass = log_mass + (scale * math.sqrt(2 * math.pi) / (high - low)).log()
        whole, amplitude = torch.full_like(log_weight, -math.inf), torch.zeros_like(log_weight)
        whole[kept] = log_weight[kept] + log_mass
        amplitude[kept] = (centre + scale * shift).clamp(low, high)
        return _Weighed(whole, amplitude)


def truncated_normal(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Log mass of a standard normal in an interval, less log exp(-z^2 / 2) at its mode; its mean.

    In units of the density at the mode nothing underflows, however far out the interval lies.
    """
    flip = low + high < 0  # mirrored, so that the mode is at the lower end or inside
    near, far = torch.where(flip, -high, low), torch.where(flip, -low, high)
    mode = near.clamp_min(0)
    fall = (0.5 * (mode.square() - far.square())).exp()
    rise = (0.5 * (mode.square() - near.square())).exp()
    root = math.sqrt(0.5)
    outside = torch.special.erfcx(root * mode) - torch.special.erfcx(root * far) * fall
    inside = torch.erf(root * far) - torch.erf(root * near)
    mass = 0.5 * torch.where(near > 0, outside, inside)
    mean = (rise - fall) / (math.sqrt(2 * math.pi) * mass)
    return mass.log(), torch.where(flip, -mean, mean)


def _time(rows: Tensor, period: Tensor) -> Tensor:  # t mod P, shape: (C, T)
    return torch.arange(rows.shape[1], device=rows.device) % period[:, None]


def _fold(rows: Tensor, w: _Waves) -> Tensor:  # sums over t = r mod P, shape: (b, C, longest)
    at = _time(rows, w.period).expand(len(rows), -1, -1)
    folded = rows.new_zeros(len(rows), len(w.period), w.longest)
    return folded.scatter_add(2, at, rows[:, None].expand(at.shape))


def _correlate(values: Tensor, spectrum: Tensor, w: _Waves) -> Tensor:  # shape of values
    """Return the sum over r of values[r] wave[(r + lag) mod P] at every lag below P."""
    product = torch.fft.rfft(values, w.size).conj() * spectrum
    return torch.fft.irfft(product, w.size)[..., : w.longest]
