"""What HiT-DVAE and LigHT-DVAE have in common: Transformer networks over s, z and w."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from pyromodels.dynamics.cell import Cell, Parameters
from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.emissions.base import DecodedEmission, Emission, Outputs, make_emission
from pyromodels.errors import mismatch
from pyromodels.networks import attention
from pyromodels.networks.encoders import Inferred
from pyromodels.networks.mlp import MLP, Heads, before, driven, join, rows
from pyromodels.pyro_support.shared_work import once

FIRST_LOG_VARIANCE = -6.0
"""Of q(z) and q(w) before training. What an untrained encoder says of s is then not buried in noise
of the prior's size, and the decoder does not learn, before anything else, to do without it."""
Streams = tuple[Tensor, Tensor]
"""Queries, and what keys and values are made of; each (*, model_dim)."""


class HierarchicalTransformer(DynamicalPrior):
    r"""A `DynamicalPrior` with w, of Transformer decoders and one Transformer encoder.

        e_t                      = embed(x_{t-1}),  x_0 = 0
        s_t | s_<t, z_<=t, w     ~ emission(head(decoder_s(queries [z_t, w], memory e_t)))
        z_t | s_<t, z_<t, w      ~ N(head(decoder_z(...)))           what a subclass says

    Every conditional reads frames 1..t of two streams, by causal attention. Streams are functions
    of single frames, so that a pass over all frames and a step with cached keys and values are one
    statement.

    Departure: the size "small" attends by distance with four heads, where the reference numbers
    frames and finds one head best, and q(z) and q(w) of every size start narrow
    (`FIRST_LOG_VARIANCE`). On 25 minutes of speech both, with a rate that warms up and shorter
    segments, take true-history SI-SDR from 7.4 to 10.4 dB. Of the narrow start alone: after 600
    steps HiT-DVAE has -1045 nats a frame of reconstruction with true histories and -865 with its
    own, else -974 and -60.

    Args:
        source_dim: D.
        latent_dim: L_z.
        global_dim: L_w.
        model_dim: size of a frame inside the Transformers.
        num_layers: of the encoder and of each decoder.
        num_heads: of every attention.
        positions: "absolute" adds sines and cosines of the frame number to all streams, as
            published; "relative" lets attention fall off with distance (`attention.Attention`),
            which learns from far less data, and is at home in sequences of any length. It wants
            several heads: the first, alone, sees a few frames. The encoder knows then how far a
            frame is and not on which side: given w, q(z | s) of a path run backwards is that of
            the path, backwards.
        ff_dim: hidden size of the feed-forward layers.
        feature_dims: tanh layers from x_t to what the encoder reads.
        summary_dim: of the LSTM that reads w off these features.
        summary_layers: of that LSTM.
        inverted: whether queries and memory change places in the decoder of s ("Inv-s").
        residual: False leaves the residual connections of attention out of the decoder of s
            ("NRC"). At the first frame, of which memory alone then tells, queries count for
            nothing.
        emission: see `pyromodels.emissions`.
    """

    cell_type: ClassVar[type[TransformerCell]]
    """What says which streams the decoder of z reads."""

    contract_specs = tuple(
        {
            "latent_dim": 2, "global_dim": 2, "model_dim": 4, "num_layers": 1, "ff_dim": 6,
            "feature_dims": (4,), "summary_dim": 3, "summary_layers": 1, **more,
        }
        for more in (
            {"source_dim": 1, "latent_dim": 1, "summary_layers": 2},
            {"source_dim": 2, "num_layers": 2, "num_heads": 2},
            {"source_dim": 2, "num_heads": 2, "positions": "relative"},
            {"source_dim": 3, "emission": "spectral"},
            {"source_dim": 2, "inverted": True},
            {"source_dim": 2, "residual": False},
        )
    )
    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            "latent_dim": 16, "global_dim": 32, "model_dim": 256, "num_layers": 4, "num_heads": 1,
            "ff_dim": 1024, "feature_dims": (256, 256), "summary_dim": 512, "summary_layers": 2,
        },
        "small": {
            "latent_dim": 16, "global_dim": 32, "model_dim": 96, "num_layers": 2, "num_heads": 4,
            "positions": "relative", "ff_dim": 256, "feature_dims": (128, 96), "summary_dim": 64,
            "summary_layers": 1,
        },
    }  # fmt: skip

    def __init__(
        self,
        *,
        source_dim: int = 4,
        latent_dim: int = 4,
        global_dim: int = 4,
        model_dim: int = 32,
        num_layers: int = 2,
        num_heads: int = 1,
        positions: Literal["absolute", "relative"] = "absolute",
        ff_dim: int = 64,
        feature_dims: Sequence[int] = (32,),
        summary_dim: int = 32,
        summary_layers: int = 1,
        inverted: bool = False,
        residual: bool = True,
        emission: str | Mapping[str, Any] | Emission = "gaussian",
    ) -> None:
        if positions not in ("absolute", "relative"):
            expected = "absolute or relative"
            raise ValueError(mismatch("positions", given=repr(positions), expected=expected))
        emission = make_emission(emission, DecodedEmission)
        layers = {
            "num_layers": num_layers, "num_heads": num_heads, "ff_dim": ff_dim,
            "relative": positions == "relative",
        }  # fmt: skip
        encoder = HierarchicalEncoder(
            source_dim,
            latent_dim,
            global_dim,
            model_dim=model_dim,
            feature_dims=feature_dims,
            summary_dim=summary_dim,
            summary_layers=summary_layers,
            **layers,
        )
        cell = self.cell_type(
            source_dim=source_dim,
            latent_dim=latent_dim,
            inverted=inverted,
            relative=positions == "relative",
            source_embedding=nn.Linear(source_dim, model_dim),
            latent_embedding=nn.Linear(latent_dim + global_dim, model_dim),
            source_decoder=attention.Decoder(model_dim, residual=residual, **layers),
            source_head=Heads((model_dim,), (), source_dim, emission.outputs),
            latent_head=Heads((model_dim,), (), latent_dim),
            **self.cell_type.latent_networks(latent_dim, global_dim, model_dim, layers),
        )
        super().__init__(cell, emission, encoder, global_dim=global_dim)


