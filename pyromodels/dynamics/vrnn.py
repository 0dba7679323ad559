"""VRNN, the variational recurrent neural network: everything depends on all of the past."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyromodels.dynamics.cell import Cell, Parameters
from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.emissions.base import DecodedEmission, Emission, Outputs, make_emission
from pyromodels.networks.encoders import Shared, make_encoder
from pyromodels.networks.mlp import MLP, Heads, State, before, join, lstm_step, run_lstm
from pyromodels.pyro_support.shared_work import once
from pyromodels.registry import DYNAMICS

SMALL_ENCODER = {"preset": "vrnn", "dims": (8,)}


@DYNAMICS.register("vrnn")
class VRNN(DynamicalPrior):
    r"""Variational recurrent neural network: one recursion over frames and latents.

        p(s, z) = \prod_t p(z_t | s_{<t}, z_{<t}) p(s_t | s_{<t}, z_{1:t})
        q(z|s)  = \prod_t q(z_t | s_{1:t}, z_{<t})                       encoder "vrnn"

        h_{t+1}                = LSTM([a(x_t), b(z_t)], h_t),             h_1 = 0
        z_t | s_<t, z_<t       ~ N(prior(h_t))
        s_t | s_<t, z_{1:t}    ~ emission(decoder(b(z_t), h_t))
        z_t | s_{1:t}, z_<t    ~ N(encoder(a(x_t), h_t))

    a and b are dense layers. Encoder and generative model share h and a.

    Symbols and arguments are those of `DynamicalPrior`; a and b have shapes (*batch, T, U) and
    (*batch, T, V), the sizes of the last of `input_dims` and of `latent_dims`.

    Reference: Chung et al., 2015, A recurrent latent variable model for sequential data; Girin et
    al., 2021, Dynamical variational autoencoders: a comprehensive review, section 7.

    Example:
        >>> prior = VRNN(source_dim=3, emission="spectral")
        >>> prior.sample_sources("s", 20, batch_shape=torch.Size([2])).shape
        torch.Size([2, 20, 3])
    """

    contract_specs = (
        {"source_dim": 1, "latent_dim": 1, "hidden_dim": 3},
        {"source_dim": 3, "latent_dim": 2, "emission": "spectral"},
    )
    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            "latent_dim": 16, "hidden_dim": 128, "input_dims": (256,), "latent_dims": (32, 64),
            "prior_dims": (64, 32), "decoder_dims": (256,),
            "encoder": {"preset": "vrnn", "dims": (64, 32)},
        },
        "small": {
            "latent_dim": 16, "hidden_dim": 128, "input_dims": (), "latent_dims": (64,),
            "prior_dims": (64,), "decoder_dims": (128,),
            "encoder": {"preset": "vrnn", "dims": (128,)},
        },
    }

    def __init__(
        self,
        *,
        source_dim: int = 4,
        latent_dim: int = 4,
        hidden_dim: int = 8,
        input_dims: Sequence[int] = (4,),
        latent_dims: Sequence[int] = (4,),
        prior_dims: Sequence[int] = (8,),
        decoder_dims: Sequence[int] = (16,),
        emission: str | Mapping[str, Any] | Emission = "gaussian",
        encoder: str | Mapping[str, Any] = SMALL_ENCODER,
    ) -> None:
        emission = make_emission(emission, DecodedEmission)
        sizes = {"source_dim": source_dim, "latent_dim": latent_dim}
        input, latent_input = MLP(source_dim, input_dims), MLP(latent_dim, latent_dims)
        u, v = input.out_dim, latent_input.out_dim
        encoder = make_encoder(encoder, **sizes, shared=Shared(hidden_dim, u, needs_latents=True))
        cell = VRNNCell(
            input=input,
            latent_input=latent_input,
            lstm=nn.LSTM(u + v, hidden_dim, batch_first=True),
            prior=Heads((hidden_dim,), prior_dims, latent_dim),
            decoder=Heads((v, hidden_dim), decoder_dims, source_dim, emission.outputs),
            **sizes,
        )
        super().__init__(cell, emission, encoder)


@dataclass(frozen=True, eq=False, kw_only=True)
class VRNNCell(Cell):
    """The conditionals of an `VRNN`."""

    shared = ("input", "latent_input")
    feeds_back = True

    input: MLP
    latent_input: MLP
    lstm: nn.LSTM
    prior: Heads
    decoder: Heads

    # ---- what the encoder shares

    @property
    def sharing(self) -> Shared:
        """h_t, which knows z_{<t}, and a(x_t)."""
        return Shared(self.lstm.hidden_size, self.input.out_dim, needs_latents=True)

    def features(self, x: Tensor) -> Tensor:
        """Return a(x_t), shape (*, T, U)."""
        return once(self.input, "features", (x,), lambda: self.input(x))

    def latent_features(self, z: Tensor) -> Tensor:
        """Return b(z_t), shape (*, T, V)."""
        return once(self.latent_input, "features", (z,), lambda: self.latent_input(z))

    def hidden(self, z: Tensor, x: Tensor) -> Tensor:
        """Return h, teacher-forced by one fused LSTM call; row t knows x_<t and z_<t."""

        def compute() -> Tensor:
            u = join(self.features(x), self.latent_features(z))
            return before(run_lstm(self.lstm, u))  # h_{t+1} follows frame t; h_1 = 0

        return once(self.lstm, "hidden", (z, x), compute)

    def hidden_step(self, state: State) -> Tensor:
        """Return h_t."""
        return state[0]

    # ---- every conditional at once

    def all_latents(self, z: Tensor, x: Tensor) -> Parameters:
        """Return p(z_t | h_t)."""
        return self.prior(self.hidden(z, x))

    def all_outputs(self, z: Tensor, x: Tensor, mask: Tensor | None = None) -> Outputs:
        """Return p(s_t | h_t, z_t)."""
        return self.decoder(self.latent_features(z), self.hidden(z, x))

    # ---- frame by frame

    def start(self, batch_shape: torch.Size, like: Tensor) -> State:
        """Return h_1 = 0 and the zero cell."""
        zeros = like.new_zeros(batch_shape.numel(), self.lstm.hidden_size)
        return zeros, zeros

    def latent(self, state: State) -> Parameters:
        """Return p(z_t | h_t)."""
        return self.prior(state[0])

    def outputs(self, state: State, z: Tensor) -> Outputs:
        """Return p(s_t | h_t, z_t)."""
        return self.decoder(self.latent_input(z), state[0])

    def advance(self, state: State, z: Tensor, x: Tensor) -> State:
        """Return h_{t+1} and its cell."""
        return lstm_step(self.lstm, torch.cat((self.input(x), self.latent_input(z)), -1), state)
