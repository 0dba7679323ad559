"""What Glow's couplings ask: three convolutions over an image."""

import torch
from torch import Tensor, nn

from pyromodels.networks.zero_convolution import ZeroConvolution
from pyromodels.transforms.actnorm import ActNorm


class ImageConditioner(nn.Module):
    """3 x 3, ActNorm, ReLU; 1 x 1, ActNorm, ReLU; 3 x 3 that is zero at the start.

    Reference: Kingma and Dhariwal, 2018, Glow, section B, and its code.

    Args:
        in_dim: channels of x.
        out_dim: channels of what is said.
        width: of what lies between.
        told_dim: N, size of e; 0: it is told nothing.

    Example:
        >>> ImageConditioner(2, 4, width=8)(torch.randn(3, 2, 4, 6)).shape
        torch.Size([3, 4, 4, 6])
    """

    def __init__(self, in_dim: int, out_dim: int, *, width: int, told_dim: int = 0) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_dim, width, 3, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 1, bias=False)
        for layer in (self.first, self.second):
            nn.init.normal_(layer.weight, std=0.05)
        self.norms = nn.ModuleList(ActNorm(width, space_dim=2) for _ in range(2))
        self.told = None
        if told_dim:
            self.told = nn.Linear(told_dim, width, bias=False)
        self.out = ZeroConvolution(width, out_dim, kernel_size=3, space_dim=2)

    def forward(
        self,
        x: Tensor,  # shape: (rows, in_dim, H, W)
        e: Tensor | None = None,  # shape: (rows, N)
    ) -> Tensor:  # shape: (rows, out_dim, H, W)
        """Return what is said."""
        h, _ = self.norms[0].to_noise(self.first(x))
        if self.told is not None:
            h = h + self.told(e)[..., None, None]
        h, _ = self.norms[1].to_noise(self.second(torch.relu(h)))
        return self.out(torch.relu(h))
