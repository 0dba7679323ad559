"""Boxes as the tracker sees them: corners outside, centres and sizes inside."""

import torch
from torch import Tensor

SMALLEST_SIDE = 1e-3
"""Floor of a box's sides where they scale a noise, in image sizes."""


def corners_to_centres(boxes: Tensor) -> Tensor:
    """[left, top, right, bottom] -> (centre x, centre y, width, height), shape (*, 4)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), -1)


def centres_to_corners(boxes: Tensor) -> Tensor:
    """(centre x, centre y, width, height) -> [left, top, right, bottom], shape (*, 4)."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), -1)


def corner_covariance(
    variance: Tensor,  # of (centre x, centre y, width, height), shape: (*, 4)
) -> Tensor:  # of [left, top, right, bottom], shape: (*, 4, 4)
    """Covariance of the corners of a box whose centre and size are independent."""
    mapping = centres_to_corners(torch.eye(4).to(variance)).mT
    return mapping @ torch.diag_embed(variance) @ mapping.mT


def box_size(
    boxes: Tensor,  # (centre x, centre y, width, height), shape: (*, 4)
) -> Tensor:  # shape: (*, 4)
    """(height, height, width, height): the unit in which walkers move and change size."""
    width, height = boxes[..., 2:].clamp_min(SMALLEST_SIDE).unbind(-1)
    return torch.stack((height, height, width, height), -1)


def own_size_variance(
    boxes: Tensor,  # [left, top, right, bottom], shape: (*, 4)
    ratio: tuple[float, float],
) -> Tensor:  # of (centre x, centre y, width, height), shape: (*, 4)
    """Phi from the box's own size: sides err by `ratio` of its width and of its height.


    Departure: the published rule takes the size from the first frame's box in the same slot, which
    makes the order of the detections matter (thesis 4.4.3).
    """
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp_min(SMALLEST_SIDE)
    side_variance = (sides * boxes.new_tensor(ratio)).square()
    return torch.cat((side_variance / 2, side_variance * 2), -1)


def start_boxes(
    detections: Tensor,  # [left, top, right, bottom], shape: (B, T, K, 4)
    mask: Tensor,  # shape: (B, T, K)
    num_sources: int | None = None,
) -> Tensor:  # (centre x, centre y, width, height), shape: (B, N, 4)
    """Where the sources start: the detections of the first frame that has N of them.

    Where a frame has more than N, the N largest are taken. Sources are numbered in the order of the
    slots.

    Raises:
        ValueError: where the sequences differ in their first frame and `num_sources` is None, or
            some sequence has no frame with N detections.
    """
    count = mask.sum(-1)  # (B, T)
    if num_sources is None:
        first = count[:, 0]
        if (first != first[0]).any():
            raise ValueError(
                f"num_sources: sequences start with {first.min().item()} to {first.max().item()} "
                "detections; say how many sources there are, or track the sequences in groups"
            )
        num_sources = int(first[0])
    if num_sources < 1:
        raise ValueError(
            "num_sources: no detection in the first frame; say how many sources there are"
        )
    enough = count >= num_sources
    if not enough.any(-1).all():
        sequence = int((~enough.any(-1)).nonzero()[0])
        raise ValueError(
            f"num_sources: given {num_sources}; expected at most {int(count[sequence].max())}, "
            f"the most detections in any frame of sequence {sequence}"
        )
    frame = enough.to(torch.uint8).argmax(-1)
    rows = torch.arange(len(detections), device=detections.device)
    boxes, present = corners_to_centres(detections[rows, frame]), mask[rows, frame]
    area = torch.where(present, boxes[..., 2] * boxes[..., 3], -1.0)
    slots = area.topk(num_sources, -1).indices.sort(-1).values
    return boxes.gather(1, slots[..., None].expand(-1, -1, 4))
