"""Deep AR: a recurrent network predicts the next frame, with no latent variable."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyromodels.distributions.message import Anchor, GaussianMessage
from pyromodels.distributions.path import PathDistribution
from pyromodels.dynamics.base import SourcePrior, Statement
from pyromodels.emissions.base import Emission, Outputs, make_emission
from pyromodels.networks.mlp import Heads, Recurrence
from pyromodels.registry import DYNAMICS


@DYNAMICS.register("deep_ar")
class DeepAR(SourcePrior):
    r"""Deep autoregressive prior, p(s) = p(s_1) \prod_{t>1} N(s_t; mu(s_<t), diag v(s_<t)).

        h_t          = LSTM(x_{t-1}, h_{t-1})
        mu_t, log v_t = decoder(h_t)

    x is what the emission shows of s: s itself, or its increments in units of the box.

    ======  =============  ==================  ==================
    symbol  name           shape               unit
    ======  =============  ==================  ==================
    s       s              (*batch, N, T, D)   as the data
    x       x              (*batch, N, T, D)   s, or typical steps
    h       h              (*batch, N, T, H)   1
    ======  =============  ==================  ==================

    Reference: Lin, 2024 (thesis), section 4.4.5: an LSTM with hidden size 8.

    Args:
        source_dim: D.
        hidden_dim: H.
        input_dims: tanh layers before the LSTM; none as published.
        decoder_dims: tanh layers after it; none as published.
        emission: see `pyromodels.emissions`.

    Example:
        >>> steps = {"name": "gaussian", "predicts": "increment", "scale": "unit"}
        >>> prior = DeepAR(source_dim=2, emission=steps)
        >>> anchor = Anchor(torch.zeros(3, 2), torch.ones(3, 2))
        >>> prior.path(10, anchor=anchor).rsample().shape
        torch.Size([3, 10, 2])
    """

    block_dim = 1
    message_is_exact = False
    contract_specs = (
        {"source_dim": 1, "hidden_dim": 3},
        {
            "source_dim": 1,
            "hidden_dim": 3,
            "emission": {"name": "gaussian", "predicts": "increment", "scale": "unit"},
        },
        {"input_dims": (5,), "decoder_dims": (6,)},
        {"emission": {"name": "gaussian", "predicts": "increment"}},
    )

    def __init__(
        self,
        *,
        source_dim: int = 4,
        hidden_dim: int = 8,
        input_dims: Sequence[int] = (),
        decoder_dims: Sequence[int] = (),
        emission: str | Mapping[str, Any] | Emission = "gaussian",
    ) -> None:
        super().__init__()
        self.source_dim = source_dim
        self.emission = make_emission(emission)
        self.emission.check_source_dim(source_dim)
        self.recurrence = Recurrence(source_dim, input_dims, hidden_dim)
        self.decoder = Heads((hidden_dim,), decoder_dims, source_dim, self.emission.outputs)

    def path(
        self,
        num_steps: int,
        *,
        anchor: Anchor,
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
    ) -> PathDistribution:
        """Return p(s_{1:T}), batch shape that of the anchor."""
        return _DeepARPath(self, num_steps, anchor, mask)

    def sample_sources(
        self,
        name: str,
        num_steps: int,
        *,
        anchor: Anchor,
        mask: Tensor | None = None,
        sample: Statement = pyro.sample,
    ) -> Tensor:
        """s ~ p(s)."""
        return sample(name, self.path(num_steps, anchor=anchor, mask=mask))

    def guide_sources(
        self, name: str, s: Tensor, *, anchor: Anchor, mask: Tensor | None = None
    ) -> None:
        """No latents of its own: nothing to sample."""

    def gaussian_message(
        self, s: Tensor, *, anchor: Anchor, z_noise: Tensor | None = None
    ) -> GaussianMessage:
        """Return p(s_t | s_<t) at the iterate; row t depends on s_<t only."""
        self.check(s, anchor)
        return self.emission.message(self.decode(s), s, anchor)

    def elbo(
        self,
        s: Tensor,  # shape: (*batch, T, D)
        *,
        anchor: Anchor,
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
        history: Tensor | None = None,  # shape: (*batch, T, D)
        use_prediction: float = 0.0,
    ) -> Tensor:  # nats a sequence, shape: (*batch)
        """Return log p(s): exact, there is nothing to bound.

        Args:
            s: the trajectories.
            anchor: p(s_1).
            mask: True where a frame counts.
            history: what the network is fed with in place of s, e.g. a tracker's estimate of s;
                the increments that it is to predict stay those of s.
            use_prediction: scheduled sampling: the probability, drawn for every frame of every
                sequence, that the network is fed with its own detached prediction.
        """
        self.check(s, anchor)
        history, before_s = s if history is None else history, s
        if use_prediction > 0:
            history = before_s = self.own_history(history, use_prediction)
        p = self.emission.conditionals(self.decode(history), before_s, anchor)
        per_frame = p.log_prob(s)
        return (per_frame if mask is None else torch.where(mask, per_frame, 0.0)).sum(-1)

    @torch.no_grad()
    def predict(
        self,
        s_history: Tensor,  # shape: (*batch, T, D)
        horizon: int,
    ) -> Tensor:  # shape: (*batch, horizon, D)
        """Return the mean trajectory after the history, means fed back."""
        x = self.emission.see(s_history)
        state = self.recurrence.summary(x)
        x, s = (v[..., -1, :].reshape(-1, self.source_dim) for v in (x, s_history))
        future = []
        for _ in range(horizon):
            state = self.recurrence.step(x, state)
            following = self.emission.expected(self.decoder(state[0]), s)
            x, s = self.emission.relative(following, s), following
            future.append(s)
        return torch.stack(future, -2).reshape(*s_history.shape[:-2], horizon, self.source_dim)

    def decode(
        self,
        history: Tensor,  # shape: (*batch, T, D)
    ) -> Outputs:  # each (*batch, T, D)
        """Return the decoder's outputs of every frame in the coordinates x, teacher-forced."""
        return self.decoder(self.recurrence(self.emission.see(history)))

    @torch.no_grad()
    def own_history(self, history: Tensor, probability: float) -> Tensor:
        """Replace frames by the network's predictions from what came before, replaced or not."""
        rows = history.reshape(-1, *history.shape[-2:])
        own = torch.rand(rows.shape[:2], dtype=rows.dtype, device=rows.device) < probability
        s, x = rows[:, 0], self.emission.relative(rows[:, 0], None)
        state = self.recurrence.step(torch.zeros_like(x), self.recurrence.initial_state(x))
        mixed = [s]
        for t in range(1, rows.shape[1]):
            state = self.recurrence.step(x, state)
            predicted = self.emission.expected(self.decoder(state[0]), s)
            following = torch.where(own[:, t, None], predicted, rows[:, t])
            x, s = self.emission.relative(following, s), following
            mixed.append(s)
        return torch.stack(mixed, 1).reshape(history.shape)


