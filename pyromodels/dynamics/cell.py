"""What a dynamical model states, and the one loop over frames: every recursion is a case of it."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from pyromodels.distributions.message import Anchor
from pyromodels.emissions.base import FrameLaw, Outputs
from pyromodels.networks.encoders import Shared
from pyromodels.networks.mlp import Heads, before, driven

Parameters = tuple[Tensor, Tensor]
"""Mean and log variance of a diagonal Gaussian."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Cell(ABC):
    r"""p(z_t | state_t) and p(s_t | state_t, z_t), in coordinates x that an emission shows of s.

    A cell holds networks. It knows no Pyro, encoder or emission: `DynamicalPrior` makes a program
    of it. It states its conditionals twice, frame by frame (`start`, `latent`, `outputs`,
    `advance`; rows flat) and all frames at once by a fused pass (`all_latents`, `all_outputs`); the
    contract suite holds the two together. A subclass is a dataclass as this one, whose fields are
    its networks.

    Symbols are those of `DynamicalPrior`.

    Args:
        source_dim: D.
        latent_dim: L.
        w: of every sequence, where the model has it; see `given`.
    """

    shared: ClassVar[tuple[str, ...]] = ()
    """Networks that are there before an encoder is, because it may read them."""
    feeds_back: ClassVar[bool] = False
    """Whether anything depends on s_{<t}: then generation differs from teacher forcing."""

    source_dim: int
    latent_dim: int
    w: Tensor | None = None

    @property
    def looks_ahead(self) -> bool:
        """Whether p(s_t | .) reads z_{1:T}; p(z) then reads no s, and is drawn before any s."""
        return False

    def networks(self) -> dict[str, nn.Module]:
        """Return the networks by name, the shared ones first."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        found = {name: value for name, value in fields.items() if isinstance(value, nn.Module)}
        return {name: found[name] for name in (*self.shared, *found)}

    def given(
        self,
        w: Tensor,  # shape: (*batch, L_w)
    ) -> Cell:
        """Return the same networks, told w; batch dims of w, x and z broadcast."""
        return dataclasses.replace(self, w=w)

    def wide(self, batch_shape: torch.Size) -> torch.Size:
        """Return a batch shape with that of w, if there is one."""
        w = self.w
        return batch_shape if w is None else torch.broadcast_shapes(batch_shape, w.shape[:-1])

    # ---- frame by frame, rows flat

    @abstractmethod
    def start(
        self,
        batch_shape: torch.Size,
        like: Tensor,  # for dtype and device
    ) -> Any:
        """Return the state before the first frame."""

    @abstractmethod
    def latent(self, state: Any) -> Parameters:  # each (rows, L)
        """Return p(z_t | state)."""

    @abstractmethod
    def outputs(
        self,
        state: Any,
        z: Tensor,  # z_t, shape: (rows, L)
    ) -> Outputs:  # each (rows, D)
        """Return the decoder's outputs, p(s_t | state, z_t)."""

    @abstractmethod
    def advance(
        self,
        state: Any,
        z: Tensor,  # z_t, shape: (rows, L)
        x: Tensor,  # x_t, shape: (rows, D)
    ) -> Any:
        """Return the state after frame t."""

    def foresee(
        self,
        state: Any,
        z: Tensor,  # shape: (*, T, L)
        mask: Tensor | None = None,  # shape: broadcastable to (*, T)
    ) -> Any:
        """Return the state before the first frame, told of all of z where a decoder looks ahead."""
        return state

    # ---- all frames at once

    @abstractmethod
    def all_latents(
        self,
        z: Tensor,  # shape: (*, T, L)
        x: Tensor,  # shape: (*, T, D)
    ) -> Parameters:  # each (*, T, L)
        """Return p(z_t | x_<t, z_<t) of every frame."""

    @abstractmethod
    def all_outputs(
        self,
        z: Tensor,  # shape: (*, T, L)
        x: Tensor,  # shape: (*, T, D)
        mask: Tensor | None = None,  # read where a decoder looks ahead; broadcastable to (*, T)
    ) -> Outputs:  # each (*, T, D)
        """Return the decoder's outputs, p(s_t | x_<t, z_<=t), of every frame."""

    # ---- what an encoder may share; a model without h leaves it

    @property
    def sharing(self) -> Shared:
        """Sizes of what there is."""
        return Shared()

    def features(self, x: Tensor) -> Tensor:
        """Return what an encoder that shares sees of x_t."""
        return x

    def hidden(self, z: Tensor | None, x: Tensor) -> Tensor:
        """Return h of every frame, shape (*, T, H)."""
        raise NotImplementedError(f"{type(self).__name__} has no hidden state to share")

    def hidden_step(self, state: Any) -> Tensor:
        """Return h_t, shape (rows, H)."""
        raise NotImplementedError(f"{type(self).__name__} has no hidden state to share")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class MarkovCell(Cell):
    """p(z_t | z_{t-1}) p(s_t | z_t): frames that know of each other through latents alone."""

    prior: Callable[[Tensor], Parameters]
    decoder: Heads

    def all_latents(self, z: Tensor, x: Tensor) -> Parameters:
        """Return p(z_t | z_{t-1})."""
        return self.prior(before(z))

    def all_outputs(self, z: Tensor, x: Tensor, mask: Tensor | None = None) -> Outputs:
        """Return p(s_t | z_t)."""
        return self.decoder(z)

    def start(self, batch_shape: torch.Size, like: Tensor) -> Tensor:
        """Return z_0 = 0."""
        return like.new_zeros(batch_shape.numel(), self.latent_dim)

    def latent(self, state: Tensor) -> Parameters:
        """Return p(z_t | z_{t-1})."""
        return self.prior(state)

    def outputs(self, state: Tensor, z: Tensor) -> Outputs:
        """Return p(s_t | z_t)."""
        return self.decoder(z)

    def advance(self, state: Tensor, z: Tensor, x: Tensor) -> Tensor:
        """Return z_t."""
        return z


