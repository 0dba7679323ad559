"""RVAE, the recurrent variational autoencoder: independent latents, a decoder with a memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from pyromodels.dynamics.cell import Cell, Parameters, standard_normal
from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.emissions.base import DecodedEmission, Emission, Outputs, make_emission
from pyromodels.networks.encoders import make_encoder
from pyromodels.networks.mlp import MLP, Heads, State, lstm_step, rows, run_lstm, run_lstm_backward
from pyromodels.registry import DYNAMICS

SMALL_ENCODER = {"summary_dim": 8, "feedback_dim": 8, "dims": (8,)}


@DYNAMICS.register("rvae")
class RVAE(DynamicalPrior):
    r"""Recurrent variational autoencoder, causal or not.

        p(s, z) = \prod_t p(z_t) p(s_t | z_{1:t})                        causal
                  \prod_t p(z_t) p(s_t | z_{1:T})                        not causal
        q(z|s)  = \prod_t q(z_t | s_{t:T}, z_{<t})                       encoder "rvae"
                  \prod_t q(z_t | s_{1:T}, z_{<t})                       encoder "rvae_noncausal"

        z_t           ~ N(0, I)
        h_t           = LSTM(dense(z_t), h_{t-1})                        causal
                        [LSTM(dense(z_{1:t})), LSTM(dense(z_{T:t}))]     not causal
        s_t | z       ~ emission(decoder(h_t))
        z_t | s, z_<t ~ N(encoder(LSTM(x_{T:t}) [, LSTM(x_{1:t})], LSTM(z_{<t})))

    A decoder that is not causal says nothing of s_1 before all of z is there: frame by frame, z is
    rolled out first, which it can be because p(z) reads no s (`foresee`).

    Symbols and arguments are those of `DynamicalPrior`; h has size 2H where it is not causal.

    Reference: Leglaive, Alameda-Pineda, Girin and Horaud, 2020, A recurrent variational autoencoder
    for speech enhancement; Girin et al., 2021, Dynamical variational autoencoders, section 9.

    Args:
        causal: whether the decoder reads z_{1:t} alone; the encoder's preset follows it, where its
            table names none.

    Example:
        >>> prior = RVAE(source_dim=3, emission="spectral", causal=False)
        >>> prior.sample_sources("s", 20, batch_shape=torch.Size([2])).shape
        torch.Size([2, 20, 3])
    """

    contract_specs = (
        {"source_dim": 1, "latent_dim": 1, "hidden_dim": 3},
        {"source_dim": 1, "latent_dim": 1, "hidden_dim": 3, "causal": False},
        {"source_dim": 3, "latent_dim": 2, "emission": "spectral"},
    )
    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            "latent_dim": 16, "hidden_dim": 128, "latent_dims": (32, 64), "decoder_dims": (256,),
            "encoder": {
                "input_dims": (256,), "summary_dim": 128,
                "feedback_dims": (32, 64), "feedback_dim": 128, "dims": (64, 32),
            },
        },
        "paper_513": {
            "latent_dim": 16, "hidden_dim": 128,
            "encoder": {"summary_dim": 128, "feedback_dim": 128, "dims": (128,)},
        },
        "small": {
            "latent_dim": 16, "hidden_dim": 128,
            "encoder": {"summary_dim": 128, "feedback_dim": 128, "dims": (128,)},
        },
    }

    def __init__(
        self,
        *,
        source_dim: int = 4,
        latent_dim: int = 4,
        hidden_dim: int = 8,
        causal: bool = True,
        latent_dims: Sequence[int] = (),
        decoder_dims: Sequence[int] = (),
        emission: str | Mapping[str, Any] | Emission = "gaussian",
        encoder: str | Mapping[str, Any] = SMALL_ENCODER,
    ) -> None:
        emission = make_emission(emission, DecodedEmission)
        sizes = {"source_dim": source_dim, "latent_dim": latent_dim}
        if not isinstance(encoder, str):
            encoder = {"preset": "rvae" if causal else "rvae_noncausal", **encoder}
        encoder = make_encoder(encoder, **sizes)
        latent_input = MLP(latent_dim, latent_dims)
        lstm = nn.LSTM(latent_input.out_dim, hidden_dim, batch_first=True)
        backward_lstm, read = None, (hidden_dim,)
        if not causal:
            backward_lstm = nn.LSTM(latent_input.out_dim, hidden_dim, batch_first=True)
            read = (hidden_dim, hidden_dim)
        cell = RVAECell(
            latent_input=latent_input,
            lstm=lstm,
            backward_lstm=backward_lstm,
            decoder=Heads(read, decoder_dims, source_dim, emission.outputs),
            **sizes,
        )
        super().__init__(cell, emission, encoder)


@dataclass(frozen=True, eq=False, kw_only=True)
class RVAECell(Cell):
    """The conditionals of an `RVAE`."""

    latent_input: MLP
    lstm: nn.LSTM
    backward_lstm: nn.LSTM | None
    decoder: Heads

    def all_latents(self, z: Tensor, x: Tensor) -> Parameters:
        """Return p(z_t)."""
        return standard_normal(z)

    @property
    def looks_ahead(self) -> bool:
        """Whether the decoder is not causal."""
        return self.backward_lstm is not None

    def all_outputs(self, z: Tensor, x: Tensor, mask: Tensor | None = None) -> Outputs:
        """Return p(s_t | z_{1:t}), or p(s_t | z_{1:T}), from the last frame that counts."""
        u = self.latent_input(z)
        h = [run_lstm(self.lstm, u)]
        if self.looks_ahead:
            h.append(run_lstm_backward(self.backward_lstm, u, mask))
        return self.decoder(*h)

    def foresee(self, state: "RVAEState", z: Tensor, mask: Tensor | None = None) -> "RVAEState":
        """Return the state that holds what a decoder that is not causal reads of z_{t:T}."""
        if not self.looks_ahead:
            return state
        ahead = run_lstm_backward(self.backward_lstm, self.latent_input(z), mask)
        return state._replace(ahead=rows(ahead))

    def start(self, batch_shape: torch.Size, like: Tensor) -> "RVAEState":
        """Return h_0 = 0."""
        zeros = like.new_zeros(batch_shape.numel(), self.lstm.hidden_size)
        return RVAEState((zeros, zeros), zeros.unsqueeze(1)[:, :0])

    def latent(self, state: "RVAEState") -> Parameters:
        """Return p(z_t)."""
        h = state.memory[0]
        return standard_normal(h.new_zeros(len(h), self.latent_dim))

    def outputs(self, state: "RVAEState", z: Tensor) -> Outputs:
        """Return p(s_t | z_{1:t}), or p(s_t | z_{1:T}) of the z that was foreseen."""
        h, _ = lstm_step(self.lstm, self.latent_input(z), state.memory)
        return self.decoder(h, *([state.ahead[:, 0]] if self.looks_ahead else []))

    def advance(self, state: "RVAEState", z: Tensor, x: Tensor) -> "RVAEState":
        """Return h_t, and what is left to come."""
        memory = lstm_step(self.lstm, self.latent_input(z), state.memory)
        return RVAEState(memory, state.ahead[:, 1:])


class RVAEState(NamedTuple):
    """What an RVAE knows before frame t."""

    memory: State  # h_{t-1}, read from the left, and the LSTM's cell
    ahead: Tensor  # h_t ... h_T, read from the right; none if causal; shape: (rows, T - t + 1, H)
