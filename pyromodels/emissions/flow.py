"""Normalizing flows: frames of any continuous law, by couplings that a context tells."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyromodels.distributions.message import Anchor, anchored
from pyromodels.emissions.base import Emission, Head
from pyromodels.registry import EMISSIONS
from pyromodels.transforms.coupling import Coupling, CouplingFlow, CouplingTransform

LOG_2PI = math.log(2 * math.pi)


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
        return anchored(FlowFrames(self.flow.given(said, frames=True)), anchor)

    def draw(self, said: Tensor, noise: Tensor, previous: Tensor | None) -> Tensor:
        """Return g(z_t; e_t)."""
        return self.flow.from_noise(noise, said)


class FlowFrames(dist.TorchDistribution):
    r"""p(x_t | e_t) = N(f(x_t; e_t); 0, I) |det df/dx|, eq. 3; batch (*, T), event (D,).

    Args:
        transform: f^{-1}, told e of every frame.
    """

    arg_constraints = {}
    support = constraints.independent(constraints.real, 1)
    has_rsample = True

    def __init__(self, transform: CouplingTransform) -> None:
        self.transform = transform
        batch, event = transform.e.shape[:-1], torch.Size([transform.flow.dim])
        super().__init__(batch, event, validate_args=False)

    def log_prob(
        self,
        value: Tensor,  # x, shape: (*, T, D)
    ) -> Tensor:  # nats, shape: (*, T)
        """Return log p(x_t | e_t)."""
        z, log_det = self.transform.to_noise(value)
        return log_det - 0.5 * (z.square().sum(-1) + self.transform.flow.dim * LOG_2PI)

    def noise_of(
        self,
        value: Tensor,  # x, shape: (*, T, D)
    ) -> Tensor:  # z, shape: (*, T, D)
        """Return the noise that drives x."""
        return self.transform.to_noise(value)[0]

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw frames, each on its own, with pathwise gradients."""
        shape, e = self._extended_shape(torch.Size(sample_shape)), self.transform.e
        return self.transform(torch.randn(shape, dtype=e.dtype, device=e.device))
