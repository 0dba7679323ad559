"""Tracks on disk."""

from pathlib import Path

import numpy as np
from torch import Tensor

from pyromodels.experiments.harness.records import replacing


def write_tracks(
    path: Path,
    boxes: Tensor,                    # [left, top, right, bottom], shape: (S, T, N, 4)
    covariance: Tensor | None,        # of the corners, shape: (S, T, N, 4, 4)
) -> None:
    """Write boxes and, where it is claimed, their covariance as a plain `.npz`."""
    arrays = {"boxes": boxes.numpy()}
    if covariance is not None:
        arrays["covariance"] = covariance.numpy()
    with replacing(path) as part:
        np.savez_compressed(part, **arrays)
