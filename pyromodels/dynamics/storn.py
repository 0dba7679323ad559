"""STORN, the stochastic recurrent network: one recursion driven by noise and by the past."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from pyromodels.dynamics.cell import Cell, Parameters, standard_normal
from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.emissions.base import DecodedEmission, Emission, Outputs, make_emission
from pyromodels.networks.encoders import make_encoder
from pyromodels.networks.mlp import MLP, Heads, State, before, join, lstm_step, run_lstm
from pyromodels.registry import DYNAMICS

SMALL_ENCODER = {"preset": "storn", "summary_dim": 8, "dims": (8,)}


@DYNAMICS.register("storn")
class STORN(DynamicalPrior):
    r"""Stochastic recurrent network: independent latents enter the recursion of an LSTM.

        p(s, z) = \prod_t p(z_t) p(s_t | s_{<t}, z_{1:t})
        q(z|s)  = \prod_t q(z_t | s_{1:t})                               encoder "storn"

        z_t                 ~ N(0, I)
        h_t                 = LSTM([dense(z_t), dense(x_{t-1})], h_{t-1}),  h_0 = 0, x_0 = 0
        s_t | s_<t, z_{1:t}  ~ emission(decoder(h_t))
        z_t | s_{1:t}        ~ N(encoder(LSTM(x_{1:t})))

    Symbols and arguments are those of `DynamicalPrior`.

    Departure: the paper's q(z_t) reads s_{<=t} by a plain recurrent network, and its generative
    network is plain too; both are LSTMs here, as in the published weights.

    Reference: Bayer and Osendorfer, 2014, Learning stochastic recurrent networks; Girin et al.,
    2021, Dynamical variational autoencoders: a comprehensive review, section 6.

    Example:
        >>> prior = STORN(source_dim=3, emission="spectral")
        >>> prior.sample_sources("s", 20, batch_shape=torch.Size([2])).shape
        torch.Size([2, 20, 3])
    """

    contract_specs = (
        {"source_dim": 1, "latent_dim": 1, "hidden_dim": 3},
        {"source_dim": 3, "latent_dim": 2, "emission": "spectral"},
    )
    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            "latent_dim": 16, "hidden_dim": 128, "latent_dims": (32, 64), "input_dims": (256,),
            "decoder_dims": (256,),
            "encoder": {
                "preset": "storn", "input_dims": (256,), "summary_dim": 128, "dims": (64, 32),
            },
        },
        "small": {  # dense layers keep hundreds of x from drowning 16 z in the gates they share
            "latent_dim": 16, "hidden_dim": 128, "latent_dims": (64,), "input_dims": (64,),
            "decoder_dims": (128,),
            "encoder": {"preset": "storn", "summary_dim": 128, "dims": (128,)},
        },
    }

    def __init__(
        self,
        *,
        source_dim: int = 4,
        latent_dim: int = 4,
        hidden_dim: int = 8,
        latent_dims: Sequence[int] = (),
        input_dims: Sequence[int] = (4,),
        decoder_dims: Sequence[int] = (),
        emission: str | Mapping[str, Any] | Emission = "gaussian",
        encoder: str | Mapping[str, Any] = SMALL_ENCODER,
    ) -> None:
        emission = make_emission(emission, DecodedEmission)
        sizes = {"source_dim": source_dim, "latent_dim": latent_dim}
        encoder = make_encoder(encoder, **sizes)
        latent_input, input = MLP(latent_dim, latent_dims), MLP(source_dim, input_dims)
        width = latent_input.out_dim + input.out_dim
        cell = STORNCell(
            latent_input=latent_input,
            input=input,
            lstm=nn.LSTM(width, hidden_dim, batch_first=True),
            decoder=Heads((hidden_dim,), decoder_dims, source_dim, emission.outputs),
            **sizes,
        )
        super().__init__(cell, emission, encoder)


@dataclass(frozen=True, eq=False, kw_only=True)
class STORNCell(Cell):
    """The conditionals of an `STORN`."""

    feeds_back = True

    latent_input: MLP
    input: MLP
    lstm: nn.LSTM
    decoder: Heads

    def all_latents(self, z: Tensor, x: Tensor) -> Parameters:
        """Return p(z_t)."""
        return standard_normal(z)

    def all_outputs(self, z: Tensor, x: Tensor, mask: Tensor | None = None) -> Outputs:
        """Return p(s_t | s_<t, z_{1:t})."""
        u = join(self.latent_input(z), self.input(before(x)))
        return self.decoder(run_lstm(self.lstm, u))

    def start(self, batch_shape: torch.Size, like: Tensor) -> "STORNState":
        """Return h_0 = 0 and x_0 = 0."""
        zeros = like.new_zeros(batch_shape.numel(), self.lstm.hidden_size)
        return STORNState((zeros, zeros), like.new_zeros(batch_shape.numel(), self.source_dim))

    def latent(self, state: "STORNState") -> Parameters:
        """Return p(z_t)."""
        return standard_normal(state.x.new_zeros(len(state.x), self.latent_dim))

    def outputs(self, state: "STORNState", z: Tensor) -> Outputs:
        """Return p(s_t | s_<t, z_{1:t})."""
        return self.decoder(self._recur(state, z)[0])

    def advance(self, state: "STORNState", z: Tensor, x: Tensor) -> "STORNState":
        """Return h_t and x_t."""
        return STORNState(self._recur(state, z), x)

    def _recur(self, state: "STORNState", z: Tensor) -> State:
        u = torch.cat((self.latent_input(z), self.input(state.x)), -1)
        return lstm_step(self.lstm, u, state.memory)


class STORNState(NamedTuple):
    """What a STORN knows before frame t."""

    memory: State  # h_{t-1} and the LSTM's cell
    x: Tensor  # x_{t-1}, shape: (rows, D)
