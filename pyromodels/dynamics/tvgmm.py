"""TVGMM: a Gaussian mixture whose parameters a recurrent network says at every frame."""

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import softplus

from pyromodels.distributions.message import Anchor, GaussianMessage
from pyromodels.distributions.mixture import DiagonalMixture
from pyromodels.distributions.path import diagonal_normal
from pyromodels.dynamics.autoregressive import Autoregressive
from pyromodels.networks.memory import Kind
from pyromodels.networks.side_by_side import MemberLinear, from_members, to_members
from pyromodels.registry import DYNAMICS

MIN_SCALE = 1e-3
"""Smallest deviation: a density without bound is no likelihood to compare."""


@DYNAMICS.register("tvgmm")
class TVGMM(Autoregressive):
    r"""Time-varying Gaussian mixture, p(x_t | x_{<t}) = \sum_m w_mt N(x_t; mu_mt, diag C_mt).

        e_t         = GRU(e_{t-1}, x_{t-1}),  e_1 = 0                                 (6)
        q_t         = ReLU(W e_t + b)
        mu_t, w_t   = V_mu q_t + b_mu, softmax(V_w q_t + b_w)                         (13)
        sqrt(C_t)   = softplus(V_C q_t + b_C)

    One component is the time-varying Gaussian, whose frames send MixDVAE their message. Several
    send none: SVI fits MixDVAE with them (inference "svi" with elbo "trace_enum").

    Departure: eq. 13 has C = sigmoid(...), below 1, which fits data that were scaled to [0, 1];
    `bounded` is that. The softmax of the paper has a minus sign, which changes nothing.

    Reference: Ghosh, Espuña Fontcuberta, Abdalmoaty and Chatterjee, 2022, Time-varying normalizing
    flow for generative modeling of dynamical signals, eq. 12-13.

    Args:
        source_dim: D.
        num_components: of every mixture.
        past_dim: N.
        hidden_dim: l, size of q.
        past: "gru", "lstm" or "convolution".
        bounded: whether variances are below 1, as in the paper.
        num_members: models side by side; see `Autoregressive`.
        tied_dim: where they share their networks, size of what tells them apart; 0: they do not.

    Raises:
        SpecError: a size or a name that does not fit.

    Example:
        >>> path = TVGMM(source_dim=2, num_components=3).path(20)
        >>> path.log_prob(path.rsample((5,))).shape
        torch.Size([5])
    """

    contract_specs = tuple(
        {"past_dim": 3, "hidden_dim": 4, **more}
        for more in (
            {"source_dim": 1},
            {"source_dim": 2, "bounded": True},
            {"source_dim": 1, "num_components": 3},
            {"source_dim": 3, "num_components": 2, "past": "lstm"},
        )
    )

    def __init__(
        self,
        *,
        source_dim: int = 4,
        num_components: int = 1,
        past_dim: int = 64,
        hidden_dim: int = 8,
        past: Kind = "gru",
        bounded: bool = False,
        num_members: int = 1,
        tied_dim: int = 0,
    ) -> None:
        super().__init__(
            source_dim=source_dim, past_dim=past_dim, past=past, num_members=num_members,
            tied_dim=tied_dim,
        )
        self.num_components, self.bounded = num_components, bounded
        wide = num_components * source_dim
        networks = self.num_networks
        self.hidden = MemberLinear(networks, self.context_dim, hidden_dim)
        self.heads = MemberLinear(networks, hidden_dim, 2 * wide)
        self.weights = (
            MemberLinear(networks, hidden_dim, num_components) if num_components > 1 else None
        )

    @property
    def has_gaussian_message(self) -> bool:
        """Whether it has one component."""
        return self.num_components == 1

    @property
    def noise_is_unique(self) -> bool:
        """Whether it has one component."""
        return self.num_components == 1

    @property
    def noise_dim(self) -> int:
        """D, and one more that picks the component where there are several."""
        return self.source_dim + (self.num_components > 1)

    def parameters_of(
        self,
        e: Tensor,  # shape: (M, R, context_dim)
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Return logits (M, R, K), means and deviations (M, R, K, D); no logits for K = 1."""
        q = torch.relu(self.hidden(e))
        loc, spread = self.heads(q).unflatten(-1, (2, self.num_components, -1)).unbind(-3)
        scale = spread.sigmoid().sqrt() if self.bounded else softplus(spread)
        return None if self.weights is None else self.weights(q), loc, scale + MIN_SCALE

    def frames(self, e: Tensor) -> dist.TorchDistribution:
        """Return p(x_t | e_t) of every frame."""
        rows = to_members(e, self.num_networks, 2)
        logits, loc, scale = (
            v if v is None else from_members(v.unflatten(1, rows.shape[1:3]), e.shape[:-2])
            for v in self.parameters_of(rows.flatten(1, 2))
        )
        if logits is None:
            return diagonal_normal(loc.squeeze(-2), scale.squeeze(-2))
        return DiagonalMixture(logits, loc, scale)

    def driven(self, noise: Tensor, e: Tensor) -> Tensor:
        """Return the frame that the noise drives."""
        logits, loc, scale = self.parameters_of(e)
        if logits is None:
            return loc.squeeze(-2) + scale.squeeze(-2) * noise
        return DiagonalMixture(logits, loc, scale).driven(noise)

    def gaussian_message(
        self, s: Tensor, *, anchor: Anchor, z_noise: Tensor | None = None
    ) -> GaussianMessage:
        """Return p(s_t | s_<t) at the iterate; row t depends on s_<t only.

        Raises:
            NotImplementedError: for several components, with the inference that fits.
        """
        if not self.has_gaussian_message:
            return super().gaussian_message(s, anchor=anchor)
        self.check(s, anchor)
        law = self.path(s.shape[-2], batch_shape=s.shape[:-2], anchor=anchor).conditionals(s)
        offset, covariance = law.mean[..., None], law.variance[..., None, None]
        return GaussianMessage(torch.zeros_like(covariance), offset, covariance)