@dataclass(frozen=True, eq=False, kw_only=True)
class TransformerCell(Cell):
    """The conditionals of a `HierarchicalTransformer`, but for what the decoder of z reads."""

    feeds_back = True

    inverted: bool
    relative: bool
    source_embedding: nn.Linear
    latent_embedding: nn.Linear
    source_decoder: attention.Decoder
    source_head: Heads
    latent_head: Heads

    @property
    @abstractmethod
    def decoder_of_z(self) -> attention.Decoder:
        """The decoder of z."""

    @staticmethod
    def latent_networks(
        latent_dim: int, global_dim: int, model_dim: int, layers: dict[str, Any]
    ) -> dict[str, nn.Module]:
        """Return what is particular to the decoder of z, by the name of its field."""
        return {}

    @abstractmethod
    def latent_streams(
        self,
        z_before: Tensor,  # z_{t-1}, shape: (*, L_z)
        embedded: Tensor,  # e_t, shape: (*, model_dim)
        w: Tensor,  # shape: (*, L_w)
    ) -> Streams:
        """Return what the decoder of z reads at frame t."""

    def source_streams(
        self,
        z: Tensor,  # z_t, shape: (*, L_z)
        embedded: Tensor,  # e_t, shape: (*, model_dim)
        w: Tensor,  # shape: (*, L_w)
    ) -> Streams:
        """Return what the decoder of s reads at frame t."""
        latents = self.latent_embedding(join(z, w))
        return (embedded, latents) if self.inverted else (latents, embedded)

    # ---- all frames at once

    def all_latents(self, z: Tensor, x: Tensor) -> Parameters:
        """Return p(z_t | x_<t, z_<t, w)."""
        streams = self.latent_streams(before(z), self._embedded(x), self.w.unsqueeze(-2))
        return self.latent_head(self.decoder_of_z(*self._placed(streams)))

    def all_outputs(self, z: Tensor, x: Tensor, mask: Tensor | None = None) -> Outputs:
        """Return p(s_t | x_<t, z_<=t, w)."""
        streams = self.source_streams(z, self._embedded(x), self.w.unsqueeze(-2))
        return self.source_head(self.source_decoder(*self._placed(streams)))

    def _embedded(self, x: Tensor) -> Tensor:
        embed = self.source_embedding
        return once(embed, "embedded", (x,), lambda: embed(before(x)))

    # ---- frame by frame

    def start(self, batch_shape: torch.Size, like: Tensor) -> TransformerState:
        """Return z_0 = 0, x_0 = 0, and decoders that have read nothing."""
        w = self.w.expand(*batch_shape, -1).reshape(-1, self.w.shape[-1])
        x, z = w.new_zeros(len(w), self.source_dim), w.new_zeros(len(w), self.latent_dim)
        embedded = self.source_embedding(x)
        source, latent = (
            Reader(decoder, decoder.init_cache(embedded))
            for decoder in (self.source_decoder, self.decoder_of_z)
        )
        return TransformerState(0, w, z, embedded, source, latent)

    def latent(self, state: TransformerState) -> Parameters:
        """Return p(z_t | x_<t, z_<t, w)."""
        return self.latent_head(state.latent.read(state.z_before, self._latent_frame(state)))

    def outputs(self, state: TransformerState, z: Tensor) -> Outputs:
        """Return p(s_t | x_<t, z_<=t, w)."""
        return self.source_head(state.source.read(z, self._source_frame(state, z)))

    def advance(self, state: TransformerState, z: Tensor, x: Tensor) -> TransformerState:
        """Return what is known after z_t and x_t."""
        return TransformerState(
            state.t + 1,
            state.w,
            z,
            self.source_embedding(x),
            state.source.after(z, self._source_frame(state, z)),
            state.latent.after(state.z_before, self._latent_frame(state)),
        )

    def _source_frame(self, state: TransformerState, z: Tensor) -> Streams:
        return self._placed(self.source_streams(z, state.embedded, state.w), state.t)

    def _latent_frame(self, state: TransformerState) -> Streams:
        return self._placed(self.latent_streams(state.z_before, state.embedded, state.w), state.t)

    def _placed(self, streams: Streams, t: int | None = None) -> Streams:
        return streams if self.relative else placed(streams, t)