def standard_normal(
    z: Tensor,  # shape: (*, L)
) -> Parameters:  # each (*, L)
    """Return N(0, I), the prior of latents that know nothing of each other."""
    return torch.zeros_like(z), torch.zeros_like(z)


class Frame(NamedTuple):
    """What happened at frame t."""

    state: Any  # before it
    z: Tensor  # z_t, shape: (*, L)
    outputs: Outputs | None  # the decoder's; None where nobody asked it
    s: Tensor  # s_t, shape: (*, D)
    fed: Tensor  # what later frames are told in place of s_t, shape: (*, D)


def unroll(
    cell: Cell,
    emission: FrameLaw,
    state: Any,
    num_steps: int,
    *,
    z: Tensor | None = None,  # shape: (*, T', L)
    z_noise: Tensor | None = None,  # shape: (*, T, L)
    s: Tensor | None = None,  # shape: (*, T', D)
    x: Tensor | None = None,  # shape: (*, T', D)
    s_noise: Tensor | None = None,  # shape: (*, T, D)
    own: Tensor | None = None,  # bool, shape: (*, T, 1)
    first: Tensor | None = None,  # shape: (*, D)
) -> Iterator[Frame]:
    """Yield one frame after the other, each told of those before.

    Args:
        cell: the networks; of a `Cell` what is said frame by frame.
        emission: what becomes of their outputs.
        state: before the first frame.
        num_steps: T.
        z: the latents as far as they are known; later ones are drawn, or means without a noise.
        z_noise: standard normal noise that drives z.
        s: the frames as far as they are known; later ones are drawn, or expected without a noise.
        x: what the networks see of these s, where somebody has asked already.
        s_noise: standard normal noise that drives s.
        own: in which frames the networks are fed with what they expect in place of s_t.
        first: s_1 where an anchor says it: it is neither drawn nor expected.
    """
    last = None
    for t in range(num_steps):
        if z is not None and t < z.shape[-2]:
            z_t = z[..., t, :]
        else:
            z_t = driven(*cell.latent(state), None if z_noise is None else z_noise[..., t, :])
        anchored, given = t == 0 and first is not None, s is not None and t < s.shape[-2]
        asked = own is not None or not (anchored or given)
        outputs = cell.outputs(state, z_t) if asked else None
        if given:
            s_t = s[..., t, :]
        elif anchored:
            s_t = first
        elif s_noise is not None:
            s_t = emission.draw(outputs, s_noise[..., t, :], last)
        else:
            s_t = emission.expected(outputs, last)
        fed = s_t
        if own is not None and not anchored:
            fed = torch.where(own[..., t, :], emission.expected(outputs, last), s_t)
        yield Frame(state, z_t, outputs, s_t, fed)
        if t + 1 < num_steps:
            seen = x is not None and t < x.shape[-2]
            x_t = x[..., t, :] if seen else emission.relative(fed, last)
            state, last = cell.advance(state, z_t, x_t), fed


def frames_of_its_own(
    s: Tensor,  # shape: (*batch, T, D)
    probability: float,
    anchor: Anchor | None,
) -> Tensor:  # bool, shape: (*batch, T, 1)
    """Draw which frames are a model's own predictions; one that an anchor says is none."""
    own = torch.rand((*s.shape[:-1], 1), dtype=s.dtype, device=s.device) < probability
    if anchor is not None:
        own[..., 0, :] = False
    return own
