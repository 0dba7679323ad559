"""Long spectra in overlapping blocks: what a function makes of each, cross-faded."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from pyromodels.errors import mismatch, misshapen

Each = Callable[[Sequence[int]], Iterable[int]]
"""Goes through the starts of the blocks in order, e.g. with a progress bar."""


def in_blocks(
    function: Callable[[Tensor], Tensor],
    spectra: Tensor,  # shape: (*, T, F)
    num_frames: int,
    overlap: int,
    *,
    each: Each = iter,
) -> Tensor:  # shape: (*, T, ...)
    r"""Return what a function makes of spectra that are too long to be given to it whole.

        y_t = (1 - a_t) y^{(k-1)}_t + a_t y^{(k)}_t

    where blocks k - 1 and k both say something of frame t; a_t rises linearly from near 0 to near
    1 over these frames. What adds up to one in every block, e.g. masks, does so here. Spectra of
    at most `num_frames` frames are one block; of more, every block has `num_frames`, and the last
    one begins earlier where it would stand out.

    Args:
        function: of spectra (*, t, F), t at most `num_frames`; returns (*, t, ...), whatever
            follows the frames.
        spectra: real or complex.
        num_frames: of a block.
        overlap: frames that a block shares with the one before, at least; less than `num_frames`.
        each: what the starts of the blocks pass through.

    Raises:
        ShapeError: for spectra without a frame, or a function that returns other frames.
        ValueError: for a block without a frame, or an overlap outside 0 ... `num_frames` - 1.

    Example:
        >>> in_blocks(torch.square, torch.arange(7.0).unsqueeze(-1), 4, 2).flatten().tolist()
        [0.0, 1.0, 4.0, 9.0, 16.0, 25.0, 36.0]
    """
    if num_frames < 1:
        raise ValueError(mismatch("num_frames", given=num_frames, expected="at least 1"))
    if not 0 <= overlap < num_frames:
        expected = f"0 to {num_frames - 1}, less than num_frames={num_frames}"
        raise ValueError(mismatch("overlap", given=overlap, expected=expected))
    if spectra.dim() < 2 or spectra.shape[-2] < 1:
        raise misshapen("spectra", spectra.shape, "(*, T, F) with at least one frame")
    axis, total, end = spectra.dim() - 2, spectra.shape[-2], 0
    made = None
    for start in each(_starts(total, num_frames, overlap)):
        block = spectra.narrow(axis, start, min(num_frames, total))
        new = function(block)
        if new.shape[: axis + 1] != block.shape[:-1]:
            raise misshapen("function(block)", new.shape, f"{tuple(block.shape[:-1])} and more")
        if made is None:
            made = new.new_empty((*new.shape[:axis], total, *new.shape[axis + 1 :]))
        shared = end - start
        if shared > 0:
            rise = torch.arange(1, shared + 1, device=new.device).to(new.real.dtype) / (shared + 1)
            rise = rise.reshape(-1, *[1] * (new.dim() - axis - 1))
            old = made.narrow(axis, start, shared)
            old += rise * (new.narrow(axis, 0, shared) - old)
        end = start + new.shape[axis]
        kept = max(shared, 0)
        made.narrow(axis, start + kept, end - start - kept).copy_(
            new.narrow(axis, kept, new.shape[axis] - kept)
        )
    return made


def _starts(total: int, num_frames: int, overlap: int) -> list[int]:
    last = max(total - num_frames, 0)
    return [*range(0, last, num_frames - overlap), last]