class TransformerState(NamedTuple):
    """What the networks know before frame t + 1."""

    t: int
    w: Tensor  # shape: (rows, L_w)
    z_before: Tensor  # z_t, shape: (rows, L_z)
    embedded: Tensor  # e_{t+1}, of x_t; shape: (rows, model_dim)
    source: Reader
    latent: Reader


class Reader:
    """A decoder before some frame: it reads a frame when asked what it says there, and once.

    A frame is asked for twice, by its law and by the state after it, and sometimes by neither law:
    then it is kept until a later one is read.

    Args:
        decoder: the decoder.
        cache: of the frames it has read.
        unread: the frames it will have to read before the next one.
    """

    def __init__(
        self,
        decoder: attention.Decoder,
        cache: attention.DecoderCache,
        unread: tuple[Streams, ...] = (),
    ) -> None:
        self.decoder, self.cache, self.unread = decoder, cache, unread
        self._last: tuple[Tensor, attention.DecoderCache] | None = None

    def read(
        self,
        z: Tensor,  # which frame it is
        frame: Streams,  # each (rows, model_dim)
    ) -> Tensor:  # shape: (rows, model_dim)
        """Return what the decoder says at this frame."""
        for late in self.unread:
            _, self.cache = self.decoder.step(*late, self.cache)
        self.unread = ()
        said, cache = self.decoder.step(*frame, self.cache)
        self._last = z, cache
        return said

    def after(self, z: Tensor, frame: Streams) -> Reader:
        """Return the decoder after this frame."""
        if self._last is not None and _one(self._last[0], z):
            return Reader(self.decoder, self._last[1])
        return Reader(self.decoder, self.cache, (*self.unread, frame))