class _DeepARPath(PathDistribution):
    """p(s_t | s_<t) of a `DeepAR`."""

    def __init__(self, prior: DeepAR, num_steps: int, anchor: Anchor, mask: Tensor | None) -> None:
        super().__init__(
            anchor.loc.shape[:-1], num_steps, prior.source_dim, like=anchor.loc, mask=mask
        )
        self.prior, self.anchor = prior, anchor

    def conditionals(self, value: Tensor) -> dist.TorchDistribution:
        prior = self.prior
        return prior.emission.conditionals(prior.decode(value), value, self.anchor)

    def roll_out(self, noise: Tensor) -> Tensor:
        prior, emission = self.prior, self.prior.emission
        loc, variance = (v.expand_as(noise[..., 0, :]) for v in self.anchor)
        rows = noise.reshape(-1, *noise.shape[-2:])
        s = loc.reshape(rows[:, 0].shape) + variance.sqrt().reshape(rows[:, 0].shape) * rows[:, 0]
        x = emission.relative(s, None)
        state = prior.recurrence.step(torch.zeros_like(x), prior.recurrence.initial_state(x))
        path = [s]
        for t in range(1, rows.shape[1]):
            state = prior.recurrence.step(x, state)
            following = emission.draw(prior.decoder(state[0]), rows[:, t], s)
            x, s = emission.relative(following, s), following
            path.append(s)
        return torch.stack(path, 1).reshape(noise.shape)
