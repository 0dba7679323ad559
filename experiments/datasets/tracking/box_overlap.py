"""Geometry of axis-aligned boxes [left, top, right, bottom], y down, and their matching."""

import math

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def is_valid_box(
    boxes: Tensor,                    # shape: (*, 4)
) -> Tensor:                          # bool, shape: (*)
    """Tell which boxes are finite and have positive width and height."""
    positive = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
    return torch.isfinite(boxes).all(-1) & positive


def box_size(
    boxes: Tensor,                    # shape: (*, 4)
    minimum: float = 1e-3,
) -> Tensor:                          # shape: (*, 4), [width, height, width, height]
    """Return the length that scales the error of each side, at least ``minimum``."""
    size = (boxes[..., 2:] - boxes[..., :2]).clamp_min(minimum)
    return torch.cat([size, size], -1)


def pairwise_iou(
    first: Tensor,                    # shape: (*, A, 4)
    second: Tensor,                   # shape: (*, B, 4)
) -> Tensor:                          # float64, shape: (*, A, B), in [0, 1]
    """Return the intersection over union of every pair of boxes.

    A box that is not finite or has no area overlaps nothing: its row or column is zero.
    """
    valid = is_valid_box(first)[..., :, None] & is_valid_box(second)[..., None, :]
    # Clean before the arithmetic, so that no NaN can travel.
    a = torch.nan_to_num(first.double(), nan=0.0, posinf=0.0, neginf=0.0)[..., :, None, :]
    b = torch.nan_to_num(second.double(), nan=0.0, posinf=0.0, neginf=0.0)[..., None, :, :]
    overlap = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    intersection = overlap.clamp_min(0).prod(-1)
    area = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    union = (area - intersection).clamp_min(torch.finfo(torch.float64).tiny)
    return intersection / union * valid


def assign(
    gain: Tensor,                     # shape: (*, A, B), finite
) -> Tensor:                          # bool, shape: (*, A, B)
    """Return the one-to-one matching of largest total gain for every matrix of a batch.

    Every row or every column, whichever are fewer, is matched: take out afterwards the pairs
    that a gate forbids.
    """
    num_matrices = math.prod(gain.shape[:-2])      # -1 would not do for empty matrices
    flat = gain.detach().cpu().double().numpy().reshape(num_matrices, *gain.shape[-2:])
    matched = np.zeros(flat.shape, dtype=bool)
    for matrix, out in zip(flat, matched, strict=True):
        rows, columns = linear_sum_assignment(matrix, maximize=True)
        out[rows, columns] = True
    return torch.from_numpy(matched).reshape(gain.shape).to(gain.device)
