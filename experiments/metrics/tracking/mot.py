"""The table row of a tracker: CLEAR, identity and HOTA by ``motrics``, GOSPA and NEES by us."""

from collections.abc import Sequence

import motrics
import numpy as np
import torch
from torch import Tensor

from pyromodels.experiments.datasets.tracking.box_overlap import pairwise_iou
from pyromodels.experiments.metrics.tracking.gospa import gospa
from pyromodels.experiments.metrics.tracking.nees import consistency

_MOSTLY_TRACKED, _MOSTLY_LOST = 0.8, 0.2


def tracking_metrics(
    truth: Tensor,                    # shape: (S, T, N, 4)
    truth_mask: Tensor,               # shape: (S, T, N), bool
    boxes: Tensor,                    # shape: (S, T, M, 4); hypothesis m keeps its identity
    *,
    iou_threshold: float = 0.5,
    variance: Tensor | None = None,   # shape: (S, T, M, 4) or (S, T, M, 4, 4)
) -> dict[str, float]:
    """Return every figure of one tracker on one data set, counts summed over its sequences.

    ``mota``, ``motp`` (mean IoU of matched pairs), ``idf1`` and ``hota`` are percentages;
    ``ids``, ``fp``, ``fn`` count boxes and ``*_rate`` give them in percent of the true boxes;
    ``mt`` and ``ml`` count true tracks matched in at least 80 %, and in less than 20 %, of their
    frames (the convention of py-motmetrics; TrackEval asks for more than 80 %); ``gospa`` is the
    mean over frames (order 2, 1 - IoU, cutoff 0.5). Matching is TrackEval's, as ``motrics`` has it:
    py-motmetrics remembers a pair through a gap, so after a swap it may count fewer switches and
    other overlaps (TUD-Stadtmitte, seven-state Kalman: 96.2 here, 95.8 there; equal elsewhere
    unless tracks swap). With ``variance`` also ``nees``, its 95 %
    interval ``nees_low`` to ``nees_high``, ``nees_median`` and ``coverage95`` (in percent); see
    ``consistency``.

    Sequences are separate worlds: identities never cross them. A box that is not finite or has
    no area is an unmatched hypothesis, so it is a false positive and its object a miss.

    Raises:
        ValueError: for shapes that do not fit, or a truth without a single box.
    """
    _check_shapes(truth, truth_mask, boxes, iou_threshold)
    iou = pairwise_iou(truth, boxes).cpu().numpy()                         # (S, T, N, M)
    present = truth_mask.cpu().numpy()
    clear, identity, hota = [], [], []
    for overlap, here in zip(iou, present, strict=True):
        arguments = _motrics_arguments(overlap, here)
        clear.append(motrics.compute_clear_from_similarity(*arguments, iou_threshold))
        identity.append(motrics.compute_identity_from_similarity(*arguments, iou_threshold))
        hota.append(motrics.compute_hota_from_similarity(*arguments))
    figures = {**_clear(clear), **_identity(identity), "hota": 100 * _hota(hota)}
    figures["gospa"] = gospa(truth, truth_mask, boxes).mean().item()
    if variance is not None:
        honest = consistency(truth, truth_mask, boxes, variance, iou_threshold=iou_threshold)
        figures |= {
            "nees": honest.nees, "nees_low": honest.low, "nees_high": honest.high,
            "nees_median": honest.median, "coverage95": 100 * honest.coverage95,
        }
    return figures


def _check_shapes(truth: Tensor, truth_mask: Tensor, boxes: Tensor, iou_threshold: float) -> None:
    if truth.ndim != 4 or truth.shape[-1] != 4:
        raise ValueError(f"truth has shape {tuple(truth.shape)}; expected (S, T, N, 4)")
    if boxes.ndim != 4 or boxes.shape[-1] != 4 or boxes.shape[:2] != truth.shape[:2]:
        raise ValueError(f"boxes has shape {tuple(boxes.shape)}; expected "
                         f"({truth.shape[0]}, {truth.shape[1]}, M, 4) to agree with truth")
    if truth_mask.shape != truth.shape[:-1] or truth_mask.dtype != torch.bool:
        raise ValueError(f"truth_mask has shape {tuple(truth_mask.shape)} and dtype "
                         f"{truth_mask.dtype}; expected bool {tuple(truth.shape[:-1])}")
    if not truth_mask.any():
        raise ValueError("truth_mask is False everywhere; metrics need at least one true box")
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold is {iou_threshold}; expected a number in (0, 1]")


def _motrics_arguments(
    overlap: np.ndarray,              # shape: (T, N, M)
    here: np.ndarray,                 # shape: (T, N), bool
) -> tuple[list[list[int]], list[list[int]], list[list[list[float]]]]:
    """Return true ids, hypothesis ids and similarities, frame by frame."""
    hypotheses = list(range(overlap.shape[-1]))
    ids = [np.flatnonzero(row).tolist() for row in here]
    return ids, [hypotheses] * len(ids), [o[h].tolist() for o, h in zip(overlap, here, strict=True)]


def _clear(parts: Sequence[motrics.ClearMetrics]) -> dict[str, float]:
    def total(field: str) -> int:
        return sum(getattr(part, field) for part in parts)

    matches, num_gt = total("num_matches"), total("num_gt")
    fp, fn, ids = total("num_false_positives"), total("num_misses"), total("num_switches")
    overlap = sum(part.motp * part.num_matches for part in parts if part.num_matches)
    ratios = np.concatenate([part.track_ratios for part in parts])
    return {
        "mota": 100 * (1 - (fp + fn + ids) / num_gt),
        "motp": 100 * overlap / max(matches, 1),
        "ids": float(ids), "fp": float(fp), "fn": float(fn),
        "mt": float((ratios >= _MOSTLY_TRACKED).sum()), "ml": float((ratios < _MOSTLY_LOST).sum()),
        "ids_rate": 100 * ids / num_gt, "fp_rate": 100 * fp / num_gt, "fn_rate": 100 * fn / num_gt,
    }


def _identity(parts: Sequence[motrics.IdentityMetrics]) -> dict[str, float]:
    idtp = sum(part.idtp for part in parts)
    wrong = sum(part.idfp + part.idfn for part in parts)
    return {"idf1": 100 * idtp / (idtp + wrong / 2)}


def _hota(parts: Sequence[motrics.HotaMetrics]) -> float:
    """Combine sequences as TrackEval does: counts add, association is weighted by them."""

    def stack(field: str) -> np.ndarray:                                   # (S, alphas)
        return np.array([getattr(part, field) for part in parts])

    tp, fn, fp = stack("hota_tp_alphas"), stack("hota_fn_alphas"), stack("hota_fp_alphas")
    matched = tp.sum(0)
    detection = matched / np.maximum(matched + fn.sum(0) + fp.sum(0), 1)
    association = (np.nan_to_num(stack("assa_alphas")) * tp).sum(0) / np.maximum(matched, 1)
    return float(np.sqrt(detection * association).mean())
