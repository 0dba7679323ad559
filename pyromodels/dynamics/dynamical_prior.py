"""Every dynamical VAE: a cell, an emission and an encoder make one Pyro program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import pyro
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from pyromodels.distributions.message import Anchor, GaussianMessage
from pyromodels.distributions.path import PathDistribution, diagonal_normal
from pyromodels.dynamics.base import EmittingPrior, Statement
from pyromodels.dynamics.cell import Cell, frames_of_its_own
from pyromodels.dynamics.latent_paths import (
    EncoderPath,
    LatentPaths,
    frame_by_frame,
    gaussian,
    predictions,
)
from pyromodels.emissions.base import DecodedEmission, Emission, make_emission
from pyromodels.errors import SpecError, unknown
from pyromodels.networks.encoders import Encoder, GloballyInferred, Inferred, make_encoder
from pyromodels.networks.mlp import driven, rows
from pyromodels.pyro_support.shared_work import once, one_evaluation


class DynamicalPrior(EmittingPrior):
    r"""A dynamical VAE, with w, a latent of the whole sequence, or without.

        p(s, z, w)   = p(w) \prod_t p(z_t | s_{<t}, z_{<t}, w) p(s_t | s_{<t}, z_{<=t}, w)
        q(z, w | s)  = q(w | s_{1:T}) \prod_t q(z_t | s_{1:T}, z_{<t}, w),      p(w) = N(0, I)

    ======  =============  ==================  ====================================
    symbol  name           shape               unit
    ======  =============  ==================  ====================================
    s       s              (*batch, T, D)      as the data
    x       x              (*batch, T, D)      what networks see of s, see `Emission`
    z       z              (*batch, T, L)      1
    w       w              (*batch, L_w)       1; a latent of the whole sequence
    h       hidden         (*batch, T, H)      1; a memory, where there is one
    ======  =============  ==================  ====================================

    Its parameters have the names that they have in the cell. A model of a name of its own derives
    from it to put the three together, and overrides nothing. It takes `source_dim`, `latent_dim`
    and `hidden_dim`, D, L and H; tanh layers between x and its memory (`input_dims`), between z and
    its memory (`latent_dims`), of the prior of z (`prior_dims`) and of the decoder
    (`decoder_dims`); an `emission`, see `pyromodels.emissions`; and as `encoder` a preset of
    `pyromodels.networks.encoders` or a table of the arguments of its `Encoder`.

    Args:
        cell: the conditionals.
        emission: what becomes of the decoder's outputs; an object, a name or a table.
        encoder: q(z | s); with w also q(w | s), `global_parameters`.
        global_dim: L_w; 0 where there is no w, or where the cell is told it.

    Example:
        >>> from pyromodels.dynamics.cell import MarkovCell, standard_normal
        >>> from pyromodels.networks.mlp import Heads
        >>> sizes = {"source_dim": 2, "latent_dim": 1}
        >>> cell = MarkovCell(prior=standard_normal, decoder=Heads((1,), (), 2), **sizes)
        >>> encoder = make_encoder("vae", **sizes)
        >>> prior = DynamicalPrior(cell, "gaussian", encoder)
        >>> prior.sample_sources("s", 5, batch_shape=torch.Size([3])).shape
        torch.Size([3, 5, 2])
    """

    emission: DecodedEmission
    sizes: ClassVar[dict[str, dict[str, Any]]] = {}
    """Keyword arguments by the name of a size: "paper" as published, "small" for two CPU cores."""

    def __init__(
        self,
        cell: Cell,
        emission: str | Mapping[str, Any] | Emission,
        encoder: Encoder,
        *,
        global_dim: int = 0,
    ) -> None:
        super().__init__()
        self.emission = make_emission(emission, DecodedEmission)
        self.emission.check_source_dim(cell.source_dim)
        self.source_dim, self.latent_dim = self.emission.frame_dim(cell.source_dim), cell.latent_dim
        self.cell, self.global_dim = cell, global_dim
        networks = cell.networks()
        for name in cell.shared:
            self.add_module(name, networks.pop(name))
        self.encoder = encoder
        for name, network in networks.items():
            self.add_module(name, network)
        if global_dim:
            self.register_buffer("zeros", torch.zeros(global_dim), persistent=False)

    @classmethod
    def sized(cls, size: str, **keywords: Any) -> Self:
        """Return a model of one of the sizes it knows; keywords are added, or override.

        Raises:
            SpecError: unknown size.

        Example:
            >>> from pyromodels.dynamics.srnn import SRNN
            >>> SRNN.sized("small", source_dim=513, emission="spectral", latent_dim=8).latent_dim
            8
        """
        if size not in cls.sizes:
            raise SpecError(unknown(f"size of {cls.__name__}", given=size, known=cls.sizes))
        return cls(**{**cls.sizes[size], **keywords})

    @property
    def feeds_back(self) -> bool:
        """Whether anything depends on s_{<t}: then generation differs from teacher forcing."""
        return self.cell.feeds_back

    @property
    def reads_history(self) -> bool:
        """Whether a frame's law, or the unit it is in, depends on s_{<t}."""
        return self.cell.feeds_back or self.needs_anchor

    def build_encoder(self, spec: str | Mapping[str, Any]) -> Encoder:
        """Return a new encoder of z for these networks, see `make_encoder`."""
        sizes = {"source_dim": self.cell.source_dim, "latent_dim": self.latent_dim}
        return make_encoder(spec, **sizes, shared=self.cell.sharing)

    def see(
        self,
        s: Tensor,  # shape: (*, T, D)
    ) -> Tensor:  # x, shape: (*, T, D)
        """Return what the networks see of a trajectory."""
        return once(self.encoder, "see", (s,), lambda: self.emission.see(s))

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
        """w, z, s ~ p(w, z, s): sites `name + "_w"` where there is a w, `name + "_z"`, `name`."""
        if batch_shape is None:
            batch_shape = torch.Size() if anchor is None else anchor.loc.shape[:-1]
        given = self
        if self.global_dim:
            w = pyro.sample(f"{name}_w", self.global_prior().expand(batch_shape))  # p(w)
            given = self.given(w)
        pair = given.pair(
            num_steps, anchor=anchor, mask=mask, batch_shape=batch_shape,
            use_prediction=use_prediction, prediction_hops=prediction_hops,
        )
        z = pyro.sample(f"{name}_z", pair.latent)  # p(z_t | s_<t, z_<t, w)
        s = sample(name, pair.source(z))  # p(s_t | s_<t, z_<=t, w)
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
        """w, z ~ q(w, z | s): sites `name + "_w"` and `name + "_z"`, z by `encoder` if given."""
        self.check(s, anchor)
        given = self
        if self.global_dim:
            w = pyro.sample(f"{name}_w", self.global_posterior(s, mask=mask))  # q(w | s_1:T)
            given = self.given(w)
        # q(z_t | s, z_<t, w), all t
        pyro.sample(f"{name}_z", given.posterior(s, mask=mask, encoder=encoder))

    def pair(self, num_steps: int, **options: Any) -> LatentPaths:
        """Return the coupled laws of z and s; options are those of `LatentPaths`."""
        return LatentPaths(self, num_steps, **options)

    def posterior(
        self,
        s: Tensor,  # shape: (*batch, T, D)
        *,
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
        encoder: Encoder | None = None,
    ) -> PathDistribution:
        """Return q(z_{1:T} | s_{1:T}, w), event (T, L)."""
        return EncoderPath(self, self.encoder if encoder is None else encoder, s, mask)

    # ---- the latent of the whole sequence

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
    ) -> DynamicalPrior:
        """Return p(s, z | w) and q(z | s, w), on the networks of this prior."""
        return DynamicalPrior(self.cell.given(w), self.emission, self.encoder)

    def with_emission(self, emission: str | Mapping[str, Any] | Emission) -> DynamicalPrior:
        """Return the same networks with another emission, of the same outputs: a law of spectra in
        place of that of powers.
        """
        return DynamicalPrior(self.cell, emission, self.encoder, global_dim=self.global_dim)

    # ---- what inference uses without Pyro

    def infer(
        self,
        s: Tensor,  # shape: (*batch, T, D)
        *,
        noise: Tensor | None,  # shape: (*batch, T, L); None: z is the mean
        w_noise: Tensor | None = None,  # shape: (*batch, L_w); None: w is the mean
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
    ) -> Inferred | GloballyInferred:
        """Return z, and w if any, of the encoder, driven by the noise."""
        if not self.global_dim:
            return self.encoder.infer(self.cell, self.see(s), noise=noise, mask=mask)
        with one_evaluation():
            mean, log_variance = self.encoder.global_parameters(self.see(s), mask)
            w = driven(mean, log_variance, w_noise)
            z = self.given(w).infer(s, noise=noise, mask=mask)
        return GloballyInferred(*z, w, mean.expand_as(w), log_variance.expand_as(w))

    def gaussian_message(
        self, s: Tensor, *, anchor: Anchor, z_noise: Tensor | None = None
    ) -> GaussianMessage:
        """Return p(s_t | s_<t, z_<=t, w) at the iterate, the encoder's z and its mean of w.

        Row t knows s_<t, and of s_{>=t} what the encoder put into the z it reads.
        """
        self.check(s, anchor)
        if self.global_dim:
            given = self.given(self.global_posterior(s).mean)
            return given.gaussian_message(s, anchor=anchor, z_noise=z_noise)
        x, z = self.see(s), self.infer(s, noise=z_noise).z
        return self.emission.message(self.cell.all_outputs(z, x), s, anchor)

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
        w_noise: Tensor | None = None,  # shape: (*batch, L_w)
    ) -> Tensor:  # nats a sequence, shape: (*batch)
        r"""Return one draw of the bound on log p(s), with pathwise gradients.

            \sum_t E_q[log p(s_t | s_<t, z_<=t, w) - KL(q(z_t | s, z_<t, w) || p(z_t | ...))]
                - KL(q(w | s) || p(w))

        Args:
            s: the trajectories.
            anchor: p(s_1) in place of the model's.
            mask: True where a frame counts.
            history: what all networks are fed with in place of s, e.g. a tracker's estimate of s;
                the increments that they are to predict stay those of s.
            use_prediction: scheduled sampling: the probability, drawn for every frame of every
                sequence, that the generative networks are fed with their own detached prediction
                in place of s_t. The encoder reads s.
            kl_weight: weight of the KL terms; 1 is the bound.
            z_noise: standard normal; drawn where it is None.
            w_noise: likewise.
        """
        self.check(s, anchor)
        fed = s if history is None else history
        if self.global_dim:
            q_w = self.global_posterior(fed, mask=mask)
            w = q_w.rsample() if w_noise is None else q_w.mean + q_w.stddev * w_noise
            bound = self.given(w).elbo(
                s, anchor=anchor, mask=mask, history=history, use_prediction=use_prediction,
                kl_weight=kl_weight, z_noise=z_noise,
            )
            return bound - kl_weight * kl_divergence(q_w, self.global_prior())
        if z_noise is None:
            z_noise = torch.randn((*s.shape[:-1], self.latent_dim), dtype=s.dtype, device=s.device)
        q, past = self.infer(fed, noise=z_noise, mask=mask), s
        if use_prediction > 0:
            fed = past = self.own_history(
                fed, q.z, probability=use_prediction, anchor=anchor, mask=mask
            )
        x = self.see(fed)
        p_s = self.emission.conditionals(self.cell.all_outputs(q.z, x, mask), past, anchor)
        p_mean, p_log_variance = self.cell.all_latents(q.z, x)
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
        if self.global_dim:
            return self.given(self.global_posterior(s_history).mean).predict(s_history, horizon)
        z, x = self.infer(s_history, noise=None).z, rows(self.see(s_history))
        num_steps = s_history.shape[-2] + horizon
        frames = list(frame_by_frame(self, s_history, num_steps, z=z, s=rows(s_history), x=x))
        future = torch.stack([frame.s for frame in frames[-horizon:]], 1)
        return future.reshape(*s_history.shape[:-2], horizon, self.source_dim)
