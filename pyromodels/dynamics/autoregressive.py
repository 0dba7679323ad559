"""Priors without latents: every frame has a law that a memory of the past says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyromodels.distributions.message import Anchor, GaussianMessage
from pyromodels.distributions.path import PathDistribution
from pyromodels.dynamics.base import EmittingPrior, Statement
from pyromodels.dynamics.cell import Frame, frames_of_its_own, unroll
from pyromodels.emissions.base import (
    DecodedEmission,
    DecoderHead,
    Emission,
    FrameLaw,
    make_emission,
)
from pyromodels.errors import SpecError, mismatch
from pyromodels.networks.memory import Kind, Memory, make_memory
from pyromodels.networks.side_by_side import check_members, from_members, to_members
from pyromodels.registry import DYNAMICS

OLD_NAMES = {
    "past.": "memory.",
    "recurrence.": "memory.recurrence.",
    **{f"{name}.": f"head.{name}." for name in ("flow", "hidden", "heads", "weights", "decoder")},
}
"""Parameters of weights that were written before 0.2 -> what they are called now."""


@DYNAMICS.register("autoregressive")
class Autoregressive(EmittingPrior):
    r"""p(x) = \prod_t p(x_t | e_t), a memory times an emission.

        e_t = Phi(e_{t-1}, x_{t-1})            the memory
        x_t | e_t ~ emission(head(e_t))

    With several members it is several models at once, e.g. one for every class: the last batch
    dimension of a trajectory then counts them, as a batch of normals has a mean for each. Members
    have networks of their own, or are tied: they share all networks, and each has a vector that
    joins e and is all that tells it from the others. What classes have in common is then learned
    from all of them, and cancels in a ratio of likelihoods.

    Args:
        source_dim: D.
        past_dim: N, size of e.
        memory: what makes e, "gru", "lstm", "convolution" or "wavenet", or a `Memory`.
        emission: see `pyromodels.emissions`; it brings the networks that read e.
        decoder_dims: tanh layers of these, where the emission has none of its own.
        num_members: M.
        tied_dim: size of the vector of each member where they are tied; 0: they are not.

    Raises:
        SpecError: a size below 1.

    Example:
        >>> prior = Autoregressive(source_dim=3, memory="convolution", emission="spectral")
        >>> prior.path(20).rsample().shape
        torch.Size([20, 3])
    """

    contract_specs: ClassVar[tuple[dict[str, Any], ...]] = (
        {"source_dim": 1, "past_dim": 3},
        {"source_dim": 2, "past_dim": 3, "memory": "convolution", "emission": "spectral",
         "decoder_dims": (4,)},
        {"source_dim": 2, "past_dim": 3, "memory": "wavenet"},
    )  # fmt: skip

    def __init__(
        self,
        *,
        source_dim: int = 4,
        past_dim: int = 64,
        memory: Kind | Memory = "gru",
        emission: str | Mapping[str, Any] | Emission = "gaussian",
        decoder_dims: Sequence[int] = (),
        num_members: int = 1,
        tied_dim: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"source_dim": source_dim, "past_dim": past_dim, "num_members": num_members}
        for name, size in sizes.items():
            if size < 1:
                raise SpecError(mismatch(name, given=size, expected="1 or more"))
        if tied_dim < 0:
            raise SpecError(mismatch("tied_dim", given=tied_dim, expected="0 or more"))
        self.num_members = num_members
        self.num_networks = 1 if tied_dim else num_members
        self.emission = make_emission(emission)
        self.emission.check_source_dim(source_dim)
        self.source_dim = self.emission.frame_dim(source_dim)
        self.memory = make_memory(memory, self.num_networks, source_dim, past_dim)
        names = torch.randn(1, num_members, tied_dim) if tied_dim else None
        self.names = None if names is None else nn.Parameter(names)
        self.head = self.emission.head(
            source_dim, self.memory.dim + tied_dim, dims=decoder_dims, num_members=self.num_networks
        )

    @property
    def feeds_back(self) -> bool:
        """Whether anything depends on s_{<t}: it is all there is."""
        return True

    def with_emission(self, emission: str | Mapping[str, Any] | Emission) -> Autoregressive:
        """Return the same networks with another emission, of the same outputs: a law of spectra in
        place of that of powers.

        Raises:
            SpecError: where there are several members, or the head is no decoder.
        """
        if self.num_members > 1 or not isinstance(self.head, DecoderHead):
            given = f"{type(self.head).__name__}, num_members={self.num_members}"
            expected = "one model with a decoder, e.g. of spectral frames"
            raise SpecError(mismatch("head of with_emission", given=given, expected=expected))
        law = make_emission(emission, DecodedEmission)
        other = Autoregressive(source_dim=self.memory.in_dim, memory=self.memory, emission=law)
        other.head = DecoderHead(law, self.head.decoder)
        return other

    # ---- all frames at once

    def summary(
        self,
        s: Tensor,  # shape: (*, T, D), broadcastable to batch_shape + (T, D)
        batch_shape: torch.Size | None = None,  # (*batch); None: that of s
    ) -> Tensor:  # e, shape: (*batch, T, context_dim)
        """Return what is known of the past at every frame, and, if tied, whose frame it is."""
        batch_shape = s.shape[:-2] if batch_shape is None else batch_shape
        check_members(batch_shape, self.num_members)
        if self.num_networks > 1:
            s = s.expand(*batch_shape, *s.shape[-2:])
        x = to_members(self.head.see(s), self.num_networks, 2)
        e = from_members(self.memory(x), s.shape[:-2]).expand(*batch_shape, s.shape[-2], -1)
        return e if self.names is None else _named(e, self.names.squeeze(0).unsqueeze(-2))

    def laws(
        self,
        s: Tensor,  # what the memory reads, shape: (*, T, D)
        history: Tensor,  # what increments are added to, shape: (*, T, D)
        anchor: Anchor | None,
        batch_shape: torch.Size | None = None,  # (*batch); None: that of s
    ) -> dist.TorchDistribution:  # batch (*batch, T), event (D,)
        """Return p(s_t | s_<t) of every frame; the anchor takes the place of the first."""
        return self.head.conditionals(self.summary(s, batch_shape), history, anchor)

    # ---- frame by frame: members first, rows flat

    def start(self, like: Tensor, batch_shape: torch.Size) -> Past:
        """Return what is known before the first frame; `like` has shape (M, R, ...)."""
        names = None
        if self.names is not None:
            names = self.names.expand(*batch_shape, -1).reshape(*like.shape[:2], -1)
        return Past(*self.memory.start(like), names)

    def outputs(self, state: Past, z: Tensor) -> Tensor:
        """Return what the head reads."""
        return state.e if state.names is None else _named(state.e, state.names)

    def advance(self, state: Past, z: Tensor, x: Tensor) -> Past:
        """Return what is known after x."""
        return Past(*self.memory.step(x, state.memory), state.names)

    def unroll(
        self,
        like: Tensor,  # s, or the noise that drives it; shape: (*batch, T, X)
        num_steps: int,
        *,
        first: Tensor | None = None,  # s_1, shape: (*batch, D)
        law: FrameLaw | None = None,  # of a frame, given what is known before it; None: the head
        **given: Tensor,  # of `unroll`; shape: (*batch, T, X)
    ) -> Iterator[Frame]:
        """Yield frames, members first and rows flat."""
        rows = to_members(like, self.num_networks, 2)
        given = {name: to_members(v, self.num_networks, 2) for name, v in given.items()}
        return unroll(
            self, law or self.head, self.start(rows, like.shape[:-2]), num_steps,
            z=rows.new_zeros(*rows.shape[:2], num_steps, 0),
            first=None if first is None else to_members(first, self.num_networks, 1), **given,
        )

    @torch.no_grad()
    def predict(
        self,
        s_history: Tensor,  # shape: (*batch, T, D)
        horizon: int,
    ) -> Tensor:  # shape: (*batch, horizon, D)
        """Return the mean trajectory after the history, means fed back."""
        frames = list(self.unroll(s_history, s_history.shape[-2] + horizon, s=s_history))
        future = torch.stack([frame.s for frame in frames[-horizon:]], 2)
        return from_members(future, s_history.shape[:-2])

    @torch.no_grad()
    def own_history(
        self,
        s: Tensor,  # shape: (*batch, T, D)
        *,
        probability: float = 1.0,
        anchor: Anchor | None = None,
    ) -> Tensor:  # shape: (*batch, T, D)
        """Replace frames by the model's predictions from what came before, replaced or not."""
        own = frames_of_its_own(s, probability, anchor)
        first = None if anchor is None else s[..., 0, :]
        frames = self.unroll(s, s.shape[-2], s=s, own=own, first=first)
        return from_members(torch.stack([frame.fed for frame in frames], 2), s.shape[:-2])

    # ---- Pyro statements

    def path(
        self,
        num_steps: int,
        *,
        batch_shape: torch.Size | None = None,
        anchor: Anchor | None = None,
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
    ) -> AutoregressivePath:
        """Return p(x_{1:T}), a distribution of batch shape (*batch) and event (T, D).

        Args:
            num_steps: T.
            batch_shape: of the trajectories; None: the anchor's, or that of the members.
            anchor: p(x_1) in place of the model's.
            mask: True where a frame counts.
        """
        self.check_start(anchor)
        if batch_shape is None:
            several = torch.Size([self.num_members] if self.num_members > 1 else [])
            batch_shape = several if anchor is None else anchor.loc.shape[:-1]
        check_members(torch.Size(batch_shape), self.num_members)
        return AutoregressivePath(self, num_steps, torch.Size(batch_shape), anchor, mask)

    def sample_sources(
        self,
        name: str,
        num_steps: int,
        *,
        anchor: Anchor | None = None,
        mask: Tensor | None = None,
        batch_shape: torch.Size | None = None,
        sample: Statement = pyro.sample,
    ) -> Tensor:
        """x ~ p(x)."""
        return sample(
            name, self.path(num_steps, batch_shape=batch_shape, anchor=anchor, mask=mask)
        )

    def gaussian_message(
        self, s: Tensor, *, anchor: Anchor, z_noise: Tensor | None = None
    ) -> GaussianMessage:
        """Return p(s_t | s_<t) at the iterate; row t depends on s_<t only.

        Raises:
            NotImplementedError: where frames are not Gaussian, with the inference that fits.
        """
        if not self.has_gaussian_message:
            raise NotImplementedError(
                f"frames of this {type(self).__name__} are not Gaussian, so it sends no message; "
                "fit programs that hold it by SVI with a reparametrised guide (inference 'svi' "
                "with elbo 'trace_enum'), or by NUTS"
            )
        self.check(s, anchor)
        return self.head.message(self.summary(s), s, anchor)

    def elbo(
        self,
        s: Tensor,  # shape: (*batch, T, D)
        *,
        anchor: Anchor | None = None,
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
        history: Tensor | None = None,  # shape: (*batch, T, D)
        use_prediction: float = 0.0,
    ) -> Tensor:  # nats a sequence, shape: (*batch)
        """Return log p(s): exact, there is nothing to bound.

        Args:
            s: the trajectories.
            anchor: p(s_1) in place of the model's.
            mask: True where a frame counts.
            history: what the memory is fed with in place of s, e.g. a tracker's estimate of s; the
                increments that it is to predict stay those of s.
            use_prediction: scheduled sampling: the probability, drawn for every frame of every
                sequence, that the memory is fed with the model's own detached prediction.
        """
        self.check(s, anchor)
        self.check_start(anchor)
        fed, before = s if history is None else history, s
        if use_prediction > 0:
            fed = before = self.own_history(fed, probability=use_prediction, anchor=anchor)
        per_frame = self.laws(fed, before, anchor).log_prob(s)
        return (per_frame if mask is None else torch.where(mask, per_frame, 0.0)).sum(-1)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any
    ) -> None:
        """Take over weights that were written under the names of before."""
        for key in [key for key in state_dict if key.startswith(prefix)]:
            for old, new in OLD_NAMES.items():
                if key.startswith(prefix + old):
                    state_dict[prefix + new + key[len(prefix + old) :]] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)


