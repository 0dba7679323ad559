"""Convolutions that say nothing at the start: a flow of them starts at the identity."""

import torch
from torch import Tensor, nn


class ZeroConvolution(nn.Module):
    r"""y = (W * x + b + V e) exp(3 a), with W, b, V and a zero at the start.

    Reference: Kingma and Dhariwal, 2018, Glow, section 3.3, and its code for exp(3 a).

    Args:
        in_dim: channels of x.
        out_dim: channels of y.
        kernel_size: odd.
        space_dim: dims of a channel, 1 of sounds, 2 of images.
        told_dim: N, size of e; 0: it is told nothing.

    Example:
        >>> ZeroConvolution(2, 3)(torch.ones(1, 2, 4)).abs().max()
        tensor(0., grad_fn=<MaxBackward1>)
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        kernel_size: int = 1,
        space_dim: int = 1,
        told_dim: int = 0,
    ) -> None:
        super().__init__()
        kind: type[nn.Conv1d] | type[nn.Conv2d] = nn.Conv1d if space_dim == 1 else nn.Conv2d
        self.convolution = kind(in_dim, out_dim, kernel_size, padding=kernel_size // 2)
        nn.init.zeros_(self.convolution.weight)
        nn.init.zeros_(self.convolution.bias)
        self.told = nn.Linear(told_dim, out_dim, bias=False) if told_dim else None
        if self.told is not None:
            nn.init.zeros_(self.told.weight)
        self.log_scale = nn.Parameter(torch.zeros(out_dim, *[1] * space_dim))

    def forward(
        self,
        x: Tensor,  # shape: (rows, in_dim, *space)
        e: Tensor | None = None,  # shape: (rows, N)
    ) -> Tensor:  # shape: (rows, out_dim, *space)
        """Return y."""
        y = self.convolution(x)
        if self.told is not None:
            y = y + self.told(e).view(*y.shape[:2], *[1] * (y.dim() - 2))
        return y * torch.exp(3 * self.log_scale)
