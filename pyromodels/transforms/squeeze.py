"""Squeezing: half the places, each with the channels of all that it stands for."""

import torch
from torch import Tensor

from pyromodels.errors import misshapen
from pyromodels.transforms.base import Invertible


class Squeeze(Invertible):
    """Neighbours become channels, a pure reshape: log |det| = 0.

        sounds  (C, T)    -> (2 C, T / 2),         channel 2 c + parity
        images  (C, H, W) -> (4 C, H / 2, W / 2),  channel 4 c + 2 parity of row + of column

    Args:
        space_dim: dims of a channel, 1 of sounds, 2 of images.

    Raises:
        ShapeError: at the call, where a side is odd.

    Example:
        >>> Squeeze().to_noise(torch.arange(6.0).view(1, 6))[0]
        tensor([[0., 2., 4.],
                [1., 3., 5.]])
    """

    def __init__(self, *, space_dim: int = 1) -> None:
        super().__init__()
        self.event_dim = 1 + space_dim

    def to_noise(self, x: Tensor, e: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x with fewer places."""
        batch, shape = x.shape[: x.dim() - self.event_dim], self.noise_shape(x.shape)
        if self.event_dim == 2:
            z = x.unflatten(-1, (-1, 2)).movedim(-1, -2)  # (*, C, parity, T / 2)
        else:
            z = x.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))  # (*, C, H / 2, 2, W / 2, 2)
            z = z.movedim((-3, -1), (-4, -3))
        return z.reshape(shape), x.new_zeros(batch)

    def from_noise(self, z: Tensor, e: Tensor | None = None) -> Tensor:
        """Return z with more places."""
        shape = self.data_shape(z.shape)
        if self.event_dim == 2:
            return z.unflatten(-2, (-1, 2)).movedim(-2, -1).reshape(shape)
        x = z.unflatten(-3, (-1, 2, 2))  # (*, C, parity of row, of column, H / 2, W / 2)
        return x.movedim((-4, -3), (-3, -1)).reshape(shape)

    def noise_shape(self, shape: torch.Size) -> torch.Size:
        """Return the shape of z from that of x."""
        self._refuse(shape, any(side % 2 for side in shape[1 - self.event_dim :]), "even sides")
        return self._shape(shape, 2)

    def data_shape(self, shape: torch.Size) -> torch.Size:
        """Return the shape of x from that of z."""
        by = 2 ** (self.event_dim - 1)
        odd = len(shape) >= self.event_dim and bool(shape[-self.event_dim] % by)
        self._refuse(shape, odd, f"a multiple of {by} channels")
        return self._shape(shape, 0.5)

    def _shape(self, shape: torch.Size, factor: float) -> torch.Size:
        *batch, channels = shape[: len(shape) - self.event_dim + 1]
        sides = [int(side / factor) for side in shape[1 - self.event_dim :]]
        return torch.Size((*batch, int(channels * factor ** len(sides)), *sides))

    def _refuse(self, shape: torch.Size, odd: bool, expected: str) -> None:
        if len(shape) < self.event_dim or odd:
            sides = "C, T" if self.event_dim == 2 else "C, H, W"
            raise misshapen("what is squeezed", shape, f"(*, {sides}) of {expected}")
