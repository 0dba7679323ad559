"""Figures that predict what a listener says: ESTOI and PESQ, one utterance at 16 kHz at a time."""

import math
import warnings

import numpy as np
from torch import Tensor

from pyromodels.errors import ShapeError, mismatch
from pyromodels.experiments.datasets.speech.audio import SAMPLE_RATE
from pyromodels.experiments.metrics.audio.distortion import checked_pair


def estoi(
    reference: Tensor,                # shape: (n,), 16 kHz
    estimate: Tensor,                 # shape: (n,), 16 kHz
) -> float:
    """Return the extended short-time objective intelligibility, at most 1, by the package pystoi.

    Frames 40 dB below the loudest of the reference are left out; 0.4 s must remain.

    Reference:
        J. Jensen, C. H. Taal, "An algorithm for predicting the intelligibility of speech masked by
        modulated noise maskers", 2016.

    Raises:
        ModuleNotFoundError: if the extra ``audio`` is not installed.
        ShapeError: for different shapes, or more than one axis.
        ValueError: for silence, a NaN, or less than 0.4 s of speech.
    """
    try:
        from pystoi import stoi
    except ModuleNotFoundError:
        raise ModuleNotFoundError("package pystoi is not installed; ESTOI needs the extra `audio`: "
                                  "pip install 'pyromodels[audio]'") from None
    pair = _one_utterance(reference, estimate)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)      # instead of which it would return 1e-5
        try:
            return float(stoi(*pair, SAMPLE_RATE, extended=True))
        except RuntimeWarning as error:
            raise ValueError(_refusal("ESTOI", pair, error)) from None


def pesq_figures(
    reference: Tensor,                # shape: (n,), 16 kHz
    estimate: Tensor,                 # shape: (n,), 16 kHz
) -> dict[str, float]:
    """Return ``pesq_wb``, ``pesq_nb`` and ``pesq_raw``, by the package pesq.

    Wide band is the MOS-LQO of P.862.2; narrow band that of P.862.1; raw is the latter on the scale
    of P.862, see `raw_pesq`.

    Raises:
        ModuleNotFoundError: if the extra ``pesq`` is not installed.
        ShapeError: for different shapes, or more than one axis.
        ValueError: for silence, a NaN, less than 0.25 s, or if PESQ finds no speech.
    """
    try:
        from pesq import PesqError, pesq
    except ModuleNotFoundError:
        raise ModuleNotFoundError("package pesq is not installed; PESQ needs the extra `pesq`: "
                                  "pip install 'pyromodels[pesq]'") from None
    pair = _one_utterance(reference, estimate)
    try:
        wide, narrow = (float(pesq(SAMPLE_RATE, *pair, band)) for band in ("wb", "nb"))
    except PesqError as error:
        raise ValueError(_refusal("PESQ", pair, error)) from None
    return {"pesq_wb": wide, "pesq_nb": narrow, "pesq_raw": raw_pesq(narrow)}


def raw_pesq(narrow_band: float) -> float:
    r"""Map a P.862.1 score back to the scale of P.862, -0.5 to 4.5.

    .. math:: \text{nb} = 0.999 + \frac{4}{1 + \exp(-1.4945\, \text{raw} + 4.6607)}

    Reference:
        ITU-T recommendation P.862.1, 2003, eq. 1.

    Raises:
        ValueError: outside (0.999, 4.999), the range of the map.

    Example:
        >>> round(raw_pesq(3.68), 1)
        3.6
    """
    if not 0.999 < narrow_band < 4.999:
        raise ValueError(mismatch("narrow_band", given=narrow_band,
                                  expected="a score in (0.999, 4.999)"))
    return (4.6607 - math.log(4 / (narrow_band - 0.999) - 1)) / 1.4945


def _one_utterance(reference: Tensor, estimate: Tensor) -> list[np.ndarray]:
    if reference.ndim != 1:
        raise ShapeError(mismatch("reference", given=f"shape {tuple(reference.shape)}",
                                  expected="(n,), one utterance"))
    return [signal.cpu().numpy() for signal in checked_pair(reference, estimate)]


def _refusal(figure: str, pair: list[np.ndarray], error: Exception) -> str:
    said = error.args[0].decode() if isinstance(error.args[0], bytes) else error
    return (f"{figure} cannot judge these {len(pair[0]) / SAMPLE_RATE:.2f} s ({said}); is it "
            "speech at 16 kHz?")
