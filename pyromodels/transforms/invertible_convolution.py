"""Invertible 1x1 convolutions: channels mixed at every place by one matrix."""

import torch
from torch import Tensor, nn

from pyromodels.transforms.base import Invertible
from pyromodels.transforms.mixing import Mixing


class InvertibleConvolution(Invertible):
    r"""z = W x at every place, W = P L U; log |det| = places * \sum_c log U_cc.

    L is unit lower and U upper triangular with a positive diagonal; P is a signed permutation, a
    buffer. The start is a rotation, as in Glow, whose signs stand on the diagonal of U.

    Reference: Kingma and Dhariwal, 2018, Glow, section 3.2.

    Args:
        num_channels: C.
        space_dim: dims of a channel, 1 of sounds, 2 of images.

    Example:
        >>> convolution = InvertibleConvolution(4, space_dim=2)
        >>> z, log_det = convolution.to_noise(torch.randn(5, 4, 8, 8))
        >>> z.shape, log_det.shape
        (torch.Size([5, 4, 8, 8]), torch.Size([5]))
    """

    def __init__(self, num_channels: int, *, space_dim: int = 1) -> None:
        super().__init__()
        self.event_dim = 1 + space_dim
        rotation = nn.init.orthogonal_(torch.empty(num_channels, num_channels))
        permutation, lower, upper = torch.linalg.lu(rotation)
        sign = torch.diag(upper.diagonal().sign())  # P L U = (P S) (S L S) (S U)
        lower, upper = sign @ lower @ sign, sign @ upper
        self.register_buffer("permutation", permutation @ sign)
        self.mixing = Mixing(1, num_channels)
        with torch.no_grad():
            self.mixing.entries.copy_(lower.tril(-1) + upper.triu(1))
            self.mixing.log_diagonal.copy_(upper.diagonal().log())

    def to_noise(self, x: Tensor, e: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return z."""
        lower, upper = self.mixing.factors()
        z = (self.permutation @ lower[0] @ upper[0]) @ self._columns(x)
        log_det = self.mixing.log_diagonal.sum() * z.shape[-1]
        return z.view(x.shape), log_det.expand(x.shape[: x.dim() - self.event_dim])

    def from_noise(self, z: Tensor, e: Tensor | None = None) -> Tensor:
        """Return x."""
        lower, upper = self.mixing.factors()
        x = self.permutation.mT @ self._columns(z)
        x = torch.linalg.solve_triangular(lower[0], x, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper[0], x, upper=True).view(z.shape)

    def _columns(self, v: Tensor) -> Tensor:  # shape: (*batch, C, places)
        return v.flatten(1 - self.event_dim)
