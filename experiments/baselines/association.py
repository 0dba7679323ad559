"""One-to-one association of tracks with the detections of a frame."""

from typing import Literal

import torch
from torch import Tensor

from pyromodels.experiments.datasets.tracking.box_overlap import assign, pairwise_iou

Rule = Literal["iou", "mahalanobis"]

_FARTHEST = 1e6        # beyond it all squared distances are equally hopeless
_ABSENT = -1e8         # gain of a padded slot: worse than any detection


def match_by_iou(
    boxes: Tensor,                    # shape: (S, N, 4), predicted
    detections: Tensor,               # shape: (S, K, 4)
    mask: Tensor,                     # shape: (S, K), bool
    gate: float | None,
) -> Tensor:                          # bool, shape: (S, N, K)
    """Match for the largest total IoU, then drop pairs with no overlap or an IoU below ``gate``.

    With ``gate=None``, as many pairs are kept as there are tracks or detections, overlap or none. A
    pair that does not overlap goes to the nearer centre, which no gain of overlap pays for.
    """
    iou = pairwise_iou(boxes, detections)
    centre = (boxes[..., :2] + boxes[..., 2:])[:, :, None] / 2 - (
        detections[..., :2] + detections[..., 2:]
    )[:, None] / 2
    gain = iou - 1e-6 * centre.square().sum(-1).clamp_max(1e3)
    pairs = assign(gain.masked_fill(~mask[:, None], _ABSENT)) & mask[:, None]
    return pairs if gate is None else pairs & (iou > 0) & (iou >= gate)


def match_by_distance(
    distance: Tensor,                 # shape: (S, N, K), squared Mahalanobis
    mask: Tensor,                     # shape: (S, K), bool
    gate: float | None,
) -> Tensor:                          # bool, shape: (S, N, K)
    """Match for the smallest total squared distance; no pair beyond ``gate`` is kept.

    A gated pair costs as much as any other hopeless one, so that it cannot pull the rest along.
    """
    farthest = _FARTHEST if gate is None else gate
    cost = torch.nan_to_num(distance, nan=farthest).clamp_max(farthest)
    pairs = assign((-cost).masked_fill(~mask[:, None], _ABSENT)) & mask[:, None]
    return pairs if gate is None else pairs & (distance <= gate)
