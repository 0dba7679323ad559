"""Normalizing flows: frames of any continuous law, by couplings that a context tells."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
from torch import Tensor

from pyromodels.distributions.flow import FlowDistribution
from pyromodels.distributions.message import Anchor, anchored
from pyromodels.emissions.base import Emission, Head
from pyromodels.registry import EMISSIONS
from pyromodels.transforms.coupling import Coupling, CouplingFlow


@EMISSIONS.register("flow")
@dataclass(frozen=True)
class Flow(Emission):
    r"""Normalizing flow, p(s_t) = N(f(s_t; e_t); 0, I) |det df / ds_t|.

    Args:
        hidden_dim: l.
        num_hidden: n_H.
        num_layers: L.
        coupling: "affine" or "spline".
        mixing: whether invertible linear maps stand between the layers.
        split: d, coordinates of the half that is kept first; None: the even ones.

    Example:
        >>> import torch
        >>> head, s = Flow().head(2, 5), torch.zeros(7, 2)
        >>> head.conditionals(torch.zeros(7, 5), s, None).log_prob(s).shape
        torch.Size([7])
    """

    contract_specs: ClassVar[tuple[dict[str, Any], ...]] = (
        {"num_layers": 2, "hidden_dim": 4},
        {"num_layers": 2, "hidden_dim": 4, "coupling": "spline", "mixing": True},
    )

    hidden_dim: int = 30
    num_hidden: int = 2
    num_layers: int = 4
    coupling: Coupling = "affine"
    mixing: bool = False
    split: int | None = None

    def head(
        self, source_dim: int, context_dim: int, *, dims: Sequence[int] = (), num_members: int = 1
    ) -> "FlowHead":
        """Return a new flow that a context tells."""
        self.refuse_layers(dims)
        flow = CouplingFlow(
            num_members, source_dim, context_dim, num_layers=self.num_layers,
            hidden_dim=self.hidden_dim, num_hidden=self.num_hidden, coupling=self.coupling,
            mixing=self.mixing, split=self.split,
        )
        return FlowHead(flow)


class FlowHead(Head):
    """p(s_t | e_t), noise that a flow moves."""

    def __init__(self, flow: CouplingFlow) -> None:
        super().__init__()
        self.flow, self.noise_dim = flow, flow.dim

    def conditionals(
        self, said: Tensor, history: Tensor, anchor: Anchor | None
    ) -> dist.TorchDistribution:
        """Return p(s_t | e_t) of every frame."""
        transform = self.flow.given(said, frames=True)
        law = FlowDistribution(transform, said.shape[:-1], (self.flow.dim,), like=said)
        return anchored(law, anchor)

    def draw(self, said: Tensor, noise: Tensor, previous: Tensor | None) -> Tensor:
        """Return g(z_t; e_t)."""
        return self.flow.from_noise(noise, said)
