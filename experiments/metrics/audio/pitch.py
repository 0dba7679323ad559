"""The fundamental frequency F0 of a voice, frame by frame, and its median."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pyromodels.errors import ShapeError, mismatch

_QUIET_DB = 30.0                      # a frame that far below the loudest is not voiced


class Pitch(NamedTuple):
    """The estimate of every frame; ``f0`` means something only where ``voiced``."""

    f0: Tensor                        # Hz, float64, shape: (T,)
    voiced: Tensor                    # bool, shape: (T,)


def track_pitch(
    signal: Tensor,                   # shape: (n,)
    *,
    sample_rate: int = 16_000,
    lowest: float = 60.0,
    highest: float = 400.0,
    window: int = 512,
    hop: int = 160,
    threshold: float = 0.2,
) -> Pitch:
    r"""Find the period at which a frame repeats itself, all frames at once.

    .. math:: d_\tau = \sum_{i=1}^{W} (x_i - x_{i+\tau})^2, \qquad
              d'_\tau = \tau\, d_\tau \Big/ \sum_{k=1}^{\tau} d_k

    The period is the first local minimum of d' below ``threshold``, or the least of all where no
    minimum is; a parabola through it and its neighbours refines it. A frame is voiced if d' falls
    below the threshold there, and its power is within 30 dB of the loudest frame's.

    Args:
        signal: one voice.
        sample_rate: of the signal, hertz.
        lowest: least F0 looked for, hertz.
        highest: largest F0 looked for, hertz.
        window: W, samples.
        hop: samples between two frames.
        threshold: 0 asks for exact repetition, noise has about 1.

    Reference:
        A. de Cheveigne, H. Kawahara, "YIN, a fundamental frequency estimator for speech and
        music", 2002, steps 2 to 5.

    Raises:
        ShapeError: for more than one axis, or a signal shorter than one frame.
        ValueError: for a range of F0 that is empty or above a quarter of the sample rate.
    """
    if not 0 < lowest < highest <= sample_rate / 4:
        raise ValueError(mismatch("lowest, highest", given=f"{lowest}, {highest} Hz", expected="0 "
                                  f"< lowest < highest <= {sample_rate / 4:g} Hz"))
    shortest, longest = int(sample_rate / highest), int(sample_rate / lowest) + 2
    if signal.ndim != 1 or len(signal) < window + longest:
        raise ShapeError(mismatch("signal", given=f"shape {tuple(signal.shape)}", expected="(n,) "
                                  f"with n >= {window + longest} samples, one frame"))
    frames = signal.double().unfold(-1, window + longest, hop)             # (T, W + longest)
    power = frames[:, :window].square().mean(-1)
    normalised = _normalised_difference(frames, window, longest)           # (T, longest)
    middle, left, right = normalised[:, 1:-1], normalised[:, :-2], normalised[:, 2:]
    dip = (middle < threshold) & (middle <= left) & (middle < right)
    dip[:, :shortest - 2] = False
    least = middle[:, shortest - 2:].argmin(-1) + shortest - 2
    index = torch.where(dip.any(-1), dip.int().argmax(-1), least)[:, None]
    bottom, before, after = (d.gather(1, index)[:, 0] for d in (middle, left, right))
    bend = before - 2 * bottom + after
    shift = (before - after) / 2 / torch.where(bend > 0, bend, 1.0)
    period = index[:, 0] + 2 + torch.where(bend > 0, shift, 0.0).clamp(-0.5, 0.5)
    loud = power > power.max() * 10 ** (-_QUIET_DB / 10)
    return Pitch(sample_rate / period, (bottom < threshold) & loud)


def median_f0(signal: Tensor, *, sample_rate: int = 16_000) -> float:
    """Return the median F0 of the voiced frames, hertz.

    Raises:
        ValueError: if no frame is voiced.
    """
    pitch = track_pitch(signal, sample_rate=sample_rate)
    if not pitch.voiced.any():
        raise ValueError(f"none of the {len(pitch.voiced)} frames of signal is voiced; a median F0 "
                         "needs one")
    return pitch.f0[pitch.voiced].quantile(0.5).item()


def _normalised_difference(
    frames: Tensor,                   # shape: (T, W + longest)
    window: int,
    longest: int,
) -> Tensor:                          # d' at lags 1 ... longest, shape: (T, longest)
    size = frames.shape[-1]
    head = F.pad(frames[:, :window], (0, size - window))
    product = torch.fft.irfft(torch.fft.rfft(head).conj() * torch.fft.rfft(frames), size)
    total = F.pad(frames.square().cumsum(-1), (1, 0))
    energy = total[:, window:] - total[:, :longest + 1]                    # lags 0 ... longest
    difference = (energy[:, :1] + energy - 2 * product[:, :longest + 1]).clamp_min(0)[:, 1:]
    lags = torch.arange(1, longest + 1, dtype=frames.dtype, device=frames.device)
    running = difference.cumsum(-1)
    return torch.where(running > 0, lags * difference / running.clamp_min(1e-300), 1.0)
