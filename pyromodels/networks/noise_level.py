"""What networks are told of the noise that was added to a signal."""

import torch
from torch import Tensor, nn


class NoiseLevel(nn.Module):
    r"""e = W' tanh(W (log(sigma + floor) + 4) / 2 + b) + b', of a standard deviation sigma.

    Ladders of noise are geometric, so that their logarithms are equally far apart; the floor gives
    no noise a place below the smallest.

    Args:
        dim: N, size of e.
        floor: added to sigma, in units of the signal.

    Example:
        >>> NoiseLevel(4)(torch.tensor([0.0, 0.1])).shape
        torch.Size([2, 4])
    """

    def __init__(self, dim: int, *, floor: float = 1e-3) -> None:
        super().__init__()
        self.floor = floor
        self.layers = nn.Sequential(nn.Linear(1, dim), nn.Tanh(), nn.Linear(dim, dim))

    def forward(
        self,
        noise_std: Tensor,  # sigma, shape: (*)
    ) -> Tensor:  # e, shape: (*, N)
        """Return e."""
        level = (torch.log(noise_std + self.floor) + 4) / 2
        return self.layers(level.unsqueeze(-1))
