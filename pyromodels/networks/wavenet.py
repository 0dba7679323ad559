"""WaveNet: gated dilated convolutions with skips, looking back alone or to both sides."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils import parametrizations, parametrize

from pyromodels.errors import SpecError, mismatch
from pyromodels.networks.zero_convolution import ZeroConvolution

HALF = math.sqrt(0.5)


class GatedStack(nn.Module):
    r"""Gated dilated convolutions, (rows, in_dim, T) -> (rows, out_dim, T).

        h_0   = front * x
        f, g  = halves of W_l * h_{l-1} + b_l + V_l e                   dilated by 1, 2, 4, ...
        a_l   = tanh(f) sigmoid(g)
        h_l   = (h_{l-1} + R_l a_l) sqrt(1/2),      skip = \sum_l S_l a_l
        y     = ReLU(post * ReLU(skip))

    Filter and gate are one convolution, R_l and S_l another; the last layer has no R, which nothing
    would read.

    Reference: van den Oord et al., 2016, WaveNet: a generative model for raw audio; Kim et al.,
    2019, FloWaveNet, for the network that looks both ways.

    Args:
        in_dim: channels of x.
        out_dim: channels of y.
        width: channels of h, a and skip.
        num_layers: of a block, dilated by 1, 2, ..., 2^(num_layers - 1).
        num_blocks: how often the dilations are gone through.
        kernel_size: of front and W; odd unless causal.
        post_kernel_size: of post; 1 where it is causal.
        causal: whether y_t depends on x_{<=t} alone.
        told_dim: N, size of e; 0: it is told nothing.
        weight_norm: whether weights are a direction times a length; see `fold_weight_norm`.

    Raises:
        SpecError: for a kernel of one tap, an even one that is to look both ways, or a causal stack
            whose post looks around.

    Example:
        >>> GatedStack(1, 5, width=4, num_layers=3)(torch.zeros(2, 1, 20)).shape
        torch.Size([2, 5, 20])
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        width: int,
        num_layers: int,
        num_blocks: int = 1,
        kernel_size: int = 3,
        post_kernel_size: int = 1,
        causal: bool = False,
        told_dim: int = 0,
        weight_norm: bool = False,
    ) -> None:
        super().__init__()
        if kernel_size < 2:
            raise SpecError(mismatch("kernel_size", given=kernel_size, expected="2 or more"))
        if not causal and not (kernel_size % 2 and post_kernel_size % 2):
            given, expected = (kernel_size, post_kernel_size), "odd numbers"
            raise SpecError(mismatch("kernel sizes that look both ways", given=given,
                                     expected=expected))
        if causal and post_kernel_size != 1:
            raise SpecError(mismatch("post_kernel_size", given=post_kernel_size, expected=1))
        self.causal, self.kernel_size, self.width = causal, kernel_size, width
        self.dilations = [2**level for level in range(num_layers)] * num_blocks
        last = len(self.dilations) - 1
        self.front = nn.Conv1d(in_dim, width, kernel_size)
        self.gates = nn.ModuleList(
            nn.Conv1d(width, 2 * width, kernel_size, dilation=by) for by in self.dilations
        )
        self.outs = nn.ModuleList(  # skip, and before the last layer residual
            nn.Conv1d(width, (1 + (number < last)) * width, 1, bias=False)
            for number in range(last + 1)
        )
        self.post = nn.Conv1d(
            width, out_dim, post_kernel_size, padding=post_kernel_size // 2
        )
        self.told = None
        if told_dim:
            self.told = nn.Linear(told_dim, 2 * width * len(self.dilations), bias=False)
        if weight_norm:
            for layer in (self.front, *self.gates, *self.outs, self.post):
                parametrizations.weight_norm(layer)

    @property
    def reach(self) -> int:
        """How many frames of x a frame of y depends on."""
        before = (self.kernel_size - 1) * (1 + sum(self.dilations)) + 1
        return before + self.post.kernel_size[0] - 1

    def forward(
        self,
        x: Tensor,  # shape: (rows, in_dim, T)
        e: Tensor | None = None,  # shape: (rows, N)
    ) -> Tensor:  # shape: (rows, out_dim, T)
        """Return y."""
        h = self.front(self._padded(x, 1))
        told = None
        if self.told is not None:
            told = self.told(e).unflatten(-1, (-1, 2 * self.width, 1)).unbind(1)
        skip = None
        for number, (gate, out) in enumerate(zip(self.gates, self.outs, strict=True)):
            both = gate(self._padded(h, self.dilations[number]))
            if told is not None:
                both = both + told[number]
            filtered, opened = both.chunk(2, 1)
            said = _by_place(out.weight, torch.tanh(filtered) * torch.sigmoid(opened))
            parts = said.split(self.width, 1)  # skip, and before the last layer residual
            skip = parts[0] if skip is None else skip + parts[0]
            if len(parts) > 1:
                h = torch.add(parts[1], h).mul_(HALF)
        return torch.relu(self.post(torch.relu(skip)))

    def _padded(self, x: Tensor, dilation: int) -> Tensor:
        before = (self.kernel_size - 1) * dilation
        return pad(x, (before, 0) if self.causal else (before // 2, before // 2))


def _by_place(
    weight: Tensor,  # shape: (out_dim, in_dim, 1)
    x: Tensor,  # shape: (rows, in_dim, T)
) -> Tensor:  # shape: (rows, out_dim, T)
    """Return a 1 x 1 convolution; as products of matrices it takes half the time on a CPU."""
    return torch.bmm(weight.squeeze(-1).expand(len(x), -1, -1), x)


class WaveNet(nn.Module):
    """What a `GatedStack` says through a convolution that is zero at the start: a conditioner.

    Args:
        in_dim: channels of x.
        out_dim: channels of what is said.
        width: of the stack.
        num_layers: likewise; other options are those of `GatedStack`.

    Example:
        >>> network = WaveNet(1, 2, width=4, num_layers=3)
        >>> network(torch.randn(5, 1, 20)).abs().max()
        tensor(0., grad_fn=<MaxBackward1>)
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        width: int,
        num_layers: int,
        **options: Any,  # noqa: ANN401 - of `GatedStack`
    ) -> None:
        super().__init__()
        self.stack = GatedStack(in_dim, width, width=width, num_layers=num_layers, **options)
        self.out = ZeroConvolution(width, out_dim)

    def forward(
        self,
        x: Tensor,  # shape: (rows, in_dim, T)
        e: Tensor | None = None,  # shape: (rows, N)
    ) -> Tensor:  # shape: (rows, out_dim, T)
        """Return what is said."""
        return self.out(self.stack(x, e))


def fold_weight_norm(network: nn.Module) -> None:
    """Make weights that are a direction times a length plain ones, of the same values, in place.

    For inference: they are not computed anew at every call; a folded network has other parameters.
    """
    for module in network.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
