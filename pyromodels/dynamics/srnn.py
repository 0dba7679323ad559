"""SRNN, the stochastic recurrent neural network: the published prior of MixDVAE."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import pyro
import torch
from torch import Tensor

from pyromodels.distributions.coupled import CoupledPaths
from pyromodels.distributions.message import Anchor, GaussianMessage
from pyromodels.distributions.path import PathDistribution
from pyromodels.dynamics.base import Coordinates, SourcePrior, Statement
from pyromodels.dynamics.srnn_paths import EncoderPath, SRNNPaths, before, rows
from pyromodels.errors import mismatch
from pyromodels.nets import GaussianMLP, Recurrence, SplitMLP
from pyromodels.registry import DYNAMICS

PUBLISHED_KEYS = {
    "mlp_x_h.linear_0": "recurrence.input.layers.0",
    "rnn_h": "recurrence.lstm",
    "mlp_gz_z.linear_0": "encoder.body.layers.0",
    "mlp_gz_z.linear_1": "encoder.body.layers.1",
    "inf_z_mean": "encoder.mean",
    "inf_z_logvar": "encoder.log_variance",
    "mlp_hz_z.linear_0": "prior.body.layers.0",
    "mlp_hz_z.linear_1": "prior.body.layers.1",
    "prior_z_mean": "prior.mean",
    "prior_z_logvar": "prior.log_variance",
    "mlp_hz_x.linear_0": "decoder.body.layers.0",
    "gen_x_mean": "decoder.mean",
    "gen_x_logvar": "decoder.log_variance",
}
"""Module names of the published state dict (tracking) -> ours."""


class Inferred(NamedTuple):
    """A draw from q(z_{1:T} | s_{1:T}) and the Gaussians along it."""

    z: Tensor  # shape: (*batch, T, L)
    mean: Tensor  # mean of q(z_t | s_<=t, z_{t-1}), shape: (*batch, T, L)
    log_variance: Tensor  # shape: (*batch, T, L)


class SRNNSteps(NamedTuple):
    """The networks as step functions for recursions over time, rows flat; see `SRNN.steps`."""

    encoder: SplitMLP  # inputs 0: h_t, 1: x_t, 2: z_{t-1}
    prior: SplitMLP  # inputs 0: h_t, 1: z_{t-1}
    decoder: SplitMLP  # inputs 0: h_t, 1: z_t


@DYNAMICS.register("srnn")
class SRNN(SourcePrior):
    r"""Stochastic recurrent neural network, prior and inference model sharing one LSTM.

        p(s, z) = \prod_t p(z_t | s_{<t}, z_{t-1}) p(s_t | s_{<t}, z_t)             (3.28)
        q(z|s)  = \prod_t q(z_t | s_{<=t}, z_{t-1})                                 (3.29)

        h_t                = LSTM(dense(x_{t-1}), h_{t-1}),  h_1 from x_0 = 0        (A.26)
        z_t | s_<t, z_{t-1}  ~ N(prior(h_t, z_{t-1})),         z_0 = 0                (A.27-28)
        s_t | s_<t, z_t      ~ N(decoder(h_t, z_t)) in the coordinates x, t > 1      (A.29-30)
        z_t | s_<=t, z_{t-1} ~ N(encoder(h_t, x_t, z_{t-1}))                         (A.31-32)

    s_1 ~ N(anchor); z_1 acts on s through z_2. x is what `Coordinates` shows of s: s itself
    (`predicts="position"`, as published) or its increments in units of the box, which know neither
    where the box is nor how large (`predicts="increment"`).

    ======  =============  ==================  ==================
    symbol  name           shape               unit
    ======  =============  ==================  ==================
    s       s              (*batch, N, T, D)   as the data
    x       x              (*batch, N, T, D)   s, or typical steps
    z       z              (*batch, N, T, L)   1
    h       h              (*batch, N, T, H)   1
    ======  =============  ==================  ==================

    Departure: the published loss leaves the factor 1/2 out of the reconstruction term and so weighs
    the KL term half; `elbo` is the bound itself, in nats, constants included.

    Reference: Lin, 2024 (thesis), eq. 3.28-3.29 and appendix A.1.2; Fraccaro et al., 2016,
    Sequential neural models with stochastic layers. The defaults are the sizes for tracking.

    Args:
        source_dim: D.
        latent_dim: L.
        hidden_dim: H.
        input_dims: tanh layers between x and the LSTM.
        encoder_dims: tanh layers of the encoder, one at least.
        prior_dims: tanh layers of the prior of z, one at least.
        decoder_dims: tanh layers of the decoder, one at least.
        predicts, scale, typical_step, min_size, std_range: see `Coordinates`.

    Example:
        >>> prior = SRNN(predicts="increment")
        >>> box = torch.tensor([[0.1, 0.2, 0.2, 0.5]])
        >>> anchor = Anchor(box, torch.full_like(box, 1e-5))
        >>> prior.sample_sources("s", 60, anchor=anchor).shape
        torch.Size([1, 60, 4])
    """

    block_dim = 1
    message_is_exact = False
    contract_specs = (
        {"source_dim": 1, "latent_dim": 1, "hidden_dim": 3},
        {
            "source_dim": 1,
            "latent_dim": 1,
            "hidden_dim": 3,
            "predicts": "increment",
            "scale": "unit",
        },
        {},
        {"predicts": "increment"},
    )

    def __init__(
        self,
        *,
        source_dim: int = 4,
        latent_dim: int = 4,
        hidden_dim: int = 8,
        input_dims: Sequence[int] = (4,),
        encoder_dims: Sequence[int] = (16, 8),
        prior_dims: Sequence[int] = (8, 8),
        decoder_dims: Sequence[int] = (16,),
        predicts: Literal["position", "increment"] = "position",
        scale: Literal["box", "centre_box", "unit"] = "box",
        typical_step: float = 0.05,
        min_size: float = 1e-3,
        std_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        for name, dims in (
            ("encoder", encoder_dims),
            ("prior", prior_dims),
            ("decoder", decoder_dims),
        ):
            if not dims:
                raise ValueError(
                    mismatch(f"{name}_dims", given="no layer", expected="one at least")
                )
        self.source_dim, self.latent_dim = source_dim, latent_dim
        self.coordinates = Coordinates(predicts, scale, typical_step, min_size, std_range)
        self.coordinates.check_source_dim(source_dim)
        self.recurrence = Recurrence(source_dim, input_dims, hidden_dim)
        self.encoder = GaussianMLP((hidden_dim, source_dim, latent_dim), encoder_dims, latent_dim)
        self.prior = GaussianMLP((hidden_dim, latent_dim), prior_dims, latent_dim)
        self.decoder = GaussianMLP((hidden_dim, latent_dim), decoder_dims, source_dim)

    @classmethod
    def from_published(cls, state_dict: Mapping[str, Tensor]) -> "SRNN":
        """Return the published tracking SRNN with the weights of its authors' state dict.

        The published weights see boxes as [left, top, right, 2 top - bottom]: their fourth
        coordinate is the top minus the height.

        Raises:
            ValueError: naming the first key that is missing, unknown or of another shape.
        """
        model = cls()
        own, renamed = model.state_dict(), {}
        for theirs, ours in PUBLISHED_KEYS.items():
            for key in (k for k in own if k.startswith(f"{ours}.")):
                source = theirs + key.removeprefix(ours)
                if source not in state_dict:
                    raise ValueError(f"published SRNN weights lack {source!r}")
                if state_dict[source].shape != own[key].shape:
                    raise ValueError(
                        mismatch(
                            f"published SRNN weights: {source!r}",
                            given=f"shape {tuple(state_dict[source].shape)}",
                            expected=tuple(own[key].shape),
                        )
                    )
                renamed[source] = key
        for source in state_dict:
            if source not in renamed:
                raise ValueError(
                    f"published SRNN weights hold {source!r}, which this SRNN has no place for"
                )
        model.load_state_dict({key: state_dict[source] for source, key in renamed.items()})
        return model

    # ---- Pyro statements

    def pair(
        self,
        num_steps: int,
        *,
        anchor: Anchor,
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
    ) -> CoupledPaths:
        """Return p(z | s) and p(s | z) with their shared roll-out, batched as the anchor."""
        return SRNNPaths(self, num_steps, anchor, mask)

    def sample_sources(
        self,
        name: str,
        num_steps: int,
        *,
        anchor: Anchor,
        mask: Tensor | None = None,
        sample: Statement = pyro.sample,
    ) -> Tensor:
        """z, s ~ p(z, s): sites `name + "_z"` and `name`."""
        pair = self.pair(num_steps, anchor=anchor, mask=mask)
        z = pyro.sample(f"{name}_z", pair.latent)  # p(z_t | s_<t, z_{t-1})
        s = sample(name, pair.source(z))  # p(s_t | s_<t, z_t)
        pair.teach(s)
        return s

    def guide_sources(
        self, name: str, s: Tensor, *, anchor: Anchor, mask: Tensor | None = None
    ) -> None:
        """z ~ q(z | s): site `name + "_z"`."""
        self.check(s, anchor)
        pyro.sample(f"{name}_z", self.posterior(s, mask=mask))  # q(z_t | s_<=t, z_{t-1})

    def posterior(
        self,
        s: Tensor,  # shape: (*batch, T, D)
        *,
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
    ) -> PathDistribution:
        """Return q(z_{1:T} | s_{1:T}), event (T, L)."""
        return EncoderPath(self, s, mask)

    # ---- what inference uses without Pyro

    def gaussian_message(
        self, s: Tensor, *, anchor: Anchor, z_noise: Tensor | None = None
    ) -> GaussianMessage:
        """Return p(s_t | s_<t, z_t) at the iterate and the encoder's z.

        Row t depends on s_<t through h_t and, through z_t alone, on s_t as well (z_t is inferred
        from s_<=t, eq. 3.29); for increments also on s_{t-1} through the size of the box.
        """
        self.check(s, anchor)
        h, x = self.hidden(s)
        z = self.infer(h, x, noise=z_noise).z
        return self.coordinates.message(*self.decoder(h, z), s, anchor)

    def elbo(
        self,
        s: Tensor,  # shape: (*batch, T, D)
        *,
        anchor: Anchor,
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
        history: Tensor | None = None,  # shape: (*batch, T, D)
        use_prediction: float = 0.0,
        kl_weight: float = 1.0,
        z_noise: Tensor | None = None,  # shape: (*batch, T, L)
    ) -> Tensor:  # nats a sequence, shape: (*batch)
        r"""Return one draw of the bound on log p(s), with pathwise gradients.

            \sum_t E_q[log p(s_t | s_<t, z_t)
                       - KL(q(z_t | s_<=t, z_{t-1}) || p(z_t | s_<t, z_{t-1}))]

        Args:
            s: the trajectories.
            anchor: p(s_1).
            mask: True where a frame counts.
            history: what the networks are fed with in place of s, e.g. a tracker's estimate of s;
                the increments that they are to predict stay those of s.
            use_prediction: scheduled sampling: the probability, drawn for every frame of every
                sequence, that the networks are fed with their own detached prediction in place of
                s_t.
            kl_weight: weight of the KL term; 1 is the bound.
            z_noise: standard normal; drawn where it is None.
        """
        self.check(s, anchor)
        history, before_s = s if history is None else history, s
        if z_noise is None:
            z_noise = torch.randn((*s.shape[:-1], self.latent_dim), dtype=s.dtype, device=s.device)
        if use_prediction > 0:
            history = before_s = self.own_history(s, history, use_prediction, z_noise)
        h, x = self.hidden(history)
        if use_prediction > 0:
            x = self.coordinates.see(s, history)
        q = self.infer(h, x, noise=z_noise)
        p_s = self.coordinates.conditionals(*self.decoder(h, q.z), before_s, anchor)
        p_mean, p_log_variance = self.prior(h, before(q.z))
        difference = q.log_variance - p_log_variance
        distance = (q.mean - p_mean).square() * (-p_log_variance).exp()
        kl = 0.5 * (difference.exp() - 1 - difference + distance).sum(-1)
        per_frame = p_s.log_prob(s) - kl_weight * kl
        return (per_frame if mask is None else torch.where(mask, per_frame, 0.0)).sum(-1)

    def infer(
        self,
        h: Tensor,  # shape: (*batch, T, H)
        x: Tensor,  # what the encoder sees of s_t, shape: (*batch, T, D)
        *,
        noise: Tensor | None,  # shape: (*batch, T, L); None: z is the mean
    ) -> Inferred:
        """Return z driven by the noise through the encoder's recursion, z_0 = 0."""
        encoder = self.encoder.split()
        known = encoder.known({0: h, 1: x})
        batch = known.shape[:-1] if noise is None else noise.shape[:-1]
        steps = known.expand(*batch, -1).reshape(-1, *known.shape[-2:]).unbind(1)
        draws = [None] * len(steps) if noise is None else rows(noise).unbind(1)
        z, sequence = h.new_zeros(steps[0].shape[0], self.latent_dim), []
        for known_t, noise_t in zip(steps, draws, strict=True):
            mean, log_variance = encoder.step(known_t, 2, z)
            z = mean if noise_t is None else mean + (0.5 * log_variance).exp() * noise_t
            sequence.append((z, mean, log_variance))
        stacked = (torch.stack(values, 1) for values in zip(*sequence, strict=True))
        return Inferred(*(v.reshape(*batch, self.latent_dim) for v in stacked))

    @torch.no_grad()
    def predict(
        self,
        s_history: Tensor,  # shape: (*batch, T, D)
        horizon: int,
    ) -> Tensor:  # shape: (*batch, horizon, D)
        """Return the mean trajectory after the history: encoder means in it, prior means after."""
        x = self.coordinates.see(s_history)
        h, state = self.recurrence.summary(x)
        z = self.infer(h, x, noise=None).z
        x, s, z = (rows(v)[:, -1] for v in (x, s_history, z))
        future = []
        for _ in range(horizon):
            state = self.recurrence.step(x, state)
            z, _ = self.prior(state[0], z)
            following = self.coordinates.absolute(self.decoder(state[0], z)[0], s)
            x, s = self.coordinates.relative(following, s), following
            future.append(s)
        return torch.stack(future, -2).reshape(*s_history.shape[:-2], horizon, self.source_dim)

    def steps(self) -> SRNNSteps:
        """Return encoder, prior and decoder split for recursions; the LSTM's is `recurrence.step`.

        Everything known before the recursion goes through `known` in one product; a step is then a
        few native calls on rows. Weights are taken now: call it once a sweep, after any update of
        them.
        """
        return SRNNSteps(self.encoder.split(), self.prior.split(), self.decoder.split())

    def hidden(
        self,
        s: Tensor,  # shape: (*batch, T, D)
    ) -> tuple[Tensor, Tensor]:  # h, shape: (*batch, T, H); x, shape: (*batch, T, D)
        """Return h and x of a trajectory, teacher-forced by one fused LSTM call."""
        x = self.coordinates.see(s)
        return self.recurrence(x), x

    @torch.no_grad()
    def own_history(
        self, s: Tensor, history: Tensor, probability: float, z_noise: Tensor
    ) -> Tensor:
        """Replace frames by the model's predictions from what came before, replaced or not."""
        coordinates, steps = self.coordinates, self.steps()
        target, given, noise = rows(s), rows(history), rows(z_noise)
        own = torch.rand(given.shape[:2], dtype=given.dtype, device=given.device) < probability
        x, z = torch.zeros_like(given[:, 0]), torch.zeros_like(noise[:, 0])
        state, mixed = self.recurrence.initial_state(x), []
        for t in range(given.shape[1]):
            state = self.recurrence.step(x, state)  # h_t
            last = mixed[-1] if mixed else None
            seen = (
                coordinates.relative(target[:, t], last)
                if mixed
                else coordinates.first(target[:, 0])
            )
            mean, log_variance = steps.encoder.step(
                steps.encoder.known({0: state[0], 1: seen}), 2, z
            )
            z = mean + (0.5 * log_variance).exp() * noise[:, t]
            if mixed:
                mean = steps.decoder.step_mean(steps.decoder.known({0: state[0]}), 1, z)
                following = torch.where(
                    own[:, t, None], coordinates.absolute(mean, last), given[:, t]
                )
                x = coordinates.relative(following, last)
            else:
                following, x = given[:, 0], coordinates.first(given[:, 0])
            mixed.append(following)
        return torch.stack(mixed, 1).reshape(history.shape)
