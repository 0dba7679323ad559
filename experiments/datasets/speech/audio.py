"""Audio files as tensors: read, write, trim, normalise, cut."""

import math
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from scipy.signal import resample_poly
from torch import Tensor
from torch.nn import functional as F

from pyromodels.audio.stft import STFT
from pyromodels.errors import ShapeError, mismatch, unknown

SAMPLE_RATE = 16_000
"""Hertz; every model and every figure of speech here."""

_FRAME, _STEP = 2048, 512             # samples, of the level that `trim_silence` compares
_SUBTYPES = {"float32": "FLOAT", "int16": "PCM_16"}


def read_audio(
    path: str | Path,
    *,
    sample_rate: int = SAMPLE_RATE,
) -> Tensor:                          # float32, shape: (n,)
    """Read one file (wav, flac, ...) as mono at ``sample_rate``, full scale being 1.

    Channels are averaged; another rate is converted by a polyphase filter.

    Raises:
        FileNotFoundError: if there is no such file.
        ModuleNotFoundError: if the extra ``audio`` is not installed.
        ValueError: if it is not audio, is empty, or holds a NaN.
    """
    soundfile, path = _soundfile(), Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; expected an audio file")
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise _unreadable(path, error) from None
    mono = samples.mean(1)
    if mono.size == 0 or not np.isfinite(mono).all():
        raise ValueError(mismatch(str(path), given=f"{mono.size} samples, "
                                  f"{int((~np.isfinite(mono)).sum())} of them not finite",
                                  expected="at least one sample, all finite"))
    if rate != sample_rate:
        common = math.gcd(rate, sample_rate)
        mono = resample_poly(mono, sample_rate // common, rate // common).astype(np.float32)
    return torch.from_numpy(mono)


def conversion(
    path: str | Path,
    *,
    sample_rate: int = SAMPLE_RATE,
) -> str:
    """Say what `read_audio` does to a file beyond reading it; "" where nothing is to be done.

    Raises:
        FileNotFoundError, ModuleNotFoundError, ValueError: as `read_audio`, but that samples are
            not looked at.
    """
    soundfile, path = _soundfile(), Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; expected an audio file")
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError as error:
        raise _unreadable(path, error) from None
    done = [f"{info.channels} channels averaged"] if info.channels > 1 else []
    if info.samplerate != sample_rate:
        done.append(f"{info.samplerate} Hz resampled to {sample_rate} Hz")
    return ", ".join(done)


def write_wav(
    path: str | Path,
    signal: Tensor,                   # shape: (n,)
    *,
    sample_rate: int = SAMPLE_RATE,
    encoding: str = "int16",
) -> Path:
    """Write one mono wav file, as ``int16`` (steps of 1/32768) or ``float32``.

    Raises:
        ShapeError: for more than one axis.
        ValueError: for an unknown encoding, a NaN, or a signal beyond full scale in ``int16``:
            it is refused, not clipped.
    """
    if encoding not in _SUBTYPES:
        raise ValueError(unknown("encoding", given=encoding, known=_SUBTYPES))
    _check_mono(signal)
    peak = signal.abs().max().item()
    if not math.isfinite(peak) or (encoding == "int16" and peak > 1):
        raise ValueError(mismatch("signal", given=f"peak {peak:g}", expected="finite, at most 1 in "
                                  "int16", hint="Call peak_normalise, or write float32."))
    samples = signal.detach().cpu().to(torch.float32).numpy()
    if encoding == "int16":
        samples = np.minimum(np.round(samples * 32768), 32767).astype(np.int16)
    _soundfile().write(path, samples, sample_rate, subtype=_SUBTYPES[encoding], format="WAV")
    return Path(path)


def trim_silence(
    signal: Tensor,                   # shape: (n,)
    *,
    threshold_db: float = 30.0,
) -> Tensor:                          # shape: (m,), m <= n
    """Cut both ends that are ``threshold_db`` or more below the loudest frame.

    The level is the RMS of centred frames of 2048 samples every 512, zeros beyond the ends. Kept
    is what begins with the first frame above the threshold and ends 512 samples after the last:
    the definition of ``librosa.effects.trim``, but for its floor at an RMS of 1e-5, so that
    trimming does not depend on the scale. Digital silence stays whole.

    Raises:
        ShapeError: for more than one axis.
        ValueError: for a threshold that is not positive.
    """
    _check_mono(signal)
    if not threshold_db > 0:
        raise ValueError(mismatch("threshold_db", given=threshold_db, expected="a positive number "
                                  "of decibels below the loudest frame"))
    frames = F.pad(signal.double(), (_FRAME // 2, _FRAME // 2)).unfold(-1, _FRAME, _STEP)
    power = frames.square().mean(-1)                                       # (1 + n // 512,)
    loud = (power >= power.max() * 10 ** (-threshold_db / 10)).nonzero().flatten()
    return signal[_STEP * int(loud[0]):_STEP * (int(loud[-1]) + 1)]


def peak_normalise(
    signal: Tensor,                   # shape: (*, n)
) -> Tensor:                          # shape: (*, n)
    """Scale to a largest magnitude of 1 along the last axis; digital silence stays silence."""
    peak = signal.abs().amax(-1, keepdim=True)
    return signal / torch.where(peak > 0, peak, 1.0)


def segments(
    signal: Tensor,                   # shape: (n,), trimmed
    num_frames: int,
    stft: STFT,
) -> Tensor:                          # shape: (S, (T - 1) hop)
    """Cut a signal into pieces of T frames, each scaled to a peak of 1 after the cut.

    There are S = (1 + floor(n / hop)) // T of them, next to each other from the first sample, none
    if the signal is short. That count, of the published code, allots T hops to a piece that spans
    T - 1, so up to S - 1 hops stay unused at the end besides the remainder.

    Raises:
        ShapeError: for more than one axis.
        ValueError: for fewer than two frames.
    """
    _check_mono(signal)
    if num_frames < 2:
        raise ValueError(mismatch("num_frames", given=num_frames, expected="at least 2"))
    count, length = stft.num_frames(len(signal)) // num_frames, stft.num_samples(num_frames)
    return peak_normalise(signal[:count * length].reshape(count, length))


def _check_mono(signal: Tensor) -> None:
    if signal.ndim != 1 or len(signal) == 0:
        raise ShapeError(mismatch("signal", given=f"shape {tuple(signal.shape)}",
                                  expected="(n,), one channel of at least one sample"))


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is not an audio file that can be read ({error})")


def _soundfile() -> ModuleType:
    """Import on first use: everything but files works without it."""
    try:
        import soundfile
    except ModuleNotFoundError:
        raise ModuleNotFoundError("package soundfile is not installed; audio files need the extra "
                                  "`audio`: pip install 'pyromodels[audio]'") from None
    return soundfile
