"""Hold the last box: the predictor that a motion model has to beat."""

import torch

from pyromodels.experiments.baselines.association import match_by_iou
from pyromodels.experiments.baselines.tracks import Tracks, starting_slots
from pyromodels.experiments.datasets.tracking.sequences import TrackingData


def hold_last_box(
    data: TrackingData, *, num_sources: int | None = None, oracle: bool = False
) -> Tracks:
    """Repeat each track's last detection until it gets the next one.

    Args:
        data: the sequences.
        num_sources: tracks N; by default the number of detections in frame 1.
        oracle: take slot n of every frame as the detection of track n. That is knowledge, not
            tracking: it needs data whose slots are aligned, so never shuffled ones. Without it,
            detections go to the held boxes by total IoU, one to one, without a gate.

    Returns:
        Tracks whose variance is NaN: holding a box claims no accuracy.
    """
    slots = starting_slots(data, num_sources)
    index = torch.arange(data.num_slots, device=slots.device)
    pairs = slots[..., None] == index                                      # (S, N, K)
    aligned = pairs
    held = data.detections[:, 0].gather(1, slots[..., None].expand(*slots.shape, 4))
    boxes, assignment = [held], [pairs.mT]
    for t in range(1, data.num_frames):
        det, mask = data.detections[:, t], data.mask[:, t]
        pairs = aligned & mask[:, None] if oracle else match_by_iou(held, det, mask, None)
        matched = pairs.to(det.dtype) @ det                                # one slot a row, or none
        held = torch.where(pairs.any(-1, keepdim=True), matched, held)
        boxes.append(held)
        assignment.append(pairs.mT)
    stacked = torch.stack(boxes, 1)
    return Tracks(stacked, torch.full_like(stacked, float("nan")), torch.stack(assignment, 1))
