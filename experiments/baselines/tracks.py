"""What a baseline tracker returns, and how all of them start."""

from typing import NamedTuple

import torch
from torch import Tensor

from pyromodels.experiments.datasets.tracking.sequences import TrackingData


class Tracks(NamedTuple):
    """The N tracks of every sequence; track n is the same object in all frames.

    ``boxes`` is the estimate of [left, top, right, bottom], ``variance`` its posterior variance
    (normalised units squared; NaN where the tracker claims none) and ``assignment[s, t, k, n]``
    says that detection k was given to track n.
    """

    boxes: Tensor                     # shape: (S, T, N, 4)
    variance: Tensor                  # shape: (S, T, N, 4)
    assignment: Tensor                # shape: (S, T, K, N), bool


def starting_slots(
    data: TrackingData,
    num_sources: int | None,
) -> Tensor:                          # long, shape: (S, N)
    """Return the first N slots of frame 1 that hold a detection: track n starts on the n-th.

    Raises:
        ValueError: if frame 1 has fewer detections than tracks asked for, or, with
            ``num_sources=None``, a number of them that differs between sequences.
    """
    first = data.mask[:, 0]
    count = first.sum(-1)
    if num_sources is None:
        num_sources = int(count[0])
        if (count != num_sources).any():
            raise ValueError(
                f"{data.name}: frame 1 holds {int(count.min())} to {int(count.max())} detections; "
                "expected one number for all sequences. Pass num_sources."
            )
    if num_sources < 1 or num_sources > int(count.min()):
        s = int(count.argmin())
        raise ValueError(
            f"{data.name}: num_sources is {num_sources}, and frame 1 of sequence {s} "
            f"({data.names[s]}) holds {int(count[s])} detections; expected 1 to that many, since a "
            "track starts on a detection of frame 1"
        )
    order = torch.argsort((~first).to(torch.uint8), dim=-1, stable=True)
    return order[:, :num_sources]
