"""Box sequences for multi-object tracking: detections, their mask, and the truth if known."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class TrackingData:
    """A set of S sequences of T frames with up to K detections each.

    Boxes are [left, top, right, bottom] divided by (width, height, width, height) of the image,
    y pointing down; they may reach outside [0, 1]. A slot k of a frame says nothing about
    identity, except that the first frame is kept in the order it came in.

    ==================  ==================  =======================================
    name                shape               meaning
    ==================  ==================  =======================================
    ``detections``      (S, T, K, 4)        float32, zero where masked
    ``mask``            (S, T, K)           True where there is a detection
    ``truth``           (S, T, N, 4)        true box of object n, zero where absent
    ``truth_mask``      (S, T, N)           True where object n is present
    ``frame_rate``      (S,)                frames a second
    ``image_size``      (S, 2)              width and height in pixels
    ``names``           S strings           one per sequence, for messages and plots
    ==================  ==================  =======================================

    Raises:
        ValueError: for a wrong shape, no sequence, no frame, or a present box that is not
            finite or has no area; the message names sequence, frame and slot (counted from 0).

    Example:
        >>> boxes = [[[[0.1, 0.1, 0.2, 0.4]], [[float("nan")] * 4]]]
        >>> data = TrackingData.from_arrays("tiny", boxes)
        >>> data.mask.tolist()
        [[[True], [False]]]
    """

    name: str
    detections: Tensor
    mask: Tensor
    truth: Tensor | None = None
    truth_mask: Tensor | None = None
    frame_rate: Tensor | None = None
    image_size: Tensor | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check shapes and boxes once, here, so that nothing downstream has to."""
        det = _box_tensor(self.name, "detections", self.detections, "K")
        num_sequences, num_frames = det.shape[:2]
        if num_sequences == 0 or num_frames == 0:
            raise ValueError(
                f"{self.name}: detections has {num_sequences} sequences of {num_frames} frames; "
                "expected at least one of each. Did a filter leave nothing?"
            )
        names = tuple(self.names) or tuple(f"{self.name}/{s}" for s in range(num_sequences))
        _expect(self.name, "names", (len(names),), (num_sequences,))
        mask = torch.as_tensor(self.mask)
        det, mask = _check_boxes(self.name, "detections", "mask", det, mask, names)
        truth, truth_mask = self.truth, self.truth_mask
        if truth is not None:
            truth = _box_tensor(self.name, "truth", truth, "N")
            _expect(self.name, "truth", truth.shape[:2], (num_sequences, num_frames))
            if truth_mask is None:
                truth_mask = torch.ones(truth.shape[:-1], dtype=torch.bool)
            truth_mask = torch.as_tensor(truth_mask)
            truth, truth_mask = _check_boxes(
                self.name, "truth", "truth_mask", truth, truth_mask, names
            )
        elif truth_mask is not None:
            raise ValueError(f"{self.name}: truth_mask was given without truth; give both or none")
        per_sequence = {}
        for field, shape in (("frame_rate", (num_sequences,)), ("image_size", (num_sequences, 2))):
            value = getattr(self, field)
            if value is not None:
                value = torch.as_tensor(value, dtype=torch.float32)
                _expect(self.name, field, value.shape, shape)
                if not (torch.isfinite(value) & (value > 0)).all():
                    raise ValueError(f"{self.name}: {field} must be positive and finite, "
                                     f"got {value.flatten().tolist()[:8]}")
            per_sequence[field] = value
        checked = {"detections": det, "mask": mask, "truth": truth, "truth_mask": truth_mask,
                   "names": names, **per_sequence}
        for field, value in checked.items():
            object.__setattr__(self, field, value)

    @classmethod
    def from_arrays(
        cls,
        name: str,
        detections: ArrayLike,                   # shape: (S, T, K, 4), NaN = missing
        *,
        truth: ArrayLike | None = None,          # shape: (S, T, N, 4), NaN = absent
        frame_rate: ArrayLike | None = None,     # shape: (S,), frames a second
        image_size: ArrayLike | None = None,     # shape: (S, 2), pixels
        names: Sequence[str] = (),
    ) -> "TrackingData":
        """Build the data from arrays in which a box of four NaN means "no detection".

        Raises:
            ValueError: also for a box that is NaN in some coordinates only, or infinite.
        """
        det, mask = _split_missing(detections)
        true, true_mask = (None, None) if truth is None else _split_missing(truth)
        return cls(
            name=name, detections=det, mask=mask, truth=true, truth_mask=true_mask,
            frame_rate=None if frame_rate is None else torch.as_tensor(np.asarray(frame_rate)),
            image_size=None if image_size is None else torch.as_tensor(np.asarray(image_size)),
            names=tuple(names),
        )

    @property
    def num_sequences(self) -> int:
        """Number of sequences S."""
        return self.detections.shape[0]

    @property
    def num_frames(self) -> int:
        """Number of frames T."""
        return self.detections.shape[1]

    @property
    def num_slots(self) -> int:
        """Number of detection slots K, padding included."""
        return self.detections.shape[2]

    @property
    def num_objects(self) -> int | None:
        """Number of true objects N, or None where the truth is unknown."""
        return None if self.truth is None else self.truth.shape[2]

    def shuffled(self, generator: torch.Generator | None = None) -> "TrackingData":
        """Permute the K slots, padding too, of every frame after the first, independently."""
        noise = torch.rand(self.mask.shape, generator=generator)
        order = noise.argsort(-1)                                          # (S, T, K)
        order[:, 0] = torch.arange(self.num_slots)
        det = self.detections.gather(2, order[..., None].expand(*order.shape, 4))
        return dataclasses.replace(self, detections=det, mask=self.mask.gather(2, order))

    def subset(self, index: slice | Sequence[int] | Tensor) -> "TrackingData":
        """Keep the sequences that ``index`` selects, in its order."""
        if isinstance(index, slice):
            rows = torch.arange(self.num_sequences)[index]
        else:
            rows = torch.as_tensor(index)
            rows = rows.nonzero().flatten() if rows.dtype == torch.bool else rows.long().flatten()
        if rows.numel() == 0 or int(rows.max()) >= self.num_sequences or int(rows.min()) < 0:
            raise ValueError(
                f"{self.name}: index selects sequences {rows.tolist()[:8]}; expected at least one "
                f"in 0..{self.num_sequences - 1}"
            )
        tensors = ("detections", "mask", "truth", "truth_mask", "frame_rate", "image_size")
        kept = {f: getattr(self, f)[rows] for f in tensors if getattr(self, f) is not None}
        return dataclasses.replace(self, names=tuple(self.names[int(r)] for r in rows), **kept)

    def spread(self, count: int | None) -> "TrackingData":
        """Keep so many sequences, evenly spread; all of them for None, or where there are fewer."""
        if count is None or count >= self.num_sequences:
            return self
        step = self.num_sequences / max(count, 1)
        return self.subset([int(i * step) for i in range(count)])


