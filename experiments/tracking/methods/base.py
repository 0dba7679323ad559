"""What a tracker takes and returns, whichever it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.experiments.tracking.stages import Progress
from pyromodels.experiments.tracking.tracker import Fitted


class Tracked(NamedTuple):
    """What a method returns."""

    boxes: Tensor  # [left, top, right, bottom], shape: (S, T, N, 4)
    covariance: Tensor | None  # of the corners, shape: (S, T, N, 4, 4); None where none is claimed
    fitted: Fitted | None = None  # the first chunk's posterior, of methods that have one


@dataclass(frozen=True)
class Options:
    """What a method may be told.

    Args:
        num_sources: N; None takes the number of true objects where there are any, else the number
            of detections in the first frame.
        weights: of a deep prior: a shipped name or a path.
        device: where MixDVAE runs.
        seed: of whatever a method draws.
        chunk: sequences tracked at once.
        progress: see `stages.Progress`.
        changes: "stages", or fields of `ModelSpec`, of the tuned tracker to replace; of another
            method its own options.
    """

    num_sources: int | None = None
    weights: str | None = None
    device: str = "cpu"
    seed: int = 0
    chunk: int = 64
    progress: Progress | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    def number_of_sources(self, data: TrackingData) -> int | None:
        """Return N as the options and the data have it, None where the first frame is to say."""
        return self.num_sources if self.num_sources is not None else data.num_objects


def chunks(data: TrackingData, size: int) -> Iterator[TrackingData]:
    """Yield the sequences, `size` at a time."""
    for start in range(0, data.num_sequences, size):
        yield data.subset(slice(start, start + size))
