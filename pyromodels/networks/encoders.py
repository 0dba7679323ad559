"""Amortised inference networks: which frames q(z_t) looks at, and which z it has drawn before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pyromodels.errors import SpecError, mismatch, unknown
from pyromodels.networks.mlp import (
    MLP,
    Heads,
    before,
    driven,
    lstm_step,
    rows,
    run_lstm,
    run_lstm_backward,
)
from pyromodels.registry import check_call

if TYPE_CHECKING:
    from pyromodels.dynamics.cell import Cell

PRESETS: dict[str, dict[str, Any]] = {  # and what q(z_t | .) then reads
    "vae": {"direction": "frame", "feedback": "none", "shares": False},  # x_t
    "dkf": {"direction": "backward", "feedback": "previous", "shares": False},  # x_t:T, z_t-1
    "rvae": {"direction": "backward", "feedback": "all", "shares": False},  # x_t:T, z_1:t-1
    "rvae_noncausal": {"direction": "both", "feedback": "all", "shares": False},  # x_1:T, z_1:t-1
    "storn": {"direction": "forward", "feedback": "none", "shares": False},  # x_1:t
    "vrnn": {"direction": "frame", "feedback": "none", "shares": True},  # x_1:t, z_1:t-1
    "srnn": {"direction": "backward", "feedback": "previous", "shares": True},  # x_1:T, z_t-1
    "srnn_filter": {"direction": "frame", "feedback": "previous", "shares": True},  # x_1:t, z_t-1
}
"""The papers' encoders, by what they look at; `srnn_filter` is the SRNN's for tracking. Those that
share read h_t, which knows x_<t and, in `vrnn`, z_<t."""


class Inferred(NamedTuple):
    """A draw from q(z_{1:T} | x_{1:T}) and the Gaussians along it."""

    z: Tensor  # shape: (*batch, T, L)
    mean: Tensor  # of q(z_t | x, z_<t), shape: (*batch, T, L)
    log_variance: Tensor  # shape: (*batch, T, L)


class GloballyInferred(NamedTuple):
    """A draw from q(w | x) q(z | x, w) and the Gaussians along it."""

    z: Tensor  # shape: (*batch, T, L)
    mean: Tensor  # of q(z_t | x, w), shape: (*batch, T, L)
    log_variance: Tensor  # shape: (*batch, T, L)
    w: Tensor  # shape: (*batch, L_w)
    w_mean: Tensor  # of q(w | x), shape: (*batch, L_w)
    w_log_variance: Tensor  # shape: (*batch, L_w)


class Shared(NamedTuple):
    """Sizes of what an encoder may share with the generative networks; see `Cell`."""

    context_dim: int = 0  # H, of h_t, which knows x_<t; 0 where there is none
    features_dim: int | None = None  # of what it sees of x_t; None: x_t itself
    needs_latents: bool = False  # whether h_t depends on z_<t


class Encoder(nn.Module):
    r"""q(z_{1:T} | x_{1:T}) = \prod_t N(z_t; mu_t, diag v_t), by direction and feedback.

        u_t = [h_t,] x_t                        h_t: the generative model's, where it is shared
        g_t = u_t | LSTM(u_{<=t}) | LSTM(u_{>=t}) | both
        f_t = nothing | z_{t-1} | LSTM(z_{<t})
        mu_t, log v_t = head(g_t, f_t)

    Dense layers of tanh may stand before u_t enters the summary and after z_{t-1}. Where h_t itself
    depends on z_{<t} (VRNN) it enters the head, frame by frame. `PRESETS` are the papers'.

    Reference: Girin et al., 2021, Dynamical variational autoencoders: a comprehensive review.

    Args:
        shared: what the generative networks have for it.
        source_dim: size of x_t.
        latent_dim: size of z_t.
        direction: "frame", "forward", "backward" or "both".
        feedback: "none", "previous" or "all".
        shares: whether it reads the generative model's h_t; nothing where the model has none.
        input_dims: tanh layers before the summary.
        summary_dim: size of each LSTM of the summary.
        feedback_dims: tanh layers after z_{t-1}.
        feedback_dim: size of the LSTM over them, where feedback is "all".
        combine: "concatenate" or "average" g_t and f_t, which then have one size.
        dims: tanh layers of the head.
    """

    def __init__(
        self,
        shared: Shared = Shared(),  # noqa: B008
        *,
        source_dim: int,
        latent_dim: int,
        direction: Literal["frame", "forward", "backward", "both"] = "frame",
        feedback: Literal["none", "previous", "all"] = "none",
        shares: bool = False,
        input_dims: Sequence[int] = (),
        summary_dim: int = 128,
        feedback_dims: Sequence[int] = (),
        feedback_dim: int = 128,
        combine: Literal["concatenate", "average"] = "concatenate",
        dims: Sequence[int] = (64, 32),
    ) -> None:
        super().__init__()
        context_dim = shared.context_dim if shares else 0
        self.latent_dim, self.direction, self.feedback = latent_dim, direction, feedback
        self.shares, self.combine = context_dim > 0, combine
        self.context_recurs = self.shares and shared.needs_latents
        first = 0 if self.context_recurs else context_dim
        frame = (self.shares and shared.features_dim) or source_dim
        self.input = MLP(first + frame, input_dims)
        summary = self.input.out_dim
        for name in ("forward", "backward"):
            if direction in (name, "both"):
                lstm = nn.LSTM(self.input.out_dim, summary_dim, batch_first=True)
                self.add_module(f"{name}_lstm", lstm)
                summary = 2 * summary_dim if direction == "both" else summary_dim
        sizes = [summary]
        if feedback != "none":
            self.fed = MLP(latent_dim, feedback_dims)
            sizes.append(self.fed.out_dim)
        if feedback == "all":
            self.feedback_lstm = nn.LSTM(self.fed.out_dim, feedback_dim, batch_first=True)
            sizes[-1] = feedback_dim
        if self.context_recurs:
            sizes.append(context_dim)
        if combine == "average":
            self.num_averaged = 3 if direction == "both" else 2
            self._check_average(sizes, summary_dim)
            sizes = [summary_dim]
        self.head = Heads(sizes, dims, latent_dim)

    def _check_average(self, sizes: list[int], summary_dim: int) -> None:
        if self.feedback == "none" or self.context_recurs or self.direction == "frame":
            raise SpecError(
                mismatch(
                    'encoder: combine="average"',
                    given=f"direction {self.direction!r}, feedback {self.feedback!r}",
                    expected="a summary and a feedback to average",
                )
            )
        if sizes[1] != summary_dim:
            raise SpecError(
                mismatch("encoder: size of the feedback", given=sizes[1], expected=summary_dim)
            )

    @property
    def recurs(self) -> bool:
        """Whether q(z_t) depends on z_{<t}, so that drawing takes a loop over time."""
        return self.feedback != "none" or self.context_recurs

    # ---- all frames at once, z known

    def parameters_of(
        self,
        networks: Cell,
        z: Tensor,  # shape: (*, T, L)
        x: Tensor,  # shape: (*, T, X)
        mask: Tensor | None = None,  # shape: broadcastable to (*, T)
    ) -> tuple[Tensor, Tensor]:  # mean, log variance; each (*, T, L)
        """Return q(z_t | x, z_<t) of every frame."""
        parts = [self.summary(networks, x, mask)]
        if self.feedback != "none":
            fed = self.fed(before(z))
            parts.append(run_lstm(self.feedback_lstm, fed) if self.feedback == "all" else fed)
        if self.context_recurs:
            parts.append(networks.hidden(z, x))
        if self.combine == "average":
            parts = [self._averaged(parts[0]) + parts[1] / self.num_averaged]
        return self.head(*parts)

    def summary(
        self,
        networks: Cell,
        x: Tensor,  # shape: (*, T, X)
        mask: Tensor | None = None,  # shape: broadcastable to (*, T)
    ) -> Tensor:  # g, shape: (*, T, G)
        """Return what is known of every frame before any z is drawn."""
        seen = networks.features(x) if self.shares else x
        if self.shares and not self.context_recurs:
            seen = torch.cat((networks.hidden(None, x), seen), -1)
        u = self.input(seen)
        parts = []
        if self.direction in ("forward", "both"):
            parts.append(run_lstm(self.forward_lstm, u))
        if self.direction in ("backward", "both"):
            parts.append(run_lstm_backward(self.backward_lstm, u, mask))
        return torch.cat(parts, -1) if parts else u

    def _averaged(self, summary: Tensor) -> Tensor:
        return sum(summary.chunk(self.num_averaged - 1, -1)) / self.num_averaged

    # ---- drawing

    def infer(
        self,
        networks: Cell,
        x: Tensor,  # shape: (*batch, T, X)
        *,
        noise: Tensor | None,  # shape: (*batch, T, L); None: z is the mean
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
    ) -> Inferred:
        """Return z driven by the noise; the loop over time, if any, adds what recurs alone."""
        g = self.summary(networks, x, mask)
        if not self.recurs:
            mean, log_variance = self.head(g)
            z = driven(mean, log_variance, noise)
            mean, log_variance = mean.expand_as(z), log_variance.expand_as(z)
            return Inferred(z, mean, log_variance)
        head = self.head.split()
        averages = self.combine == "average"
        known = head.known(self._averaged(g) if averages else g)
        batch = known.shape[:-2] if noise is None else noise.shape[:-2]
        steps = rows(known.expand(*batch, *known.shape[-2:])).unbind(1)
        draws = [None] * len(steps) if noise is None else rows(noise).unbind(1)
        z, memory = known.new_zeros(len(steps[0]), self.latent_dim), None
        if self.context_recurs:
            state = networks.start(batch, known)
            frames = rows(x.expand(*batch, *x.shape[-2:])).unbind(1)
        sequence = []
        for t, (known_t, noise_t) in enumerate(zip(steps, draws, strict=True)):
            recurs = {}
            if self.feedback != "none":
                fed = self.fed(z)
                if self.feedback == "all":
                    memory = lstm_step(self.feedback_lstm, fed, memory)
                    fed = memory[0]
                recurs = {0: fed / self.num_averaged} if averages else {1: fed}
            if self.context_recurs:
                recurs[len(head.shares) - 1] = networks.hidden_step(state)
            mean, log_variance = head.step(known_t, recurs)
            z = driven(mean, log_variance, noise_t)
            sequence.append((z, mean, log_variance))
            if self.context_recurs:
                state = networks.advance(state, z, frames[t])
        stacked = (torch.stack(values, 1) for values in zip(*sequence, strict=True))
        return Inferred(*(v.reshape(*batch, *v.shape[-2:]) for v in stacked))


def make_encoder(
    spec: str | Mapping[str, Any],
    *,
    source_dim: int,
    latent_dim: int,
    shared: Shared = Shared(),  # noqa: B008
) -> Encoder:
    """Build an encoder from the name of a preset, or from a table of `Encoder`'s arguments.

    A table may name a `preset`, whose direction, feedback and sharing its other keys override.

    Raises:
        SpecError: unknown preset or key, or a value of the wrong type.
    """
    keywords = {"preset": spec} if isinstance(spec, str) else dict(spec)
    name = keywords.pop("preset", None)
    if name is not None:
        if name not in PRESETS:
            raise SpecError(unknown("encoder preset", given=name, known=PRESETS))
        keywords = {**PRESETS[name], **keywords}
    keywords |= {"source_dim": source_dim, "latent_dim": latent_dim}
    check_call("encoder", Encoder, (shared,), keywords)
    return Encoder(shared, **keywords)
