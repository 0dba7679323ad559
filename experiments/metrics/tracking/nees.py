"""Are the credible ellipses honest? Normalised estimation error squared, and coverage."""

from typing import NamedTuple

import torch
from scipy.stats import chi2
from torch import Tensor

from pyromodels.experiments.datasets.tracking.box_overlap import assign, pairwise_iou


class Consistency(NamedTuple):
    """How the claimed variance compares with the true error; box dimension D = 4.

    ``nees`` is the average of e' V^-1 e, which is 4 for an honest posterior, more for an
    over-confident one. ``low`` and ``high`` bound that average with 95 % probability if the
    posterior is honest. ``median`` is the median of the same numbers (3.36 if honest), which a
    few lost tracks do not move. ``coverage95`` is the fraction of true boxes inside their 95 %
    credible ellipse. ``num_pairs`` counts pairs of a true and an estimated box.
    """

    nees: float
    low: float
    high: float
    median: float
    coverage95: float
    num_pairs: int


def consistency(
    truth: Tensor,                    # shape: (S, T, N, 4)
    truth_mask: Tensor,               # shape: (S, T, N), bool
    boxes: Tensor,                    # shape: (S, T, M, 4), posterior means
    variance: Tensor,                 # shape: (S, T, M, 4) diagonal, or (S, T, M, 4, 4)
    *,
    iou_threshold: float = 0.5,
    frames_independent: bool = False,
) -> Consistency:
    r"""Return the average NEES with its interval, and the coverage of the credible ellipses.

    .. math:: \epsilon = (s - m)^\top V^{-1} (s - m) \sim \chi^2_4 \quad \text{if honest}

    **Pairs.** Each hypothesis is paired for a whole sequence with one object, by the matching that
    IDF1 uses (most frames with IoU at or above the threshold; ties go to the larger overlap).
    Every frame in which the object is present then counts, also those in which the boxes no longer
    overlap: to keep matched frames only would throw away just the errors that an over-confident
    posterior does not expect. So one lost track can dominate the average; ``median`` and
    ``coverage95`` say whether that is what happened.

    **Interval.** The errors of a track persist from frame to frame. A track therefore counts as
    one independent draw: the average lies between the quantiles of chi^2_{4 R} / R with R tracks.
    That is exact for errors constant along a track and too wide for faster ones, never too
    narrow on that account. Windows that overlap share tracks, which no interval here allows for.
    ``frames_independent`` gives the textbook interval of independent frames.

    A box with a NaN or infinite coordinate has no error to average: it counts as not covered and
    leaves ``nees`` alone.

    Reference:
        Y. Bar-Shalom, X. R. Li, T. Kirubarajan, "Estimation with applications to tracking and
        navigation", 2001, section 5.4.2.

    Raises:
        ValueError: for a wrong shape, a variance that is not finite and positive (definite) for a
            finite box, or no pair at all.
    """
    diagonal = variance.shape == boxes.shape
    if not diagonal and variance.shape != (*boxes.shape, 4):
        raise ValueError(f"variance has shape {tuple(variance.shape)}; expected "
                         f"{tuple(boxes.shape)} (diagonal) or {(*boxes.shape, 4)} (full)")
    true, present, mean, var = _pair(truth, truth_mask, boxes, variance, iou_threshold)
    usable = present & torch.isfinite(mean).all(-1)
    num_pairs = int(present.sum())
    if int(usable.sum()) == 0:
        raise ValueError(f"boxes and truth share no frame with a finite box ({num_pairs} true "
                         "boxes are present); NEES needs at least one")
    error = (true - mean)[usable]                                          # (pairs, 4)
    nees = _squared_length(error, var[usable], diagonal)
    num_tracks = int(usable.any(1).sum())
    count = nees.numel() if frames_independent else num_tracks
    low, high = (chi2.ppf(p, 4 * count) / count for p in (0.025, 0.975))
    inside = (nees <= chi2.ppf(0.95, 4)).sum().item()
    return Consistency(
        nees.mean().item(), float(low), float(high), nees.median().item(), inside / num_pairs,
        num_pairs,
    )


def _pair(
    truth: Tensor, truth_mask: Tensor, boxes: Tensor, variance: Tensor, iou_threshold: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gather the paired rows; truth (R, T, 4), presence (R, T), boxes (R, T, 4), variance."""
    iou = pairwise_iou(truth, boxes) * truth_mask[..., None]               # (S, T, N, M)
    # The sum of overlaps is below T + 1, so it only ever breaks ties of the frame count.
    agreement = (iou >= iou_threshold).double().sum(1) + iou.sum(1) / (iou.shape[1] + 1)
    s, n, m = assign(agreement).nonzero(as_tuple=True)
    return (truth[s, :, n].double(), truth_mask[s, :, n], boxes[s, :, m].double(),
            variance[s, :, m].double())


def _squared_length(
    error: Tensor,                    # shape: (P, 4)
    variance: Tensor,                 # shape: (P, 4) or (P, 4, 4)
    diagonal: bool,
) -> Tensor:                          # shape: (P,)
    advice = "expected finite, positive variances wherever the box is finite"
    if diagonal:
        bad = ~(torch.isfinite(variance) & (variance > 0)).all(-1)
        if bad.any():
            raise ValueError(f"variance has {int(bad.sum())} entries such as "
                             f"{variance[bad][0].tolist()}; {advice}")
        return (error**2 / variance).sum(-1)
    finite = torch.isfinite(variance).all(-1).all(-1)
    if not finite.all():
        raise ValueError(f"variance has {int((~finite).sum())} matrices that are not finite; "
                         f"{advice}")
    factor, info = torch.linalg.cholesky_ex(variance)
    if (info != 0).any():
        raise ValueError(f"variance has {int((info != 0).sum())} matrices that are not positive "
                         f"definite; {advice}")
    whitened = torch.linalg.solve_triangular(factor, error[..., None], upper=False)
    return whitened.square().sum((-1, -2))
