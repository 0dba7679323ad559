"""The published method on a chunk of sequences: cascade, schedule, what is kept on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pyromodels.inference.published.cells import Cells, Evidence, Noise, Posterior, Start

if TYPE_CHECKING:
    from pyromodels.dynamics.deep_ar import DeepAR
    from pyromodels.dynamics.srnn import SRNN
    from pyromodels.inference.published.options import PublishedOptions

Schedule = Callable[[int, int], Iterator[tuple[int, int, int]]]
"""schedule(I, T) yields (diagonal, first, last): update the cells (diagonal - t, t), t in
[first, last); every cell once, and after those it reads."""


def sweeps(num_iterations: int, num_frames: int) -> Iterator[tuple[int, int, int]]:
    """One cell after the other: I T steps."""
    for iteration in range(num_iterations):
        for frame in range(num_frames):
            yield iteration + frame, frame, frame + 1


def wavefront(num_iterations: int, num_frames: int) -> Iterator[tuple[int, int, int]]:
    """All cells of a diagonal i + t at once: I + T - 1 steps."""
    for diagonal in range(num_iterations + num_frames - 1 if num_iterations else 0):
        yield diagonal, max(0, diagonal - num_iterations + 1), min(num_frames, diagonal + 1)


SCHEDULES: dict[str, Schedule] = {"wavefront": wavefront, "sweeps": sweeps}


class Run(NamedTuple):
    """The whole method on one chunk."""

    prior: SRNN | DeepAR
    options: PublishedOptions
    generator: torch.Generator | None
    schedule: Schedule
    history: tuple[int, ...]

    def __call__(
        self,
        evidence: Evidence,
        anchor: Tensor,  # shape: (B, N, D)
        variance: Tensor,  # V of iteration 0, shape: (B, N, T, D)
        loc: Tensor | None,  # m of iteration 0, shape: (B, N, T, D); None: from the cascade
    ) -> list[Posterior]:
        """Return q after the iterations of `history`, and after the last."""
        loc = self._cascade(evidence, anchor, variance) if loc is None else loc
        cells = self._cells(evidence, Start(loc, variance, anchor))
        records = [_Record(cells, iteration) for iteration in self.history]
        self._iterate(cells, self.options.num_iterations, records)
        return [*(record.posterior for record in records), cells.posterior()]

    def _cascade(
        self, evidence: Evidence, anchor: Tensor, variance: Tensor
    ) -> Tensor:  # m of iteration 0, shape: (B, N, T, D)
        """Cascade initialisation (thesis, Algorithm 2): m of iteration 0, constant in every piece.

        A piece is inferred on its own, its first frame pinned to the last m of the piece before.
        Only that last m is ever read, so the last piece need not be inferred.
        """
        num_frames, pieces = variance.shape[2], []
        length = self.options.cascade_piece or num_frames
        for begin in range(0, num_frames, length):
            end = min(begin + length, num_frames)
            pieces.append(anchor.unsqueeze(2).expand(-1, -1, end - begin, -1))
            if end < num_frames:
                piece = Evidence(*(v[:, begin:end] for v in evidence))
                start = Start(pieces[-1], variance[:, :, begin:end], anchor)
                cells = self._cells(piece, start)
                self._iterate(cells, self.options.cascade_iterations)
                anchor = cells.posterior(slice(-1, None)).loc.squeeze(2)
        return torch.cat(pieces, 2)

    def _cells(self, evidence: Evidence, start: Start) -> Cells:
        sizes = self.prior.latent_dim, start.loc.shape[-1]
        latent_noise, source_noise = (_noise(d, start.anchor, self.generator) for d in sizes)
        return Cells(self.prior, evidence, start, self.options, latent_noise, source_noise)

    def _iterate(self, cells: Cells, num_iterations: int, records: Sequence[_Record] = ()) -> None:
        for diagonal, first, last in self.schedule(num_iterations, cells.num_frames):
            cells.update(diagonal, first, last)
            for record in records:
                record.see(diagonal, first, last)
            if self.options.tolerance is not None and cells.moved() <= self.options.tolerance:
                return


class _Record:
    """q after one iteration, copied frame by frame as the iteration passes."""

    def __init__(self, cells: Cells, iteration: int) -> None:
        self.cells, self.index = cells, iteration - 1
        self.posterior = Posterior(*(torch.empty_like(v) for v in cells.posterior()))

    def see(self, diagonal: int, first: int, last: int) -> None:
        frame = diagonal - self.index
        if first <= frame < last:
            frames = slice(frame, frame + 1)
            for copy, now in zip(self.posterior, self.cells.posterior(frames), strict=True):
                copy[:, :, frames] = now


def _noise(size: int, like: Tensor, generator: torch.Generator | None) -> Noise:
    width = like.shape[0] * like.shape[1]

    def draw(diagonal: int, first: int, last: int) -> Tensor:
        return torch.randn(
            (size, (last - first) * width),
            generator=generator,
            dtype=like.dtype,
            device=like.device,
        )

    return draw