class HierarchicalEncoder(nn.Module):
    r"""q(w | s_{1:T}) \prod_t q(z_t | s_{1:T}, w), by an LSTM and a Transformer encoder.

        f_t                  = features(x_t)
        w | s_{1:T}          ~ N(head(LSTM(f_{1:T})))                              (7.7)
        z_t | s_{1:T}, w     ~ N(head(encoder_t(embed([f_{1:T}, w]))))             (7.8)

    The LSTM is bidirectional; w is read off the last state of either direction, of the last frame
    and of the first. Padding is read by neither network.

    Departure: the reference keeps the output of frame T, whose backward half has read that frame
    alone; the recurrent weights of that half would never get a gradient. Sizes are the same.
    """

    direction = "both"
    recurs = False

    def __init__(
        self,
        source_dim: int,
        latent_dim: int,
        global_dim: int,
        *,
        model_dim: int,
        feature_dims: Sequence[int],
        summary_dim: int,
        summary_layers: int,
        **layers: Any,
    ) -> None:
        super().__init__()
        self.relative = layers["relative"]
        self.features = MLP(source_dim, feature_dims)
        self.lstm = nn.LSTM(
            self.features.out_dim, summary_dim, summary_layers, bidirectional=True, batch_first=True
        )
        self.global_head = Heads((2 * summary_dim,), (), global_dim)
        self.embedding = nn.Linear(self.features.out_dim + global_dim, model_dim)
        self.encoder = attention.Encoder(model_dim, **layers)
        self.latent_head = Heads((model_dim,), (), latent_dim)
        for head in (self.global_head, self.latent_head):
            nn.init.constant_(head.log_variance.bias, FIRST_LOG_VARIANCE)

    def global_parameters(
        self,
        x: Tensor,  # shape: (*batch, T, D)
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
    ) -> Parameters:  # each (*batch, L_w)
        """Return q(w | x)."""
        features = self._features(x)
        if mask is not None:
            batch = torch.broadcast_shapes(features.shape[:-1], mask.shape)
            features, mask = features.expand(*batch, features.shape[-1]), mask.expand(batch)
        _, (last, _) = self.lstm(_packed(rows(features), mask))  # last: (layers * 2, rows, H)
        return self.global_head(last[-2:].movedim(0, -2).reshape(*features.shape[:-2], -1))

    def parameters_of(
        self,
        cell: Cell,
        z: Tensor,  # read for its batch shape alone; shape: (*, T, L_z)
        x: Tensor,  # shape: (*, T, D)
        mask: Tensor | None = None,  # shape: broadcastable to (*, T)
    ) -> Parameters:  # each (*, T, L_z)
        """Return q(z_t | x, w) of every frame."""
        mean, log_variance = self._local_parameters(x, cell.w, mask)
        shape = torch.broadcast_shapes(mean.shape, z.shape)
        return mean.expand(shape), log_variance.expand(shape)

    def infer(
        self,
        cell: Cell,
        x: Tensor,  # shape: (*batch, T, D)
        *,
        noise: Tensor | None,  # shape: (*batch, T, L_z); None: z is the mean
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
    ) -> Inferred:
        """Return z driven by the noise."""
        mean, log_variance = self._local_parameters(x, cell.w, mask)
        z = driven(mean, log_variance, noise)
        return Inferred(z, mean.expand_as(z), log_variance.expand_as(z))

    def _local_parameters(self, x: Tensor, w: Tensor, mask: Tensor | None) -> Parameters:
        frames = self.embedding(join(self._features(x), w.unsqueeze(-2)))
        if not self.relative:
            (frames,) = placed((frames,))
        return self.latent_head(self.encoder(frames, mask=mask))

    def _features(self, x: Tensor) -> Tensor:
        return once(self, "features", (x,), lambda: self.features(x))


def placed(
    streams: tuple[Tensor, ...],  # each (*, T, model_dim), or (*, model_dim) at one frame t
    t: int | None = None,
) -> tuple[Tensor, ...]:
    """Add to streams the positions of their frames."""
    like = streams[0]
    if t is None:
        positions = torch.arange(like.shape[-2], device=like.device)
    else:
        positions = torch.tensor(t, device=like.device)
    encoded = attention.positional_encoding(positions, like.shape[-1], dtype=like.dtype)
    return tuple(stream + encoded for stream in streams)


def _packed(
    frames: Tensor,  # shape: (rows, T, X)
    mask: Tensor | None,  # shape: (*batch, T)
) -> Any:
    """Leave out padding, which is at the end, so that an LSTM's last state is of the last frame."""
    if mask is None:
        return frames
    lengths = mask.reshape(len(frames), -1).sum(-1).clamp_min(1).cpu()
    return pack_padded_sequence(frames, lengths, batch_first=True, enforce_sorted=False)


def _one(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors are one: the same memory, seen alike."""
    return left is right or (
        left.is_set_to(right) and left.requires_grad == right.requires_grad
    )
