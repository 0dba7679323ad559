"""Attention over time: positions, Transformer encoder and decoder, generation frame by frame.

The layers are those of the original Transformer: scaled dot products, one hidden ReLU layer, and
after each the sum with its input, then the layer norm ("post-norm"); no dropout. Streams are of
shape (*, T, dim); their batch dims broadcast.

Where a frame is can be said by its number, in sines added to the streams (`positional_encoding`),
or by its distance alone, in what attention thinks of it (`relative`). The second needs no learning
to look at the last frames first, and knows sequences longer than those it was trained on.

Reference:
    A. Vaswani et al., "Attention is all you need", NeurIPS 2017.
    O. Press, N. Smith and M. Lewis, "Train short, test long: attention with linear biases enables
    input length extrapolation", ICLR 2022.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyromodels.errors import ShapeError, mismatch

KeyValues = tuple[Tensor, Tensor]
"""Keys and values of the frames seen so far, each of shape (*, num_heads, t, dim / num_heads)."""
LayerCache = tuple[KeyValues, KeyValues]
"""Those of a decoder layer's queries and of its memory."""
DecoderCache = tuple[LayerCache, ...]
"""One entry a layer. A step returns a new cache and never writes into the old one."""


def positional_encoding(
    positions: Tensor,  # shape: (*), frames counted from 0
    dim: int,
    *,
    dtype: torch.dtype | None = None,  # of the result; None: the default
) -> Tensor:  # shape: (*, dim)
    """Sines (even entries) and cosines (odd) of wavelengths from 2 pi to 10 000 * 2 pi frames.

    Example:
        >>> positional_encoding(torch.arange(2), 4)
        tensor([[0.0000, 1.0000, 0.0000, 1.0000],
                [0.8415, 0.5403, 0.0100, 0.9999]])
    """
    dtype = dtype or torch.get_default_dtype()
    wide = torch.promote_types(dtype, torch.float32)  # half precision merges frames past 2048
    even = torch.arange(0, dim, 2, dtype=wide, device=positions.device)
    angles = positions.to(wide).unsqueeze(-1) * torch.exp(even * (-math.log(10_000.0) / dim))
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)[..., :dim].to(dtype)


