"""Is a classifier right, does it know when, and does it notice what belongs to no class?

``logits`` are log p(c given x) in nats plus any constant of the sequence, so that log p(x given c)
plus log p(c) serves as it is. An impossible class has -inf.
"""

from typing import NamedTuple

import torch
from scipy.stats import mannwhitneyu
from torch import Tensor

from pyromodels.errors import ShapeError, mismatch


class Reliability(NamedTuple):
    """What B bins of sequences of like confidence claim and reach; empty bins are left out."""

    confidence: Tensor                # mean of max_c p(c given x), per cent, float64, shape: (B,)
    accuracy: Tensor                  # per cent, float64, shape: (B,)
    count: Tensor                     # sequences, int64, shape: (B,)


def classification_metrics(
    logits: Tensor,                   # shape: (n, C)
    labels: Tensor,                   # int64, shape: (n,)
) -> dict[str, float]:
    """Return all figures of a posterior over classes.

    =====================  ===================  ===========  ========
    key                    what it is           best         unit
    =====================  ===================  ===========  ========
    ``accuracy``           `accuracy`           100          per cent
    ``cross_entropy``      `cross_entropy`      0            nats
    ``brier``              `brier_score`        0, worst 2   -
    ``calibration_error``  `calibration_error`  0            per cent
    =====================  ===================  ===========  ========

    Raises:
        ShapeError: for shapes that do not fit, or no sequence.
        ValueError: for labels that are not int64 or outside 0..C-1, or logits without a posterior.

    Example:
        >>> figures = classification_metrics(torch.zeros(4, 2), torch.tensor([0, 0, 1, 0]))
        >>> {name: round(figure, 4) for name, figure in figures.items()}
        {'accuracy': 75.0, 'cross_entropy': 0.6931, 'brier': 0.5, 'calibration_error': 25.0}
    """
    log_posterior = _log_posterior(logits, labels)
    return {
        "accuracy": accuracy(log_posterior.argmax(-1), labels),
        "cross_entropy": cross_entropy(log_posterior, labels),
        "brier": brier_score(log_posterior, labels),
        "calibration_error": calibration_error(log_posterior, labels),
    }


def accuracy(
    labels_said: Tensor,              # int64, shape: (n,)
    labels: Tensor,                   # int64, shape: (n,)
) -> float:
    """Return the per cent of sequences whose label is the one said.

    Raises:
        ShapeError: for shapes that do not fit, or no sequence.
        ValueError: for labels that are not int64.
    """
    _check_labels("labels", labels)
    _check_labels("labels_said", labels_said, num_sequences=len(labels))
    return 100 * (labels_said == labels).double().mean().item()


def cross_entropy(
    logits: Tensor,                   # shape: (n, C)
    labels: Tensor,                   # int64, shape: (n,)
) -> float:
    """Return the mean of -log p(true class given x), in nats a sequence.

    It is infinite once a true class was called impossible.

    Raises:
        ShapeError, ValueError: as `classification_metrics`.
    """
    return -_log_posterior(logits, labels).gather(-1, labels.unsqueeze(-1)).mean().item()


def brier_score(
    logits: Tensor,                   # shape: (n, C)
    labels: Tensor,                   # int64, shape: (n,)
) -> float:
    r"""Return the mean over sequences of :math:`\sum_c (p(c \mid x) - [c = \text{true}])^2`.

    It lies between 0 and 2; two classes count both, so it is twice the score of one of them.

    Reference:
        G. W. Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather
        Review 78(1), 1950, equation 2.

    Raises:
        ShapeError, ValueError: as `classification_metrics`.
    """
    posterior = _log_posterior(logits, labels).exp()
    truth = torch.zeros_like(posterior).scatter(-1, labels.unsqueeze(-1), 1.0)
    return (posterior - truth).square().sum(-1).mean().item()


def calibration_error(
    logits: Tensor,                   # shape: (n, C)
    labels: Tensor,                   # int64, shape: (n,)
    *,
    num_bins: int = 10,
) -> float:
    """Return the mean distance of accuracy and confidence over the bins, in per cent.

    Each bin of `reliability` weighs what it holds. An honest posterior has an error above 0 too,
    for its accuracy in a bin is that of a finite sample.

    Reference:
        C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural networks",
        ICML 2017, equation 3.

    Raises:
        ShapeError, ValueError: as `reliability`.
    """
    bins = reliability(logits, labels, num_bins=num_bins)
    distance = (bins.accuracy - bins.confidence).abs()
    return ((bins.count * distance).sum() / bins.count.sum()).item()


