"""Affine couplings of channels: some move, as a network says that sees the others."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from pyromodels.errors import SpecError, mismatch, unknown
from pyromodels.transforms.base import Invertible, ask

Bound = Literal["none", "tanh", "sigmoid"]
BOUNDS = ("none", "tanh", "sigmoid")


class AffineCoupling(Invertible):
    r"""z_moved = (x_moved - mu) exp(-s), z_kept = x_kept; (s, mu) = network(x_kept; e).

        log |det dz/dx| = -\sum s

    A checkerboard is a set of channels after a `Squeeze`: sounds of even numbers, or every other
    pixel.

    Args:
        network: from the kept channels (rows, C - K, *space), and e (rows, N) where there is one,
            to s and mu of the K that move, (rows, 2 K, *space).
        moves: which channels move, C booleans; see `halves`.
        space_dim: dims of a channel, 1 of sounds, 2 of images.
        bound: of s: "none" (FloWaveNet), "tanh" (TVNF, -1 to 1), "sigmoid" (Glow: e^{-s} =
            sigmoid(r + 2) of what the network says, which only contracts).

    Raises:
        SpecError: unknown bound, or no channel on either side.

    Example:
        >>> network = nn.Conv1d(2, 4, 3, padding=1)
        >>> coupling = AffineCoupling(network, halves(4))
        >>> z, log_det = coupling.to_noise(torch.randn(5, 4, 8))
        >>> z.shape, log_det.shape
        (torch.Size([5, 4, 8]), torch.Size([5]))
    """

    def __init__(
        self,
        network: nn.Module,
        moves: Sequence[bool],
        *,
        space_dim: int = 1,
        bound: Bound = "none",
    ) -> None:
        super().__init__()
        if bound not in BOUNDS:
            raise SpecError(unknown("bound", given=str(bound), known=BOUNDS))
        if all(moves) or not any(moves):
            expected = "channels that move and channels that are kept"
            raise SpecError(mismatch("moves", given=list(moves), expected=expected))
        self.network, self.bound, self.event_dim = network, bound, 1 + space_dim
        numbers, mask = torch.arange(len(moves)), torch.tensor(list(moves))
        order = torch.cat((numbers[~mask], numbers[mask]))
        self.num_kept = int((~mask).sum())
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("place", order.argsort(), persistent=False)

    def to_noise(self, x: Tensor, e: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return z."""
        kept, moved = self._parts(x)
        slope, shift = self._said(kept, e)
        event = tuple(range(-self.event_dim, 0))
        return self._whole(kept, affine(moved, slope, shift)), -slope.sum(event)

    def from_noise(self, z: Tensor, e: Tensor | None = None) -> Tensor:
        """Return x."""
        kept, moved = self._parts(z)
        return self._whole(kept, affine_inverse(moved, *self._said(kept, e)))

    def _said(self, kept: Tensor, e: Tensor | None) -> tuple[Tensor, Tensor]:
        slope, shift = ask(self.network, kept, e, self.event_dim).chunk(2, -self.event_dim)
        if self.bound == "tanh":
            slope = torch.tanh(slope)
        elif self.bound == "sigmoid":
            slope = -logsigmoid(slope + 2)
        return slope, shift

    def _parts(self, v: Tensor) -> tuple[Tensor, Tensor]:  # kept and moved channels
        ordered = v.index_select(-self.event_dim, self.order)
        sizes = (self.num_kept, len(self.order) - self.num_kept)
        return ordered.split(sizes, -self.event_dim)

    def _whole(self, kept: Tensor, moved: Tensor) -> Tensor:
        ordered = torch.cat((kept, moved), -self.event_dim)
        return ordered.index_select(-self.event_dim, self.place)


def halves(num_channels: int, *, moved: Literal["first", "second"] = "second") -> list[bool]:
    """Return which channels move where one half does.

    Example:
        >>> halves(4)
        [False, False, True, True]
    """
    kept = num_channels // 2
    return [(number >= kept) == (moved == "second") for number in range(num_channels)]


def affine(
    x: Tensor,  # shape: (*)
    slope: Tensor,  # s, shape: (*)
    shift: Tensor,  # mu, shape: (*)
) -> Tensor:  # z, shape: (*)
    """z = (x - mu) exp(-s)."""
    return (x - shift) * torch.exp(-slope)


def affine_inverse(z: Tensor, slope: Tensor, shift: Tensor) -> Tensor:
    """x = z exp(s) + mu."""
    return torch.addcmul(shift, z, torch.exp(slope))
