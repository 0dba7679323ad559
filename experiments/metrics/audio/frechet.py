"""Are generated utterances distributed like recorded ones? A Fréchet distance, features of ours."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pyromodels.audio.stft import STFT
from pyromodels.errors import ShapeError, mismatch
from pyromodels.experiments.datasets.speech.audio import SAMPLE_RATE

NUM_BANDS = 20
_LOWEST, _HIGHEST = 60.0, 7600.0      # Hz
_RANGE_DB = 60.0                      # below the loudest band; bounds what silence weighs


def frechet_log_mel(reference: Sequence[Tensor], generated: Sequence[Tensor]) -> float:
    """Return the Fréchet distance between two sets of utterances, squared decibels.

    Features are `log_mel_features`, 60 numbers an utterance from a plain filter bank.

    Departure: the thesis (section 7.5.4) quotes FDSD, whose features are those of a speech
    recogniser trained on thousands of hours. This is another number on another scale: compare
    models by it, never with Table 7.3.

    The estimate is biased upwards, by about (1/N + 1/M) times the features' total variance and
    more: compare sets of one size, and quote two halves of the recordings as the least to expect.

    Args:
        reference: recorded signals at 16 kHz, each of shape (n,); lengths may differ.
        generated: signals of a model.

    Raises:
        ValueError: for fewer than two utterances, or silence.
    """
    sets = [torch.stack([log_mel_features(signal) for signal in signals])
            for signals in (reference, generated) if len(signals)]
    if len(sets) < 2:
        raise ValueError(mismatch("reference, generated", given=f"{len(reference)}, "
                                  f"{len(generated)} utterances", expected="two or more of each"))
    return frechet_distance(*sets)


def frechet_distance(
    a: Tensor,                        # shape: (N, D)
    b: Tensor,                        # shape: (M, D)
) -> float:
    r"""Return the Fréchet (2-Wasserstein) distance, squared, of two Gaussians fitted to features.

    .. math:: \|\mu_a - \mu_b\|^2 + \operatorname{tr}\Sigma_a + \operatorname{tr}\Sigma_b
              - 2 \operatorname{tr} (\Sigma_a \Sigma_b)^{1/2}

    With Sigma = R' R from a QR of the centred features, the last trace is the sum of the singular
    values of R_a R_b'. No square root of a matrix is needed, nor full rank.

    Reference:
        D. C. Dowson, B. V. Landau, "The Frechet distance between multivariate normal
        distributions", 1982, eq. 16.

    Raises:
        ShapeError: for another number of axes, or different D.
        ValueError: for fewer than two vectors in a set, or a feature that is not finite.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ShapeError(mismatch("a, b", given=f"shapes {tuple(a.shape)}, {tuple(b.shape)}",
                                  expected="(N, D), (M, D)"))
    if min(len(a), len(b)) < 2:
        raise ValueError(mismatch("a, b", given=f"{len(a)}, {len(b)} vectors",
                                  expected="two or more of each, for a covariance"))
    a, b = a.double(), b.double()
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise ValueError(mismatch("a, b", given="a NaN or infinite feature", expected="all finite"))
    roots = [torch.linalg.qr((s - s.mean(0)) / math.sqrt(len(s) - 1)).R for s in (a, b)]
    shared = torch.linalg.svdvals(roots[0] @ roots[1].mT).sum()
    spread = sum(root.square().sum() for root in roots)
    return ((a.mean(0) - b.mean(0)).square().sum() + spread - 2 * shared).clamp_min(0).item()


def log_mel_features(
    signal: Tensor,                   # shape: (n,), 16 kHz
) -> Tensor:                          # decibels, float64, shape: (60,)
    """Describe one utterance by its log-mel spectrogram, whatever its level and length.

    The power of `STFT(1024, 256)` goes through 20 triangles, equidistant from 60 to 7600 Hz in mel,
    2595 log10(1 + f / 700); decibels relative to the loudest band of the utterance, at least -60.
    The features are, band by band, their mean over time, their standard deviation, and the standard
    deviation of their change from one frame to the next.

    Raises:
        ShapeError: for more than one axis, or fewer than three frames.
        ValueError: for digital silence or a NaN.
    """
    stft = STFT()
    if signal.ndim != 1 or stft.num_frames(len(signal)) < 3:
        raise ShapeError(mismatch("signal", given=f"shape {tuple(signal.shape)}",
                                  expected=f"(n,) with n >= {stft.num_samples(3)} samples"))
    bands = stft.analyse(signal.double()).abs().square() @ _mel_triangles(stft)  # (T, 20)
    peak = bands.max()
    if not 0 < peak < math.inf:
        raise ValueError(mismatch("signal", given=f"a loudest band of power {peak.item()}",
                                  expected="sound, all samples finite"))
    level = 10 * torch.log10((bands / peak).clamp_min(10 ** (-_RANGE_DB / 10)))
    return torch.cat([level.mean(0), level.std(0), level.diff(dim=0).std(0)])


def _mel_triangles(stft: STFT) -> Tensor:                                  # shape: (F, 20)
    low, high = (2595 * math.log10(1 + f / 700) for f in (_LOWEST, _HIGHEST))
    mel = torch.linspace(low, high, NUM_BANDS + 2, dtype=torch.float64)
    corner = 700 * (10 ** (mel / 2595) - 1)                                # Hz, (22,)
    bins = torch.arange(stft.num_bins, dtype=torch.float64) * SAMPLE_RATE / stft.window
    rise = (bins[:, None] - corner[:-2]) / (corner[1:-1] - corner[:-2])
    fall = (corner[2:] - bins[:, None]) / (corner[2:] - corner[1:-1])
    return torch.minimum(rise, fall).clamp_min(0)
