"""GOSPA, one number per frame for localisation error, missed objects and false ones."""

import torch
from torch import Tensor

from pyromodels.experiments.datasets.tracking.box_overlap import assign, is_valid_box, pairwise_iou


def gospa(
    truth: Tensor,                    # shape: (*, N, 4)
    truth_mask: Tensor,               # shape: (*, N), bool
    boxes: Tensor,                    # shape: (*, M, 4)
    *,
    cutoff: float = 0.5,
) -> Tensor:                          # float64, shape: (*)
    r"""Return the generalised optimal sub-pattern assignment metric of every frame.

    .. math:: d = \Big[ \min_\gamma \sum_{(i,j) \in \gamma} d(x_i, y_j)^2
              + \tfrac{c^2}{2} (|X| + |Y| - 2|\gamma|) \Big]^{1/2}

    with order p = 2 and alpha = 2. The base distance is d = 1 - IoU (no unit, 0 to 1: a box is
    judged relative to its own size, wherever it stands in depth), and the cutoff c is in the same
    unit; 0.5 is the pair that counts as a match at IoU >= 0.5. One missed or one false box costs
    c^2 / 2, a lost track both. A frame with N objects lies between 0 and c sqrt(N).

    A hypothesis that is not finite or has no area is a false box.

    Reference:
        A. S. Rahmathullah, A. F. Garcia-Fernandez, L. Svensson, "Generalized optimal sub-pattern
        assignment metric", FUSION 2017, definition 1 and proposition 1.

    Raises:
        ValueError: if ``cutoff`` is not in (0, 1].
    """
    if not 0 < cutoff <= 1:
        raise ValueError(f"cutoff is {cutoff}; expected a distance 1 - IoU in (0, 1]")
    distance = 1 - pairwise_iou(truth, boxes)                              # (*, N, M)
    real = truth_mask[..., :, None] & is_valid_box(boxes)[..., None, :]
    # To match a pair instead of leaving both alone saves c^2 - d^2; never a loss, so that the
    # best complete assignment is also the best partial one.
    saving = (cutoff**2 - distance**2).clamp_min(0) * real
    matched = (saving * assign(saving)).sum((-1, -2))
    alone = cutoff**2 / 2 * (truth_mask.sum(-1) + boxes.shape[-2])
    return (alone - matched).clamp_min(0).sqrt().to(torch.float64)