class Attention(nn.Module):
    """Scaled dot-product attention: frame t gets O [sum_j softmax_j(q_t . k_j / sqrt(d)) v_j].

    The queries q are an affine map of one stream, the keys k and the values v of a second, which
    may be the same; O, affine too, joins heads of size d = dim / num_heads. The bias of the keys
    cancels in the softmax and stays at its start.

    Args:
        dim: size of a frame.
        num_heads: softmaxes side by side.
        relative: whether 4^-h |t - j| is taken off the score of frame j in head h = 0, 1, ...:
            weights of equal scores fall by e over 1, 4, 16, 64 frames. The reference has slopes
            that depend on the number of heads.

    Raises:
        ValueError: where heads do not divide `dim`.
    """

    def __init__(self, dim: int, *, num_heads: int = 1, relative: bool = False) -> None:
        super().__init__()
        if dim % num_heads:
            expected = f"a divisor of dim = {dim}"
            raise ValueError(mismatch("num_heads", given=num_heads, expected=expected))
        self.num_heads, self.relative = num_heads, relative
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(
        self,
        queries: Tensor,  # shape: (*, T, dim)
        memory: Tensor,  # frame t beside frame t of the queries, shape: (*, T, dim)
        *,
        causal: bool = False,
        mask: Tensor | None = None,  # True where a frame of memory counts, shape: (*, T)
    ) -> Tensor:  # shape: (*, T, dim)
        """Return what every query gathers from `memory`, of its own past and present if causal.

        A frame that does not count is read only by the query beside it, whose result does not
        count either: no softmax is empty.

        Raises:
            ShapeError: where streams and mask are not of one length.
        """
        num_frames = queries.shape[-2]
        for name, stream in (("memory", memory[..., 0]), ("mask", mask)):
            if stream is not None and stream.shape[-1] != num_frames:
                given, expected = f"{stream.shape[-1]} frames", f"{num_frames}, as the queries"
                raise ShapeError(mismatch(name, given=given, expected=expected))
        if mask is not None:
            mask = mask.unsqueeze(-2) | torch.eye(num_frames, dtype=torch.bool, device=mask.device)
            mask = (mask.tril() if causal else mask).unsqueeze(-3)
        return self._read(queries, self.keys_values(memory), mask, causal and mask is None)

    def step(self, query: Tensor, memory: Tensor, past: KeyValues) -> tuple[Tensor, KeyValues]:
        """Return frame t of the causal pass, and what is kept now; frames are (*, dim)."""
        keys, values = self.keys_values(memory.unsqueeze(-2))
        seen = torch.cat((past[0], keys), -2), torch.cat((past[1], values), -2)
        return self._read(query.unsqueeze(-2), seen, None, False).squeeze(-2), seen

    def keys_values(self, memory: Tensor) -> KeyValues:
        """Return what is kept of a stream (*, T, dim); T = 0 gives what `step` starts from."""
        return self._heads(self.key(memory)), self._heads(self.value(memory))

    def _heads(self, x: Tensor) -> Tensor:  # (*, T, dim) to (*, num_heads, T, d)
        return x.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)

    def _read(self, queries: Tensor, seen: KeyValues, mask: Tensor | None, causal: bool) -> Tensor:
        query = self._heads(self.query(queries))
        if self.relative:
            mask, causal = self._biases(query, seen[0].shape[-2], mask, causal), False
        parts = (query, *seen, *(() if mask is None else (mask,)))
        batch = torch.broadcast_shapes(*(x.shape[:-3] for x in parts))
        # the fused kernels take exactly one batch dim
        parts = (x.expand(*batch, *x.shape[-3:]).reshape(-1, *x.shape[-3:]) for x in parts)
        heads = F.scaled_dot_product_attention(*parts, is_causal=causal)
        joined = heads.transpose(-2, -3).flatten(-2)
        return self.out(joined.reshape(*batch, *joined.shape[-2:]))

    def _biases(
        self,
        query: Tensor,  # of the last frames seen, shape: (*, num_heads, T, d)
        num_seen: int,
        mask: Tensor | None,
        causal: bool,
    ) -> Tensor:  # shape: (*, num_heads, T, num_seen)
        frames = torch.arange(num_seen, device=query.device)
        distance = frames[num_seen - query.shape[-2] :, None] - frames
        slopes = (4.0 ** -torch.arange(self.num_heads, device=query.device)).to(query)
        biases = -slopes[:, None, None] * distance.abs()
        if causal:
            mask = distance >= 0
        return biases if mask is None else biases.masked_fill(~mask, -math.inf)


def _feed_forward(dim: int, hidden_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, dim))


class EncoderLayer(nn.Module):
    """Self-attention over all frames, then a feed-forward network; arguments as `Encoder`."""

    def __init__(self, dim: int, *, ff_dim: int, **attention: Any) -> None:
        super().__init__()
        self.self_attention = Attention(dim, **attention)
        self.feed_forward = _feed_forward(dim, ff_dim)
        self.self_norm, self.norm = (nn.LayerNorm(dim) for _ in range(2))

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Return the layer's frames (*, T, dim), given frames (*, T, dim) and mask (*, T)."""
        x = self.self_norm(x + self.self_attention(x, x, mask=mask))
        return self.norm(x + self.feed_forward(x))


class Encoder(nn.Module):
    """A stack of `EncoderLayer`: every frame of the result knows every frame that counts.

    Args:
        dim: size of a frame, in and out.
        num_layers: layers in the stack.
        ff_dim: size of the hidden layer of the feed-forward networks.
        num_heads, relative: of the attention, see `Attention`.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> x, encoder = torch.randn(3, 5, 8), Encoder(8, num_layers=2, ff_dim=16)
        >>> mask = torch.arange(5) < torch.tensor([[5], [4], [2]])
        >>> torch.allclose(encoder(x, mask=mask)[2, :2], encoder(x[2, :2]), atol=1e-6)
        True
    """

    def __init__(self, dim: int, *, num_layers: int, **layer: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(dim, **layer) for _ in range(num_layers))

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Return the last layer's frames (*, T, dim), given frames (*, T, dim) and mask (*, T)."""
        for layer in self.layers:
            x = layer(x, mask=mask)
        return x


