"""Invertible linear maps by triangular factors."""

import torch
from torch import Tensor, nn


class Mixing(nn.Module):
    r"""x = z W, W = L U: unit lower times upper triangular with a positive diagonal."""

    def __init__(self, num_members: int, dim: int) -> None:
        super().__init__()
        self.entries = nn.Parameter(0.01 * torch.randn(num_members, dim, dim))
        self.log_diagonal = nn.Parameter(torch.zeros(num_members, dim))

    def factors(self) -> tuple[Tensor, Tensor]:  # each (M, D, D)
        """Return L and U."""
        eye = torch.eye(self.entries.shape[-1], dtype=self.entries.dtype).to(self.entries.device)
        upper = self.entries.triu(1) + torch.diag_embed(self.log_diagonal.exp())
        return self.entries.tril(-1) + eye, upper

    def forward(self, z: Tensor) -> Tensor:
        """Return x, shape (M, R, D)."""
        lower, upper = self.factors()
        return z @ lower @ upper

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and log |det dz/dx|, shapes (M, R, D) and (M, 1)."""
        lower, upper = self.factors()
        y = torch.linalg.solve_triangular(upper, x, upper=True, left=False)
        z = torch.linalg.solve_triangular(
            lower, y, upper=False, left=False, unitriangular=True
        )
        return z, -self.log_diagonal.sum(-1, keepdim=True)
