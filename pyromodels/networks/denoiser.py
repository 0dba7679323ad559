"""What a signal was before noise fell on it: convolutions of growing reach, and attention."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from pyromodels.errors import mismatch, misshapen
from pyromodels.networks.noise_level import NoiseLevel

NUM_GROUPS = 8
"""Of channels that a normalisation takes together."""


class Denoiser(nn.Module):
    r"""D(x; sigma, k), an estimate of the signal s of kind k in x = s + sigma n.

        v = sigma^2 + scale^2
        D = scale^2 / v x + sigma scale / sqrt(v) F(x / sqrt(v); log sigma, k)

    F ends at zero before training, so that D starts as the best linear estimate, and what F is to
    say is of order one at every sigma. It works at a fraction of the rate. Dilated convolutions
    see the neighbourhood; attention finds places that look alike, wherever they are, which are as
    many looks at the same piece of a periodic signal.

    =============  =========  ==========  ============
    symbol         name       shape       unit
    =============  =========  ==========  ============
    :math:`x`      x          (B, T)      of the signal
    :math:`sigma`  noise_std  (B,)        of the signal
    :math:`k`      kind       (B,)        -
    =============  =========  ==========  ============

    Args:
        num_kinds: of signals, told apart by k alone.
        num_channels: of all layers, a multiple of 8.
        dilations: of the convolutions of one round.
        num_rounds: each ends with attention.
        num_heads: of it.
        stride: samples to one frame of the layers, an even number.
        scale: of the signals, their root mean square.

    Raises:
        ValueError: for channels that do not divide, or an odd stride.
        ShapeError: of `forward`, for signals whose length is no multiple of the stride.

    Reference: Karras, Aittala, Aila and Laine, 2022, "Elucidating the design space of
    diffusion-based generative models", Table 1, for the scaling.

    Example:
        >>> import torch
        >>> denoiser = Denoiser(num_channels=8, num_rounds=1)
        >>> x = torch.ones(3, 32)
        >>> denoiser(x, torch.full((3,), 0.6), torch.zeros(3, dtype=torch.long))[0, :2]
        tensor([0.5000, 0.5000], grad_fn=<SliceBackward0>)
    """

    def __init__(
        self,
        num_kinds: int = 1,
        *,
        num_channels: int = 64,
        dilations: Sequence[int] = (1, 2, 4, 8, 16, 32),
        num_rounds: int = 2,
        num_heads: int = 4,
        stride: int = 8,
        scale: float = 0.6,
    ) -> None:
        super().__init__()
        if num_channels % NUM_GROUPS or num_channels % num_heads:
            expected = f"a multiple of {NUM_GROUPS} and of num_heads={num_heads}"
            raise ValueError(mismatch("num_channels", given=num_channels, expected=expected))
        if stride < 2 or stride % 2:
            raise ValueError(mismatch("stride", given=stride, expected="an even number"))
        self.stride, self.scale = stride, scale
        at = 2 * stride, stride, stride // 2  # kernel, stride, padding
        self.input = nn.Conv1d(1, num_channels, *at)
        self.level = NoiseLevel(num_channels, floor=0.0)
        self.kind = nn.Embedding(num_kinds, num_channels)
        self.layers = nn.ModuleList(
            layer for _ in range(num_rounds)
            for layer in (*(Dilated(num_channels, d) for d in dilations),
                          Attention(num_channels, num_heads))
        )
        self.output = nn.ConvTranspose1d(num_channels, 1, *at)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        x: Tensor,  # shape: (B, T)
        noise_std: Tensor,  # sigma, shape: (B,)
        kind: Tensor,  # int64, shape: (B,)
    ) -> Tensor:  # shape: (B, T)
        """Return the estimate."""
        if x.dim() != 2 or x.shape[-1] % self.stride:
            raise misshapen("x", x.shape, f"(B, T) with T a multiple of stride={self.stride}")
        sigma = noise_std.unsqueeze(-1)
        deviation = (sigma.square() + self.scale**2).sqrt()
        told = F.silu(self.level(noise_std) + self.kind(kind))
        hidden = self.input((x / deviation).unsqueeze(1))
        for layer in self.layers:
            hidden = layer(hidden, told)
        found = self.output(F.silu(hidden)).squeeze(1)
        return (self.scale / deviation) ** 2 * x + sigma * self.scale / deviation * found


class Dilated(nn.Module):
    """Two convolutions, the first one dilated, added to what they read; nothing before training.

    Args:
        num_channels: C.
        dilation: frames between what the first one reads.
    """

    def __init__(self, num_channels: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(NUM_GROUPS, num_channels)
        self.told = nn.Linear(num_channels, 2 * num_channels)
        self.first = nn.Conv1d(
            num_channels, num_channels, 3, padding=dilation, dilation=dilation
        )
        self.second = nn.Conv1d(num_channels, num_channels, 1)
        for layer in (self.told, self.second):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        x: Tensor,  # shape: (B, C, frames)
        told: Tensor,  # shape: (B, C)
    ) -> Tensor:  # shape: (B, C, frames)
        """Return x and what the convolutions make of it, told of level and kind."""
        gain, shift = self.told(told).unsqueeze(-1).chunk(2, 1)
        return x + self.second(F.silu(self.first(F.silu(self.norm(x) * (1 + gain) + shift))))


class Attention(nn.Module):
    """Self-attention without positions, added to what it reads; nothing before training.

    Args:
        num_channels: C.
        num_heads: that divide them.
    """

    def __init__(self, num_channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.GroupNorm(NUM_GROUPS, num_channels)
        self.read = nn.Conv1d(num_channels, 3 * num_channels, 1)
        self.write = nn.Conv1d(num_channels, num_channels, 1)
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)

    def forward(
        self,
        x: Tensor,  # shape: (B, C, frames)
        told: Tensor,  # of no interest here
    ) -> Tensor:  # shape: (B, C, frames)
        """Return x and what is found where it looks alike."""
        heads = self.read(self.norm(x)).unflatten(1, (3, self.num_heads, -1))
        query, key, value = heads.transpose(-1, -2).unbind(1)
        found = F.scaled_dot_product_attention(query, key, value)
        return x + self.write(found.transpose(-1, -2).flatten(1, 2))
