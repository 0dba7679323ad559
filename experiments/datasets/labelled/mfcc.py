"""Forty features a frame of speech: mel-frequency cepstra, two orders of slopes, energy.

    P[t, k] = |sum_n w[n] e[t h + n] exp(-2 pi i k n / K)|^2 / K,   e[n] = s[n] - 0.97 s[n - 1]
    m[t, j] = log sum_k F[j, k] P[t, k]
    c[t, q] = (1 + 11 sin(pi q / 22)) sum_j C[q, j] m[t, j]
    d[t] = sum_i i (c[t + i] - c[t - i]) / 10,   i = 1, 2

with w the symmetric Hamming window of 25 ms, h = 10 ms, K the next power of two, F 26 triangles
and C the orthonormal cosine transform. What textbooks leave open follows the stored features of
the Asterisk prompts and the spoken digits: corners of the triangles are equally far apart in mel
2595 log10(1 + f / 700) from 0 Hz to half the rate, rounded down to bins of K + 1; the last frame
is completed with zeros; slopes repeat the first and the last frame at the edges.

Reference: S. Davis and P. Mermelstein, "Comparison of parametric representations for monosyllabic
word recognition in continuously spoken sentences", IEEE Trans. ASSP 28(4), 1980; pre-emphasis,
liftering and slopes as in S. Young et al., "The HTK Book", chapter 5.
"""

import math

import torch
from scipy.fft import dct
from torch import Tensor
from torch.nn import functional as F

from pyromodels.errors import ShapeError, mismatch

__all__ = ["NUM_FEATURES", "SHIFT", "WINDOW", "features"]

NUM_FEATURES = 40
"""Columns: 0-12 cepstra, 13-25 their slopes, 26-38 the slopes of those, 39 log energy."""

WINDOW, SHIFT = 0.025, 0.010
"""Seconds, of a frame and between the starts of two."""

_LOWEST_RATE = 8000
_PRE_EMPHASIS = 0.97
_NUM_FILTERS, _NUM_CEPSTRA, _LIFTER = 26, 13, 22
_POWER_FLOOR = torch.finfo(torch.float64).eps
_ENERGY_FLOOR = 1e-10


def features(
    signal: Tensor,                   # shape: (n,), full scale being 1
    rate: int,
) -> Tensor:                          # float32, shape: (T, 40)
    """Return 13 cepstra c0 ... c12, their slopes, the slopes of those, and log energy, a frame.

    T = 1 + ceil((n - window) / shift), at least 1. The energy is log(mean s^2 + 1e-10) in nats, of
    the frame before pre-emphasis and without window; a filter of power below 2.2e-16 counts as that
    much, so digital silence has features too. Computed in float64.

    Args:
        signal: one recording, whole: slopes look two frames ahead and behind.
        rate: samples a second, 8000 or more.

    Example:
        >>> features(torch.linspace(-1, 1, 16_000), 16_000).shape
        torch.Size([99, 40])

    Raises:
        ShapeError: for more than one axis, or no sample.
        ValueError: for a sample that is not finite, or a lower rate.
    """
    if signal.dim() != 1 or len(signal) == 0:
        raise ShapeError(mismatch("signal", given=f"shape {tuple(signal.shape)}", expected="(n,)",
                                  hint="Average the channels first."))
    if rate < _LOWEST_RATE:
        raise ValueError(mismatch("rate", given=rate, expected=f"{_LOWEST_RATE} Hz or more",
                                  hint=f"{_NUM_FILTERS} filters do not fit below."))
    if not torch.isfinite(signal).all():
        raise ValueError("signal: NaN or infinite; expected finite samples")
    signal = signal.double()
    emphasised = torch.cat((signal[:1], signal[1:] - _PRE_EMPHASIS * signal[:-1]))
    cepstra = _cepstra(_frames(emphasised, rate), rate)
    slopes = _slopes(cepstra)
    energy = (_frames(signal, rate).square().mean(-1, keepdim=True) + _ENERGY_FLOOR).log()
    return torch.cat((cepstra, slopes, _slopes(slopes), energy), dim=-1).float()


def _frames(signal: Tensor, rate: int) -> Tensor:  # shape: (T, window)
    window, shift = _samples(WINDOW, rate), _samples(SHIFT, rate)
    count = 1 + max(0, math.ceil((len(signal) - window) / shift))
    return F.pad(signal, (0, window + (count - 1) * shift - len(signal))).unfold(0, window, shift)


def _samples(seconds: float, rate: int) -> int:
    return math.floor(seconds * rate + 0.5)


def _cepstra(frames: Tensor, rate: int) -> Tensor:  # shape: (T, 13)
    length = frames.shape[-1]
    size = 1 << (length - 1).bit_length()
    window = torch.hamming_window(length, periodic=False, dtype=frames.dtype)
    power = torch.fft.rfft(frames * window, size).abs().square() / size
    log_mel = (power @ _triangles(size, rate).T).clamp_min(_POWER_FLOOR).log()
    cepstra = torch.from_numpy(dct(log_mel.numpy(), norm="ortho"))[:, :_NUM_CEPSTRA]
    order = torch.arange(_NUM_CEPSTRA, dtype=frames.dtype)
    return cepstra * (1 + _LIFTER / 2 * torch.sin(math.pi * order / _LIFTER))


def _triangles(size: int, rate: int) -> Tensor:  # float64, shape: (26, size // 2 + 1)
    top = 2595 * math.log10(1 + rate / 2 / 700)
    mel = torch.linspace(0, top, _NUM_FILTERS + 2, dtype=torch.float64)
    corners = ((size + 1) / rate * 700 * (10 ** (mel / 2595) - 1)).floor().unsqueeze(-1)
    left, peak, right = corners[:-2], corners[1:-1], corners[2:]
    bins = torch.arange(size // 2 + 1)
    rise, fall = (bins - left) / (peak - left), (right - bins) / (right - peak)
    return torch.minimum(rise, fall).clamp_min(0)


def _slopes(x: Tensor) -> Tensor:     # shape: (T, D), both
    padded = torch.cat((x[:1], x[:1], x, x[-1:], x[-1:]))
    one, two = padded[3:-1] - padded[1:-3], padded[4:] - padded[:-4]
    return (one + 2 * two) / 10
