"""What networks are told of the noise that was added to a signal."""

import math

import torch
from torch import Tensor, nn


class NoiseLevel(nn.Module):
    r"""e = W' SiLU(W [sin, cos](r log(sigma + floor)) + b) + b', of a standard deviation sigma.

    Ladders of noise are geometric, so that their logarithms are equally far apart; the rates r are
    too. The floor gives no noise a place below the smallest.

    Args:
        dim: N, size of e.
        num_waves: of sines, and of cosines.
        floor: added to sigma, in units of the signal; 0 where there always is noise.

    Example:
        >>> NoiseLevel(4)(torch.tensor([0.0, 0.1])).shape
        torch.Size([2, 4])
    """

    def __init__(self, dim: int, *, num_waves: int = 16, floor: float = 1e-3) -> None:
        super().__init__()
        self.floor = floor
        rates = math.pi / 2 * torch.linspace(0.2, 3.0, num_waves)
        self.register_buffer("rates", rates, persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * num_waves, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(
        self,
        noise_std: Tensor,  # sigma, shape: (*)
    ) -> Tensor:  # e, shape: (*, N)
        """Return e."""
        angle = torch.log(noise_std + self.floor).unsqueeze(-1) * self.rates
        return self.layers(torch.cat((angle.sin(), angle.cos()), -1))