class Past(NamedTuple):
    """What an `Autoregressive` knows before frame t."""

    e: Tensor  # shape: (M, R, N)
    memory: Any  # of `Memory`
    names: Tensor | None  # of the members, where they are tied; shape: (1, R, tied_dim)


class AutoregressivePath(PathDistribution):
    """p(x_{1:T}) of an `Autoregressive` prior."""

    def __init__(
        self,
        prior: Autoregressive,
        num_steps: int,
        batch_shape: torch.Size,
        anchor: Anchor | None,
        mask: Tensor | None,
    ) -> None:
        like = next(prior.parameters())
        super().__init__(batch_shape, num_steps, prior.source_dim, like=like, mask=mask)
        self.prior, self.anchor, self.has_rsample = prior, anchor, prior.emission.has_rsample
        self.noise_is_unique, self.noise_dim = prior.emission.noise_is_unique, prior.head.noise_dim

    def conditionals(self, value: Tensor) -> dist.TorchDistribution:
        """Return p(x_t | x_<t) of every frame."""
        shape = torch.broadcast_shapes(value.shape[:-2], self.batch_shape)
        return self.prior.laws(value, value, self.anchor, shape)

    def roll_out(self, noise: Tensor) -> Tensor:
        """Feed the model with what it draws."""
        first = None
        if self.anchor is not None:
            first = self.anchor.driven(noise[..., 0, : self.prior.source_dim])
        frames = self.prior.unroll(noise, noise.shape[-2], s_noise=noise, first=first)
        return from_members(torch.stack([frame.s for frame in frames], 2), noise.shape[:-2])


def _named(e: Tensor, names: Tensor) -> Tensor:
    return torch.cat((e, names.expand(*e.shape[:-1], -1)), -1)
