"""DKF, the deep Kalman filter: a Markov chain of latents behind the frames."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyromodels.dynamics.cell import MarkovCell, Parameters
from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.emissions.base import DecodedEmission, Emission, make_emission
from pyromodels.networks.encoders import make_encoder
from pyromodels.networks.mlp import Heads
from pyromodels.registry import DYNAMICS

SMALL_ENCODER = {
    "preset": "dkf", "summary_dim": 8, "feedback_dims": (8,), "combine": "average", "dims": (8,),
}


@DYNAMICS.register("dkf")
class DKF(DynamicalPrior):
    r"""Deep Kalman filter: a state space model whose transition and observation are networks.

        p(s, z) = \prod_t p(z_t | z_{t-1}) p(s_t | z_t)
        q(z|s)  = \prod_t q(z_t | s_{t:T}, z_{t-1})                      encoder "dkf"

        z_t | z_{t-1}         ~ N((1 - c_t) A z_{t-1} + c_t m_t, v_t),   z_0 = 0
        c_t                   = sigmoid(gate(z_{t-1}))
        m_t                   = proposal(z_{t-1})
        log v_t               = log softplus(B relu(m_t))
        s_t | z_t             ~ emission(decoder(z_t))
        z_t | s_{t:T}, z_{t-1}  ~ N(encoder((LSTM(x_{T:t}) + dense(z_{t-1})) / 2))

    The gate chooses, for every latent, between a linear and a nonlinear move. A and B are affine.

    Symbols and arguments are those of `DynamicalPrior`, and c and m have the shape of z.

    Reference: Krishnan, Shalit and Sontag, 2017, Structured inference networks for nonlinear state
    space models, section 5; Girin et al., 2021, Dynamical variational autoencoders, section 5.

    Args:
        gate_dim: size of the one hidden layer of gate and of proposal.

    Example:
        >>> prior = DKF(source_dim=3, emission="spectral")
        >>> prior.sample_sources("s", 20, batch_shape=torch.Size([2])).shape
        torch.Size([2, 20, 3])
    """

    contract_specs = (
        {"source_dim": 1, "latent_dim": 2},
        {"source_dim": 3, "latent_dim": 2, "emission": "spectral"},
    )
    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            "latent_dim": 16, "gate_dim": 16, "decoder_dims": (32, 64, 128, 256),
            "encoder": {
                "preset": "dkf", "input_dims": (256,), "summary_dim": 128,
                "feedback_dims": (32, 64, 128), "combine": "average", "dims": (64, 32),
            },
        },
        "small": {
            "latent_dim": 16, "gate_dim": 32, "decoder_dims": (128, 128),
            "encoder": {
                "preset": "dkf", "summary_dim": 128, "feedback_dims": (64, 128),
                "combine": "average", "dims": (128,),
            },
        },
    }

    def __init__(
        self,
        *,
        source_dim: int = 4,
        latent_dim: int = 4,
        gate_dim: int = 8,
        decoder_dims: Sequence[int] = (16,),
        emission: str | Mapping[str, Any] | Emission = "gaussian",
        encoder: str | Mapping[str, Any] = SMALL_ENCODER,
    ) -> None:
        emission = make_emission(emission, DecodedEmission)
        sizes = {"source_dim": source_dim, "latent_dim": latent_dim}
        encoder = make_encoder(encoder, **sizes)
        cell = MarkovCell(
            prior=GatedTransition(latent_dim, gate_dim),
            decoder=Heads((latent_dim,), decoder_dims, source_dim, emission.outputs),
            **sizes,
        )
        super().__init__(cell, emission, encoder)


class GatedTransition(nn.Module):
    """p(z_t | z_{t-1}) between a linear move and a proposed one.

    Args:
        latent_dim: L.
        gate_dim: size of the hidden layers.
        lowest: what softplus is fed with at least; log v_t stays above it.
    """

    def __init__(self, latent_dim: int, gate_dim: int, *, lowest: float = -30.0) -> None:
        super().__init__()
        self.lowest = lowest
        sizes = ((latent_dim, gate_dim), (gate_dim, latent_dim))
        self.gate, self.proposal = (
            nn.Sequential(nn.Linear(*sizes[0]), nn.ReLU(), nn.Linear(*sizes[1])) for _ in range(2)
        )
        self.linear = nn.Linear(latent_dim, latent_dim)
        self.variance = nn.Linear(latent_dim, latent_dim)

    def forward(
        self,
        z: Tensor,  # z_{t-1}, shape: (*, L)
    ) -> Parameters:  # each (*, L)
        """Return p(z_t | z_{t-1})."""
        gate, proposal = torch.sigmoid(self.gate(z)), self.proposal(z)
        mean = (1 - gate) * self.linear(z) + gate * proposal
        variance = F.softplus(self.variance(torch.relu(proposal)).clamp_min(self.lowest))
        return mean, variance.log()