def reliability(
    logits: Tensor,                   # shape: (n, C)
    labels: Tensor,                   # int64, shape: (n,)
    *,
    num_bins: int = 10,
) -> Reliability:
    """Return confidence and accuracy in bins of equal width of the highest probability.

    A bin holds its upper edge. Of equally probable classes the first is said.

    Raises:
        ShapeError: as `classification_metrics`.
        ValueError: likewise, and for less than one bin.
    """
    if num_bins < 1:
        raise ValueError(mismatch("num_bins", given=num_bins, expected="at least 1"))
    log_confidence, said = _log_posterior(logits, labels).max(-1)
    confidence, right = log_confidence.exp(), (said == labels).double()
    inner_edges = torch.arange(1, num_bins, dtype=torch.float64, device=logits.device) / num_bins
    place = torch.bucketize(confidence, inner_edges)                       # (n,)
    count = place.bincount(minlength=num_bins)
    held = count > 0
    mean_confidence, mean_right = (
        100 * place.bincount(part, minlength=num_bins)[held] / count[held]
        for part in (confidence, right)
    )
    return Reliability(mean_confidence, mean_right, count[held])


def confusion(
    labels_said: Tensor,              # int64, shape: (n,)
    labels: Tensor,                   # int64, shape: (n,)
    *,
    num_classes: int,                 # C
) -> Tensor:                          # int64, shape: (C, C)
    """Return how many sequences of each true class, the row, were said to be of which, the column.

    Raises:
        ShapeError: for shapes that do not fit, or no sequence.
        ValueError: for labels that are not int64 or outside 0..C-1.
    """
    _check_labels("labels", labels, num_classes=num_classes)
    _check_labels("labels_said", labels_said, num_sequences=len(labels), num_classes=num_classes)
    pair = labels * num_classes + labels_said
    return pair.bincount(minlength=num_classes**2).view(num_classes, num_classes)


def separation(
    insiders: Tensor,                 # shape: (n,)
    outsiders: Tensor,                # shape: (m,)
) -> float:
    """Return the area under the ROC curve of a score that should be higher for outsiders.

    It is the probability that an outsider scores above an insider, ties counted half: 1 where the
    score tells all of them apart, 0.5 by chance. The score may be infinite.

    Reference:
        J. A. Hanley, B. J. McNeil, "The meaning and use of the area under a receiver operating
        characteristic (ROC) curve", Radiology 143(1), 1982.

    Raises:
        ShapeError: for more than one axis, or no score.
        ValueError: for a NaN.
    """
    for name, score in (("insiders", insiders), ("outsiders", outsiders)):
        if score.dim() != 1 or not len(score):
            raise ShapeError(mismatch(name, given=f"shape {tuple(score.shape)}",
                                      expected="one axis, of at least one score"))
        if score.isnan().any():
            raise ValueError(f"{name}: score {int(score.isnan().nonzero()[0])} is NaN")
    # the statistic counts the pairs in which the outsider is above; "asymptotic" spares the
    # exact p-value, which nobody reads
    pairs = mannwhitneyu(outsiders.cpu(), insiders.cpu(), method="asymptotic").statistic
    return float(pairs) / (len(insiders) * len(outsiders))


def _log_posterior(
    logits: Tensor,                   # shape: (n, C)
    labels: Tensor,                   # int64, shape: (n,)
) -> Tensor:                          # float64, shape: (n, C)
    """Return log p(c given x), once both arguments are in order."""
    if logits.dim() != 2 or 0 in logits.shape:
        raise ShapeError(mismatch("logits", given=f"shape {tuple(logits.shape)}",
                                  expected="(n, C) with n and C of at least 1"))
    _check_labels("labels", labels, num_sequences=len(logits), num_classes=logits.shape[1])
    log_posterior = logits.double().log_softmax(-1)
    bad = log_posterior.isnan().any(-1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(mismatch(f"logits of sequence {row}", given=logits[row].tolist(),
                                  expected="no NaN, no +inf, and one class that is possible"))
    return log_posterior


def _check_labels(
    name: str,
    labels: Tensor,
    *,
    num_sequences: int | None = None,
    num_classes: int | None = None,
) -> None:
    """Check what is known: one axis of so many, int64, and 0..C-1."""
    if labels.dim() != 1 or not len(labels) or num_sequences not in (None, len(labels)):
        expected = "(n,) with n of at least 1" if num_sequences is None else (num_sequences,)
        raise ShapeError(mismatch(name, given=f"shape {tuple(labels.shape)}", expected=expected))
    if labels.dtype != torch.int64:
        raise ValueError(mismatch(name, given=labels.dtype, expected=torch.int64))
    if num_classes is not None and not (0 <= labels.min() and labels.max() < num_classes):
        raise ValueError(mismatch(name, given=f"{labels.min()} to {labels.max()}",
                                  expected=f"0 to {num_classes - 1}"))
