"""Several models of one kind side by side: every parameter has a leading dimension of members.

What is computed for one member is computed for all of them by the same batched products. Inside,
tensors have shape (M, R, ...): M members, R rows, whatever batch dimensions they came from.
"""

import math

import torch
from torch import Tensor, nn

from pyromodels.errors import ShapeError, mismatch


class MemberLinear(nn.Module):
    """y = x W + b, with a W and a b of every member.

    Args:
        num_members: M.
        in_dim: size of x; 0 leaves b alone.
        out_dim: size of y.
        bias: whether there is a b.
    """

    def __init__(self, num_members: int, in_dim: int, out_dim: int, *, bias: bool = True) -> None:
        super().__init__()
        reach = 1 / math.sqrt(max(in_dim, 1))  # the start of nn.Linear

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-reach, reach))

        self.weight = drawn(num_members, in_dim, out_dim) if in_dim else None
        self.bias = drawn(num_members, 1, out_dim) if bias else None

    def forward(
        self,
        x: Tensor,  # shape: (M, R, in_dim)
        added: Tensor | None = None,  # in place of b, shape: (M, R, out_dim)
    ) -> Tensor:  # shape: (M, R, out_dim)
        """Return y."""
        added = self.bias if added is None else added
        if self.weight is None:
            return added.expand(*x.shape[:-1], -1)
        return x @ self.weight if added is None else torch.baddbmm(added, x, self.weight)


def to_members(
    v: Tensor,  # shape: (*batch, *event); the last of batch counts the members, if several
    num_members: int,
    event_dim: int,
) -> Tensor:  # shape: (M, R, *event)
    """Put members first and flatten the other batch dimensions."""
    event = v.shape[v.dim() - event_dim :]
    if num_members == 1:
        return v.reshape(1, -1, *event)
    return v.movedim(-event_dim - 1, 0).reshape(num_members, -1, *event)


def from_members(
    v: Tensor,  # shape: (M, R, *event)
    batch_shape: torch.Size,
) -> Tensor:  # shape: (*batch, *event)
    """Undo `to_members`."""
    event = v.shape[2:]
    if len(v) == 1:
        return v.reshape(*batch_shape, *event)
    return v.reshape(len(v), *batch_shape[:-1], *event).movedim(0, len(batch_shape) - 1)


def check_members(batch_shape: torch.Size, num_members: int) -> None:
    """Raise `ShapeError` where the last batch dimension does not count the members."""
    if num_members > 1 and batch_shape[-1:] != (num_members,):
        raise ShapeError(
            mismatch(
                "batch shape",
                given=tuple(batch_shape),
                expected=f"(*, {num_members}), one entry for each of the members",
            )
        )
