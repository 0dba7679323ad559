"""Dynamical VAEs with a latent of the whole sequence: given it, they are dynamical VAEs."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import pyro
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from pyromodels.distributions.message import Anchor, GaussianMessage
from pyromodels.distributions.path import PathDistribution, diagonal_normal
from pyromodels.dynamics.base import Statement
from pyromodels.dynamics.encoded import EncodedPrior
from pyromodels.dynamics.latent import LatentPrior
from pyromodels.dynamics.latent_paths import LatentPaths, gaussian
from pyromodels.emissions.base import Emission, Outputs
from pyromodels.networks.encoders import Encoder, Inferred
from pyromodels.networks.mlp import driven
from pyromodels.pyro_support.shared_work import one_evaluation

Parameters = tuple[Tensor, Tensor]
"""Mean and log variance of a diagonal Gaussian."""


class GloballyInferred(NamedTuple):
    """A draw from q(w | x) q(z | x, w) and the Gaussians along it."""

    z: Tensor  # shape: (*batch, T, L)
    mean: Tensor  # of q(z_t | x, w), shape: (*batch, T, L)
    log_variance: Tensor  # shape: (*batch, T, L)
    w: Tensor  # shape: (*batch, L_w)
    w_mean: Tensor  # of q(w | x), shape: (*batch, L_w)
    w_log_variance: Tensor  # shape: (*batch, L_w)


class GlobalEncoder(Protocol):
    """q(w | x) and q(z | x, w); of `networks`, those given w, it reads `networks.w`."""

    direction: str

    def global_parameters(self, x: Tensor, mask: Tensor | None = None) -> Parameters:
        """Return q(w | x), each (*, L_w)."""

    def parameters_of(
        self, networks: "GivenGlobal", z: Tensor, x: Tensor, mask: Tensor | None = None
    ) -> Parameters:
        """Return q(z_t | x, w, z_<t) of every frame, each (*, T, L)."""

    def infer(
        self, networks: "GivenGlobal", x: Tensor, *, noise: Tensor | None, mask: Tensor | None
    ) -> Inferred:
        """Return z driven by the noise."""


class GlobalLatentPrior(EncodedPrior):
    r"""A dynamical VAE with w, a latent of the whole sequence.

        p(s, z, w)   = p(w) \prod_t p(z_t | s_{<t}, z_{<t}, w) p(s_t | s_{<t}, z_{<=t}, w)
        q(z, w | s)  = q(w | s_{1:T}) \prod_t q(z_t | s_{1:T}, w)
        p(w)         = N(0, I)

    Given w it is a `LatentPrior` as any other, `given(w)`: sites, bound, feeding back predictions
    and all else that is done with z and s is done there. A subclass states its conditionals twice,
    as there, and builds `self.encoder` once its networks are there.

    ======  ============  ==================  ====================================
    symbol  name          shape               unit
    ======  ============  ==================  ====================================
    s       s             (*batch, T, D)      as the data
    x       x             (*batch, T, D)      what networks see of s
    z       z             (*batch, T, L)      1
    w       w             (*batch, L_w)       1
    ======  ============  ==================  ====================================

    Args:
        source_dim: D.
        latent_dim: L.
        global_dim: L_w.
        emission: what becomes of the decoder's outputs; an object, a name or a table.
    """

    feeds_back = True
    encoder: GlobalEncoder

    def __init__(
        self,
        *,
        source_dim: int,
        latent_dim: int,
        global_dim: int,
        emission: str | Mapping[str, Any] | Emission,
    ) -> None:
        super().__init__(source_dim=source_dim, latent_dim=latent_dim, emission=emission)
        self.global_dim = global_dim
        self.register_buffer("zeros", torch.zeros(global_dim), persistent=False)

    # ---- what a model states: every conditional at once; w broadcasts over frames

    @abstractmethod
    def latent_parameters(
        self,
        z: Tensor,  # shape: (*, T, L)
        x: Tensor,  # shape: (*, T, D)
        w: Tensor,  # shape: (*, L_w)
    ) -> Parameters:  # each (*, T, L)
        """Return p(z_t | x_<t, z_<t, w) of every frame."""

    @abstractmethod
    def emission_parameters(
        self,
        z: Tensor,  # shape: (*, T, L)
        x: Tensor,  # shape: (*, T, D)
        w: Tensor,  # shape: (*, L_w)
    ) -> Outputs:  # each (*, T, D)
        """Return the decoder's outputs, p(s_t | x_<t, z_<=t, w), of every frame."""

    # ---- what a model states: frame by frame, rows flat; the state knows w

    @abstractmethod
    def start(
        self,
        w: Tensor,  # shape: (rows, L_w)
    ) -> Any:
        """Return the state before the first frame."""

    # ---- Pyro statements

    def sample_sources(
        self,
        name: str,
        num_steps: int,
        *,
        anchor: Anchor | None = None,
        mask: Tensor | None = None,
        batch_shape: torch.Size | None = None,
        sample: Statement = pyro.sample,
        use_prediction: float = 0.0,
        prediction_hops: int | None = 0,
    ) -> Tensor:
        """w, z, s ~ p(w, z, s): sites `name + "_w"`, `name + "_z"` and `name`."""
        if batch_shape is None:
            batch_shape = torch.Size() if anchor is None else anchor.loc.shape[:-1]
        w = pyro.sample(f"{name}_w", self.global_prior().expand(batch_shape))  # p(w)
        # p(z_t | s_<t, z_<t, w) p(s_t | s_<t, z_<=t, w), all t
        return self.given(w).sample_sources(
            name,
            num_steps,
            anchor=anchor,
            mask=mask,
            batch_shape=batch_shape,
            sample=sample,
            use_prediction=use_prediction,
            prediction_hops=prediction_hops,
        )

    def guide_sources(
        self,
        name: str,
        s: Tensor,
        *,
        anchor: Anchor | None = None,
        mask: Tensor | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        """w, z ~ q(w, z | s): sites `name + "_w"` and `name + "_z"`, z by `encoder` if given."""
        self.check(s, anchor)
        w = pyro.sample(f"{name}_w", self.global_posterior(s, mask=mask))  # q(w | s_1:T)
        # q(z_t | s_1:T, w), all t
        self.given(w).guide_sources(name, s, anchor=anchor, mask=mask, encoder=encoder)

    def global_prior(self) -> torch.distributions.Distribution:  # batch (), event (L_w,)
        """Return p(w)."""
        return diagonal_normal(self.zeros, torch.ones_like(self.zeros))

    def global_posterior(
        self,
        s: Tensor,  # shape: (*batch, T, D)
        *,
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
    ) -> torch.distributions.Distribution:  # batch (*batch), event (L_w,)
        """Return q(w | s_{1:T})."""
        return gaussian(*self.encoder.global_parameters(self.see(s), mask))

    def given(
        self,
        w: Tensor,  # shape: (*batch, L_w)
    ) -> "GivenGlobal":
        """Return p(z, s | w), with q(z | s, w) for its encoder, on the parameters of this prior."""
        return GivenGlobal(self, w)

    # ---- what inference uses without Pyro

    def infer(
        self,
        s: Tensor,  # shape: (*batch, T, D)
        *,
        noise: Tensor | None,  # shape: (*batch, T, L); None: z is the mean
        w_noise: Tensor | None = None,  # shape: (*batch, L_w); None: w is the mean
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
    ) -> GloballyInferred:
        """Return w and z of the encoder, driven by the noise."""
        with one_evaluation():
            mean, log_variance = self.encoder.global_parameters(self.see(s), mask)
            w = driven(mean, log_variance, w_noise)
            z = self.given(w).infer(s, noise=noise, mask=mask)
        return GloballyInferred(*z, w, mean.expand_as(w), log_variance.expand_as(w))

    def gaussian_message(
        self, s: Tensor, *, anchor: Anchor, z_noise: Tensor | None = None
    ) -> GaussianMessage:
        """Return p(s_t | s_<t, z_<=t, w) at the iterate, the encoder's z and its mean of w."""
        self.check(s, anchor)
        w = self.global_posterior(s).mean
        return self.given(w).gaussian_message(s, anchor=anchor, z_noise=z_noise)

    def elbo(
        self,
        s: Tensor,  # shape: (*batch, T, D)
        *,
        anchor: Anchor | None = None,
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
        history: Tensor | None = None,  # shape: (*batch, T, D)
        use_prediction: float = 0.0,
        kl_weight: float = 1.0,
        z_noise: Tensor | None = None,  # shape: (*batch, T, L)
        w_noise: Tensor | None = None,  # shape: (*batch, L_w)
    ) -> Tensor:  # nats a sequence, shape: (*batch)
        r"""Return one draw of the bound on log p(s), with pathwise gradients.

            E_q[bound on log p(s | w)] - KL(q(w | s) || p(w))

        Args:
            s, anchor, mask, history, use_prediction, z_noise: as `LatentPrior.elbo`, which gives
                the bound on log p(s | w).
            kl_weight: weight of both KL terms; 1 is the bound.
            w_noise: standard normal; drawn where it is None.
        """
        with one_evaluation():
            q_w = self.global_posterior(s if history is None else history, mask=mask)
            w = q_w.rsample() if w_noise is None else q_w.mean + q_w.stddev * w_noise
            bound = self.given(w).elbo(
                s,
                anchor=anchor,
                mask=mask,
                history=history,
                use_prediction=use_prediction,
                kl_weight=kl_weight,
                z_noise=z_noise,
            )
            return bound - kl_weight * kl_divergence(q_w, self.global_prior())

    @torch.no_grad()
    def predict(
        self,
        s_history: Tensor,  # shape: (*batch, T, D)
        horizon: int,
    ) -> Tensor:  # shape: (*batch, horizon, D)
        """Return the mean trajectory after the history: encoder means in it, prior means after."""
        return self.given(self.global_posterior(s_history).mean).predict(s_history, horizon)


class GivenGlobal(LatentPrior):
    r"""p(s, z | w) = \prod_t p(z_t | s_{<t}, z_{<t}, w) p(s_t | s_{<t}, z_{<=t}, w).

    It has no parameters but those of the prior it is made of. Batch dims of w, s and z broadcast.

    Args:
        prior: the prior.
        w: the latent of every sequence, shape (*batch, L_w).
    """

    feeds_back = True

    def __init__(self, prior: GlobalLatentPrior, w: Tensor) -> None:
        super().__init__(
            source_dim=prior.source_dim, latent_dim=prior.latent_dim, emission=prior.emission
        )
        self.prior, self.encoder, self.w = prior, prior.encoder, w

    def see(self, s: Tensor) -> Tensor:
        """Return what the networks see of a trajectory."""
        return self.prior.see(s)

    def latent_parameters(self, z: Tensor, x: Tensor) -> Parameters:
        """Return p(z_t | x_<t, z_<t, w) of every frame."""
        return self.prior.latent_parameters(z, x, self.w)

    def emission_parameters(self, z: Tensor, x: Tensor) -> Outputs:
        """Return p(s_t | x_<t, z_<=t, w) of every frame."""
        return self.prior.emission_parameters(z, x, self.w)

    def start(self, batch_shape: torch.Size, like: Tensor) -> Any:
        """Return the state before the first frame."""
        return self.prior.start(self.w.expand(*batch_shape, -1).reshape(-1, self.w.shape[-1]))

    def latent_step(self, state: Any) -> Parameters:
        """Return p(z_t | state)."""
        return self.prior.latent_step(state)

    def emission_step(self, state: Any, z: Tensor) -> Outputs:
        """Return p(s_t | state, z_t)."""
        return self.prior.emission_step(state, z)

    def advance(self, state: Any, z: Tensor, x: Tensor) -> Any:
        """Return the state after frame t."""
        return self.prior.advance(state, z, x)

    def pair(
        self,
        num_steps: int,
        *,
        anchor: Anchor | None = None,
        batch_shape: torch.Size | None = None,
        **keywords: Any,
    ) -> LatentPaths:
        """Return the coupled laws of z and s; see `LatentPrior.pair`."""
        if batch_shape is None:
            batch_shape = torch.Size() if anchor is None else anchor.loc.shape[:-1]
        batch_shape = torch.broadcast_shapes(batch_shape, self.w.shape[:-1])
        return super().pair(num_steps, anchor=anchor, batch_shape=batch_shape, **keywords)

    def posterior(
        self, s: Tensor, *, mask: Tensor | None = None, encoder: Encoder | None = None
    ) -> PathDistribution:
        """Return q(z_{1:T} | s_{1:T}, w), event (T, L)."""
        path = super().posterior(s, mask=mask, encoder=encoder)
        return path.expand(torch.broadcast_shapes(path.batch_shape, self.w.shape[:-1]))