def _split_missing(boxes: ArrayLike) -> tuple[Tensor, Tensor]:
    """Split NaN-coded boxes into values and mask; a partly-NaN box stays, to be refused."""
    tensor = torch.as_tensor(np.asarray(boxes), dtype=torch.float32)
    return tensor, ~torch.isnan(tensor).all(-1) if tensor.ndim else tensor


def _box_tensor(name: str, field: str, value: Tensor, slot: str) -> Tensor:
    value = torch.as_tensor(value)
    if value.ndim != 4 or value.shape[-1] != 4:
        raise ValueError(
            f"{name}: {field} has shape {tuple(value.shape)}; expected (S, T, {slot}, 4), "
            "sequences x frames x boxes x [left, top, right, bottom]. A single sequence needs a "
            "leading axis of one."
        )
    return value.to(torch.float32)


def _expect(name: str, field: str, given: Sequence[int], expected: Sequence[int]) -> None:
    if tuple(given) != tuple(expected):
        raise ValueError(
            f"{name}: {field} has shape {tuple(given)}; expected {tuple(expected)} to agree with "
            "detections"
        )


def _check_boxes(
    name: str, field: str, mask_field: str, boxes: Tensor, mask: Tensor, names: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """Refuse bad boxes where the mask is True; return boxes with zero elsewhere, and the mask."""
    _expect(name, mask_field, mask.shape, boxes.shape[:-1])
    if mask.dtype != torch.bool:
        raise ValueError(f"{name}: {mask_field} has dtype {mask.dtype}; expected torch.bool")
    finite = torch.isfinite(boxes).all(-1)
    area = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
    faults = (
        (mask & ~finite, "is not finite",
         f"Remove the box, or make it missing (four NaN, or {mask_field} False)."),
        (mask & finite & ~area, "has right <= left or bottom <= top",
         "Expected corners [left, top, right, bottom] with y down; did you pass width and height?"),
    )
    for wrong, what, advice in faults:
        if wrong.any():
            s, t, k = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"{name}: {field} of sequence {s} ({names[s]}), frame {t}, slot {k} {what}: "
                f"{boxes[s, t, k].tolist()} ({int(wrong.sum())} such boxes). {advice}"
            )
    return boxes.masked_fill(~mask[..., None], 0.0), mask
