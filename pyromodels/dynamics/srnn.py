"""SRNN, the stochastic recurrent neural network: the published prior of MixDVAE."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from pyromodels.dynamics.cell import Cell, Parameters
from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.emissions.base import DecodedEmission, Emission, Outputs, make_emission
from pyromodels.networks.encoders import Shared, make_encoder
from pyromodels.networks.mlp import Heads, Recurrence, State, before
from pyromodels.pyro_support.shared_work import once
from pyromodels.registry import DYNAMICS

TRACKING_ENCODER = {"preset": "srnn_filter", "dims": (16, 8)}
UNIT_STEPS = {"name": "gaussian", "predicts": "increment", "scale": "unit"}


@DYNAMICS.register("srnn")
class SRNN(DynamicalPrior):
    r"""Stochastic recurrent neural network: a deterministic and a stochastic recursion.

        p(s, z) = \prod_t p(z_t | s_{<t}, z_{t-1}) p(s_t | s_{<t}, z_t)             (3.28)
        q(z|s)  = \prod_t q(z_t | s_{<=t}, z_{t-1})     tracking, "srnn_filter"      (3.29)
                  \prod_t q(z_t | s_{1:T}, z_{t-1})     speech, "srnn"

        h_t                = LSTM(dense(x_{t-1}), h_{t-1}),  h_1 from x_0 = 0        (A.26)
        z_t | s_<t, z_{t-1}  ~ N(prior(h_t, z_{t-1})),         z_0 = 0                (A.27-28)
        s_t | s_<t, z_t      ~ emission(decoder(h_t, z_t))                            (A.29-30)
        z_t | s, z_{t-1}     ~ N(encoder(h_t, x_t, z_{t-1}))                          (A.31-32)

    x is what the emission shows of s, e.g. boxes as they are (as published), or their increments in
    units of the box, which know neither where the box is nor how large. Under an anchor s_1 is the
    anchor's, and z_1 acts on s through z_2. Encoder and generative model share h.

    Symbols and arguments are those of `DynamicalPrior`.

    Departure: the published tracking loss leaves the factor 1/2 out of the reconstruction term and
    so weighs the KL term half; `elbo` is the bound itself, in nats, constants included.

    Reference: Lin, 2024 (thesis), eq. 3.28-3.29 and appendix A.1.2; Fraccaro et al., 2016,
    Sequential neural models with stochastic layers. The defaults are the sizes for tracking.

    Example:
        >>> from pyromodels.distributions.message import Anchor
        >>> prior = SRNN(emission={"name": "gaussian", "predicts": "increment"})
        >>> box = torch.tensor([[0.1, 0.2, 0.2, 0.5]])
        >>> anchor = Anchor(box, torch.full_like(box, 1e-5))
        >>> prior.sample_sources("s", 60, anchor=anchor).shape
        torch.Size([1, 60, 4])
    """

    contract_specs = (
        {"source_dim": 1, "latent_dim": 1, "hidden_dim": 3},
        {"source_dim": 1, "latent_dim": 1, "hidden_dim": 3, "emission": UNIT_STEPS},
        {},
        {"emission": {"name": "gaussian", "predicts": "increment"}},
        {"source_dim": 3, "emission": "spectral", "encoder": "srnn"},
    )
    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            "latent_dim": 16, "hidden_dim": 128, "input_dims": (256,), "prior_dims": (64, 32),
            "decoder_dims": (256,),
            "encoder": {
                "preset": "srnn", "input_dims": (256,), "summary_dim": 128, "dims": (64, 32)
            },
        },
        "small": {
            "latent_dim": 16, "hidden_dim": 128, "input_dims": (), "prior_dims": (64,),
            "decoder_dims": (128,),
            "encoder": {"preset": "srnn", "summary_dim": 128, "dims": (128,)},
        },
    }

    def __init__(
        self,
        *,
        source_dim: int = 4,
        latent_dim: int = 4,
        hidden_dim: int = 8,
        input_dims: Sequence[int] = (4,),
        prior_dims: Sequence[int] = (8, 8),
        decoder_dims: Sequence[int] = (16,),
        emission: str | Mapping[str, Any] | Emission = "gaussian",
        encoder: str | Mapping[str, Any] = TRACKING_ENCODER,
    ) -> None:
        emission = make_emission(emission, DecodedEmission)
        sizes = {"source_dim": source_dim, "latent_dim": latent_dim}
        recurrence = Recurrence(source_dim, input_dims, hidden_dim)
        encoder = make_encoder(encoder, **sizes, shared=Shared(hidden_dim))
        read = (hidden_dim, latent_dim)  # h_t and a z
        cell = SRNNCell(
            recurrence=recurrence,
            prior=Heads(read, prior_dims, latent_dim),
            decoder=Heads(read, decoder_dims, source_dim, emission.outputs),
            **sizes,
        )
        super().__init__(cell, emission, encoder)

    @property
    def filters(self) -> bool:
        """Whether the encoder is the published tracker's: dense over h_t, x_t and z_{t-1} alone."""
        encoder = self.encoder
        if not encoder.shares or (encoder.direction, encoder.feedback) != ("frame", "previous"):
            return False
        return not len(encoder.input.layers) and not len(encoder.fed.layers)


@dataclass(frozen=True, eq=False, kw_only=True)
class SRNNCell(Cell):
    """The conditionals of an `SRNN`."""

    shared = ("recurrence",)
    feeds_back = True

    recurrence: Recurrence
    prior: Heads
    decoder: Heads

    @property
    def sharing(self) -> Shared:
        """h_t."""
        return Shared(self.recurrence.lstm.hidden_size)

    # ---- every conditional at once

    def hidden(self, z: Tensor | None, x: Tensor) -> Tensor:
        """Return h, teacher-forced by one fused LSTM call; row t knows x_<t."""
        return once(self.recurrence, "hidden", (x,), lambda: self.recurrence(x))

    def all_latents(self, z: Tensor, x: Tensor) -> Parameters:
        """Return p(z_t | h_t, z_{t-1})."""
        return self.prior(self.hidden(None, x), before(z))

    def all_outputs(self, z: Tensor, x: Tensor, mask: Tensor | None = None) -> Outputs:
        """Return p(s_t | h_t, z_t)."""
        return self.decoder(self.hidden(None, x), z)

    # ---- frame by frame

    def start(self, batch_shape: torch.Size, like: Tensor) -> "SRNNState":
        """Return h_1 and z_0 = 0."""
        nothing = like.new_zeros(batch_shape.numel(), self.source_dim)
        memory = self.recurrence.step(nothing, self.recurrence.initial_state(nothing))
        return SRNNState(memory, like.new_zeros(batch_shape.numel(), self.latent_dim))

    def hidden_step(self, state: "SRNNState") -> Tensor:
        """Return h_t."""
        return state.memory[0]

    def latent(self, state: "SRNNState") -> Parameters:
        """Return p(z_t | h_t, z_{t-1})."""
        return self.prior(state.memory[0], state.z)

    def outputs(self, state: "SRNNState", z: Tensor) -> Outputs:
        """Return p(s_t | h_t, z_t)."""
        return self.decoder(state.memory[0], z)

    def advance(self, state: "SRNNState", z: Tensor, x: Tensor) -> "SRNNState":
        """Return h_{t+1} and z_t."""
        return SRNNState(self.recurrence.step(x, state.memory), z)


class SRNNState(NamedTuple):
    """What an SRNN knows before frame t."""

    memory: State  # h_t and the LSTM's cell
    z: Tensor  # z_{t-1}, shape: (rows, L)
