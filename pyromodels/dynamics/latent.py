"""What every dynamical VAE is: generative networks, an encoder, an emission."""

from abc import abstractmethod
from typing import Any

import pyro
import torch
from torch import Tensor

from pyromodels.distributions.message import Anchor, GaussianMessage
from pyromodels.distributions.path import PathDistribution
from pyromodels.dynamics.base import Statement
from pyromodels.dynamics.encoded import EncodedPrior
from pyromodels.dynamics.feedback import frames_of_its_own, predictions
from pyromodels.dynamics.latent_paths import EncoderPath, LatentPaths
from pyromodels.dynamics.unroll import unroll
from pyromodels.emissions.base import Outputs, refuse_no_anchor
from pyromodels.networks.encoders import Encoder, Inferred
from pyromodels.networks.mlp import rows
from pyromodels.pyro_support.shared_work import one_evaluation


class LatentPrior(EncodedPrior):
    r"""A dynamical VAE, p(s, z) = \prod_t p(z_t | s_{<t}, z_{<t}) p(s_t | s_{<t}, z_{<=t}).

    A subclass states its generative conditionals twice, all frames at once (`latent_parameters`,
    `emission_parameters`) and frame by frame (`start`, `latent_step`, `emission_step`, `advance`),
    in the coordinates x = emission.see(s); the contract suite holds the two together. Sites,
    encoder, bound, messages, feeding back predictions are here, once for all models.

    ======  =============  ==================  ====================================
    symbol  name           shape               unit
    ======  =============  ==================  ====================================
    s       s              (*batch, T, D)      as the data
    x       x              (*batch, T, D)      what networks see of s
    z       z              (*batch, T, L)      1
    h       hidden         (*batch, T, H)      1
    ======  =============  ==================  ====================================

    Args: see `EncodedPrior`.
    """

    decoder_looks_ahead: bool = False
    """Whether p(s_t | .) reads z_{1:T}; p(z) then reads no s, and is drawn before any s."""

    # ---- what a model states: every conditional at once

    @abstractmethod
    def latent_parameters(
        self,
        z: Tensor,  # shape: (*, T, L)
        x: Tensor,  # shape: (*, T, D)
    ) -> tuple[Tensor, Tensor]:  # mean, log variance; each (*, T, L)
        """Return p(z_t | x_<t, z_<t) of every frame."""

    @abstractmethod
    def emission_parameters(
        self,
        z: Tensor,  # shape: (*, T, L)
        x: Tensor,  # shape: (*, T, D)
    ) -> Outputs:  # each (*, T, D)
        """Return the decoder's outputs, p(s_t | x_<t, z_<=t), of every frame."""

    # ---- what a model states: frame by frame, rows flat

    @abstractmethod
    def start(
        self,
        batch_shape: torch.Size,
        like: Tensor,  # for dtype and device
    ) -> Any:
        """Return the state before the first frame."""

    # ---- a decoder that reads z_{>t} overrides these two

    def decode(
        self,
        z: Tensor,  # shape: (*, T, L)
        x: Tensor,  # shape: (*, T, D)
        mask: Tensor | None = None,  # shape: broadcastable to (*, T)
    ) -> Outputs:  # each (*, T, D)
        """Return `emission_parameters`, padding left out of them."""
        return self.emission_parameters(z, x)

    def foresee(
        self,
        state: Any,
        z: Tensor,  # shape: (*, T, L)
        mask: Tensor | None = None,  # shape: broadcastable to (*, T)
    ) -> Any:
        """Return the state before the first frame, told of all of z."""
        return state

    # ---- what an encoder may share; a model without h leaves it

    @property
    def features_dim(self) -> int:
        """Size of what an encoder that shares sees of x_t."""
        return self.source_dim

    def features(self, x: Tensor) -> Tensor:
        """Return what an encoder that shares sees of x_t."""
        return x

    def hidden(self, z: Tensor | None, x: Tensor) -> Tensor:
        """Return h of every frame, shape (*, T, H)."""
        raise NotImplementedError(f"{type(self).__name__} has no hidden state to share")

    def hidden_step(self, state: Any) -> Tensor:
        """Return h_t, shape (rows, H)."""
        raise NotImplementedError(f"{type(self).__name__} has no hidden state to share")

    # ---- Pyro statements

    def pair(
        self,
        num_steps: int,
        *,
        anchor: Anchor | None = None,
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
        batch_shape: torch.Size | None = None,
        use_prediction: float = 0.0,
        prediction_hops: int | None = 0,
    ) -> LatentPaths:
        """Return the coupled laws of z and s; the batch shape is the anchor's where there is one.

        Args:
            num_steps: T.
            anchor: p(s_1) in place of the model's.
            mask: True where a frame counts.
            batch_shape: of the trajectories; needed without an anchor.
            use_prediction: probability, at every frame of every trajectory, that the networks are
                fed with the model's own prediction in place of s_t (scheduled sampling).
            prediction_hops: through how many predictions in a row a gradient passes; see
                `pyromodels.dynamics.feedback`. 0: none, as published.
        """
        refuse_no_anchor(self.emission, anchor)
        if batch_shape is None:
            batch_shape = torch.Size() if anchor is None else anchor.loc.shape[:-1]
        return LatentPaths(
            self, num_steps, batch_shape, anchor=anchor, mask=mask,
            use_prediction=use_prediction, prediction_hops=prediction_hops,
        )

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
        """z, s ~ p(z, s): sites `name + "_z"` and `name`."""
        pair = self.pair(
            num_steps,
            anchor=anchor,
            mask=mask,
            batch_shape=batch_shape,
            use_prediction=use_prediction,
            prediction_hops=prediction_hops,
        )
        z = pyro.sample(f"{name}_z", pair.latent)  # p(z_t | s_<t, z_<t)
        s = sample(name, pair.source(z))  # p(s_t | s_<t, z_<=t)
        pair.teach(s)
        return s

    def guide_sources(
        self,
        name: str,
        s: Tensor,
        *,
        anchor: Anchor | None = None,
        mask: Tensor | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        """z ~ q(z | s): site `name + "_z"`; by the prior's own encoder where none is given."""
        self.check(s, anchor)
        pyro.sample(f"{name}_z", self.posterior(s, mask=mask, encoder=encoder))  # q(z_t | s, z_<t)

    def posterior(
        self,
        s: Tensor,  # shape: (*batch, T, D)
        *,
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
        encoder: Encoder | None = None,
    ) -> PathDistribution:
        """Return q(z_{1:T} | s_{1:T}), event (T, L)."""
        return EncoderPath(self, self.encoder if encoder is None else encoder, s, mask)

    # ---- what inference uses without Pyro

    def infer(
        self,
        s: Tensor,  # shape: (*batch, T, D)
        *,
        noise: Tensor | None,  # shape: (*batch, T, L); None: z is the mean
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
    ) -> Inferred:
        """Return z of the encoder, driven by the noise."""
        return self.encoder.infer(self, self.see(s), noise=noise, mask=mask)

    def gaussian_message(
        self, s: Tensor, *, anchor: Anchor, z_noise: Tensor | None = None
    ) -> GaussianMessage:
        """Return p(s_t | s_<t, z_<=t) at the iterate and the encoder's z.

        Row t knows s_<t, and of s_{>=t} what the encoder put into the z it reads.
        """
        self.check(s, anchor)
        x = self.see(s)
        z = self.infer(s, noise=z_noise).z
        return self.emission.message(self.emission_parameters(z, x), s, anchor)

    @one_evaluation()
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
    ) -> Tensor:  # nats a sequence, shape: (*batch)
        r"""Return one draw of the bound on log p(s), with pathwise gradients.

            \sum_t E_q[log p(s_t | s_<t, z_<=t) - KL(q(z_t | s, z_<t) || p(z_t | s_<t, z_<t))]

        Args:
            s: the trajectories.
            anchor: p(s_1) in place of the model's.
            mask: True where a frame counts.
            history: what all networks are fed with in place of s, e.g. a tracker's estimate of s;
                the increments that they are to predict stay those of s.
            use_prediction: scheduled sampling: the probability, drawn for every frame of every
                sequence, that the generative networks are fed with their own detached prediction
                in place of s_t. The encoder reads s.
            kl_weight: weight of the KL term; 1 is the bound.
            z_noise: standard normal; drawn where it is None.
        """
        self.check(s, anchor)
        if z_noise is None:
            z_noise = torch.randn((*s.shape[:-1], self.latent_dim), dtype=s.dtype, device=s.device)
        fed = s if history is None else history
        q = self.infer(fed, noise=z_noise, mask=mask)
        past = s
        if use_prediction > 0:
            fed = past = self.own_history(
                fed, q.z, probability=use_prediction, anchor=anchor, mask=mask
            )
        x = self.see(fed)
        p_s = self.emission.conditionals(self.decode(q.z, x, mask), past, anchor)
        p_mean, p_log_variance = self.latent_parameters(q.z, x)
        difference = q.log_variance - p_log_variance
        distance = (q.mean - p_mean).square() * (-p_log_variance).exp()
        kl = 0.5 * (difference.exp() - 1 - difference + distance).sum(-1)
        per_frame = p_s.log_prob(s) - kl_weight * kl
        return (per_frame if mask is None else torch.where(mask, per_frame, 0.0)).sum(-1)

    def own_history(
        self,
        s: Tensor,  # shape: (*batch, T, D)
        z: Tensor,  # shape: (*batch, T, L)
        *,
        probability: float = 1.0,
        anchor: Anchor | None = None,
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
    ) -> Tensor:  # shape: (*batch, T, D)
        """Replace frames by the model's predictions from z and what came before, replaced or not.

        With probability 1 that is generation: nothing of s is left, but for a first frame that only
        an anchor could have said.
        """
        if not self.reads_history and probability < 1:
            return s
        own = frames_of_its_own(s, probability, anchor)
        return predictions(self, s, z, own, anchor=anchor, mask=mask)

    @torch.no_grad()
    def predict(
        self,
        s_history: Tensor,  # shape: (*batch, T, D)
        horizon: int,
    ) -> Tensor:  # shape: (*batch, horizon, D)
        """Return the mean trajectory after the history: encoder means in it, prior means after."""
        given, z = rows(s_history), rows(self.infer(s_history, noise=None).z)
        num_steps = given.shape[1] + horizon
        state = self.start(s_history.shape[:-2], s_history)
        if self.decoder_looks_ahead:  # p(z) reads no s: any will do
            unread = given.new_zeros(len(given), num_steps, self.source_dim)
            frames = unroll(self, self.emission, state, num_steps, z=z, s=unread)
            z = torch.stack([frame.z for frame in frames], 1)
            state = self.foresee(state, z)
        x = rows(self.see(s_history))
        frames = list(unroll(self, self.emission, state, num_steps, z=z, s=given, x=x))
        future = torch.stack([frame.s for frame in frames[-horizon:]], 1)
        return future.reshape(*s_history.shape[:-2], horizon, self.source_dim)


def standard_normal(
    z: Tensor,  # shape: (*, L)
) -> tuple[Tensor, Tensor]:  # mean, log variance; each (*, L)
    """Return N(0, I), the prior of latents that know nothing of each other."""
    return torch.zeros_like(z), torch.zeros_like(z)