class DecoderLayer(nn.Module):
    """Causal attention to the queries themselves, then to a second stream, then feed-forward."""

    def __init__(
        self, dim: int, *, ff_dim: int, residual: bool = True, **attention: Any
    ) -> None:
        super().__init__()
        self.residual = residual
        self.self_attention, self.cross_attention = (Attention(dim, **attention) for _ in range(2))
        self.feed_forward = _feed_forward(dim, ff_dim)
        self.self_norm, self.cross_norm, self.norm = (nn.LayerNorm(dim) for _ in range(3))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Return the layer's frames; all streams are (*, T, dim)."""
        x = self.self_norm(self._sum(x, self.self_attention(x, x, causal=True)))
        x = self.cross_norm(self._sum(x, self.cross_attention(x, memory, causal=True)))
        return self.norm(x + self.feed_forward(x))

    def step(self, x: Tensor, memory: Tensor, past: LayerCache) -> tuple[Tensor, LayerCache]:
        """Return frame t, and what both attentions keep now; frames are (*, dim)."""
        gathered, own = self.self_attention.step(x, x, past[0])
        x = self.self_norm(self._sum(x, gathered))
        gathered, other = self.cross_attention.step(x, memory, past[1])
        x = self.cross_norm(self._sum(x, gathered))
        return self.norm(x + self.feed_forward(x)), (own, other)

    def _sum(self, x: Tensor, gathered: Tensor) -> Tensor:
        return x + gathered if self.residual else gathered


class Decoder(nn.Module):
    """A stack of `DecoderLayer`: frame t of the result knows frames 1..t of queries and memory.

    Padding at the end is not seen: mixed lengths need no mask. A memory of the past is shifted
    right by the caller.

    Args:
        dim, num_layers, ff_dim, num_heads, relative: as `Encoder`.
        residual: False removes the residual connections of self- and cross-attention: both sums
            drop their input, so that queries only weigh the memory's values ("NRC" in the
            reference, which scores the same with queries of true and of generated frames). The one
            around the feed-forward network stays: its input is what cross-attention gathered.

    Reference:
        X. Lin et al., "Speech modeling with a hierarchical Transformer dynamical VAE", ICASSP 2023.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> decoder = Decoder(8, num_layers=2, ff_dim=16)
        >>> queries, memory = torch.randn(2, 3, 5, 8)
        >>> frames, cache = [], decoder.init_cache(queries[:, 0])
        >>> for query, known in zip(queries.unbind(1), memory.unbind(1)):
        ...     frame, cache = decoder.step(query, known, cache)
        ...     frames.append(frame)
        >>> torch.allclose(torch.stack(frames, 1), decoder(queries, memory), atol=1e-6)
        True
    """

    def __init__(self, dim: int, *, num_layers: int, **layer: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(dim, **layer) for _ in range(num_layers))

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Return the last layer's frames; all streams are (*, T, dim)."""
        for layer in self.layers:
            queries = layer(queries, memory)
        return queries

    def init_cache(self, like: Tensor) -> DecoderCache:
        """Return the cache before frame 1, for frames like this one (*, dim)."""
        none = like.new_zeros(*like.shape[:-1], 0, like.shape[-1])
        pairs = ((layer.self_attention, layer.cross_attention) for layer in self.layers)
        return tuple((own.keys_values(none), other.keys_values(none)) for own, other in pairs)

    def step(
        self,
        query: Tensor,  # frame t, shape: (*, dim)
        memory: Tensor,  # frame t, shape: (*, dim)
        cache: DecoderCache,  # frames 1..t-1
    ) -> tuple[Tensor, DecoderCache]:  # shape: (*, dim); frames 1..t
        """Return frame t of the full pass, at a cost of O(t), and the cache of the next step."""
        kept = []
        for layer, past in zip(self.layers, cache, strict=True):
            query, seen = layer.step(query, memory, past)
            kept.append(seen)
        return query, tuple(kept)
