"""Mixtures of Gaussians: frames of several kinds, and of one, which is a Gaussian."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import softplus

from pyromodels.distributions.message import Anchor, GaussianMessage, anchored
from pyromodels.distributions.mixture import DiagonalMixture
from pyromodels.distributions.path import diagonal_normal
from pyromodels.emissions.base import Emission, Head
from pyromodels.networks.side_by_side import MemberLinear, from_members, to_members
from pyromodels.registry import EMISSIONS

MIN_SCALE = 1e-3
"""Smallest deviation: a density without bound is no likelihood to compare."""


@EMISSIONS.register("mixture")
@dataclass(frozen=True)
class Mixture(Emission):
    r"""Mixture of Gaussians, s_t ~ \sum_m w_mt N(mu_mt, diag C_mt).

        q_t         = ReLU(W e_t + b)
        mu_t, w_t   = V_mu q_t + b_mu, softmax(V_w q_t + b_w)
        sqrt(C_t)   = softplus(V_C q_t + b_C)

    One component is a Gaussian, whose frames send a message; several send none.

    Args:
        num_components: of every mixture.
        hidden_dim: l, size of q.
        bounded: whether variances are below 1, C = sigmoid(...).

    Example:
        >>> head = Mixture(num_components=3).head(2, 5)
        >>> head.conditionals(torch.zeros(7, 5), torch.zeros(7, 2), None).mean.shape
        torch.Size([7, 2])
    """

    contract_specs: ClassVar[tuple[dict[str, Any], ...]] = (
        {"hidden_dim": 4},
        {"num_components": 3, "hidden_dim": 4, "bounded": True},
    )

    num_components: int = 1
    hidden_dim: int = 8
    bounded: bool = False

    @property
    def has_gaussian_message(self) -> bool:
        """Whether it has one component."""
        return self.num_components == 1

    @property
    def noise_is_unique(self) -> bool:
        """Whether it has one component."""
        return self.num_components == 1

    def head(
        self, source_dim: int, context_dim: int, *, dims: Sequence[int] = (), num_members: int = 1
    ) -> "MixtureHead":
        """Return new networks from a context to mixtures."""
        self.refuse_layers(dims)
        return MixtureHead(self, source_dim, context_dim, num_members)


class MixtureHead(Head):
    """p(s_t | e_t), a mixture of Gaussians."""

    def __init__(
        self, emission: Mixture, source_dim: int, context_dim: int, num_members: int
    ) -> None:
        super().__init__()
        components, hidden = emission.num_components, emission.hidden_dim
        self.emission, self.num_members = emission, num_members
        self.noise_dim = source_dim + (components > 1)  # one more picks the component
        self.hidden = MemberLinear(num_members, context_dim, hidden)
        self.heads = MemberLinear(num_members, hidden, 2 * components * source_dim)
        self.weights = MemberLinear(num_members, hidden, components) if components > 1 else None

    def parameters_of(
        self,
        e: Tensor,  # shape: (M, R, context_dim)
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Return logits (M, R, K), means and deviations (M, R, K, D); no logits for K = 1."""
        q = torch.relu(self.hidden(e))
        sizes = (2, self.emission.num_components, -1)
        loc, spread = self.heads(q).unflatten(-1, sizes).unbind(-3)
        scale = spread.sigmoid().sqrt() if self.emission.bounded else softplus(spread)
        return None if self.weights is None else self.weights(q), loc, scale + MIN_SCALE

    def conditionals(
        self, said: Tensor, history: Tensor, anchor: Anchor | None
    ) -> dist.TorchDistribution:
        """Return p(s_t | e_t) of every frame."""
        rows = to_members(said, self.num_members, 2)
        logits, loc, scale = (
            v if v is None else from_members(v.unflatten(1, rows.shape[1:3]), said.shape[:-2])
            for v in self.parameters_of(rows.flatten(1, 2))
        )
        return anchored(_law(logits, loc, scale), anchor)

    def draw(self, said: Tensor, noise: Tensor, previous: Tensor | None) -> Tensor:
        """Return the frame that the noise drives."""
        logits, loc, scale = self.parameters_of(said)
        if logits is None:
            return loc.squeeze(-2) + scale.squeeze(-2) * noise
        return DiagonalMixture(logits, loc, scale).driven(noise)

    def expected(self, said: Tensor, previous: Tensor | None) -> Tensor:
        """Return the mean of s_t."""
        return _law(*self.parameters_of(said)).mean

    def message(self, said: Tensor, history: Tensor, anchor: Anchor) -> GaussianMessage:
        """Return A = 0, and mean and variance of every frame; one component only."""
        law = self.conditionals(said, history, anchor)
        offset, covariance = law.mean[..., None], law.variance[..., None, None]
        return GaussianMessage(torch.zeros_like(covariance), offset, covariance)


def _law(logits: Tensor | None, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
    if logits is None:
        return diagonal_normal(loc.squeeze(-2), scale.squeeze(-2))
    return DiagonalMixture(logits, loc, scale)
