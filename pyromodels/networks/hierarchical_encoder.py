"""The inference network of a hierarchical dynamical VAE: w, and z of every frame given w."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from pyromodels.networks import attention
from pyromodels.networks.encoders import Inferred
from pyromodels.networks.mlp import MLP, Heads, driven, join, rows
from pyromodels.pyro_support.shared_work import once

FIRST_LOG_VARIANCE = -6.0
"""Of q(z) and q(w) before training. What an untrained encoder says of s is then not buried in noise
of the prior's size, and the decoder does not learn, before anything else, to do without it."""


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
    ) -> tuple[Tensor, Tensor]:  # each (*batch, L_w)
        """Return q(w | x)."""
        features = self._features(x)
        if mask is not None:
            batch = torch.broadcast_shapes(features.shape[:-1], mask.shape)
            features, mask = features.expand(*batch, features.shape[-1]), mask.expand(batch)
        _, (last, _) = self.lstm(_packed(rows(features), mask))  # last: (layers * 2, rows, H)
        return self.global_head(last[-2:].movedim(0, -2).reshape(*features.shape[:-2], -1))

    def parameters_of(
        self,
        cell: Any,  # told w
        z: Tensor,  # read for its batch shape alone; shape: (*, T, L_z)
        x: Tensor,  # shape: (*, T, D)
        mask: Tensor | None = None,  # shape: broadcastable to (*, T)
    ) -> tuple[Tensor, Tensor]:  # each (*, T, L_z)
        """Return q(z_t | x, w) of every frame."""
        mean, log_variance = self._local_parameters(x, cell.w, mask)
        shape = torch.broadcast_shapes(mean.shape, z.shape)
        return mean.expand(shape), log_variance.expand(shape)

    def infer(
        self,
        cell: Any,  # told w
        x: Tensor,  # shape: (*batch, T, D)
        *,
        noise: Tensor | None,  # shape: (*batch, T, L_z); None: z is the mean
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
    ) -> Inferred:
        """Return z driven by the noise."""
        mean, log_variance = self._local_parameters(x, cell.w, mask)
        z = driven(mean, log_variance, noise)
        return Inferred(z, mean.expand_as(z), log_variance.expand_as(z))

    def _local_parameters(self, x: Tensor, w: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
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
