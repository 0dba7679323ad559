"""The one loop over frames: every recursion through a model's networks is a case of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from pyromodels.emissions.base import Outputs
from pyromodels.networks.mlp import driven


class Steps(Protocol):
    """What a model says frame by frame; rows flat, e.g. (rows, L)."""

    def latent(self, state: Any) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of p(z_t | state)."""

    def outputs(self, state: Any, z: Tensor) -> Outputs:
        """Return what the decoder says of s_t."""

    def advance(self, state: Any, z: Tensor, x: Tensor) -> Any:
        """Return the state after frame t."""


class Decoded(Protocol):
    """How outputs become frames; see `Emission`."""

    def relative(self, s: Tensor, previous: Tensor | None) -> Tensor:
        """Return x_t."""

    def draw(self, outputs: Outputs, noise: Tensor, previous: Tensor | None) -> Tensor:
        """Return s_t driven by the noise."""

    def expected(self, outputs: Outputs, previous: Tensor | None) -> Tensor:
        """Return E[s_t]."""


class Frame(NamedTuple):
    """What happened at frame t."""

    state: Any  # before it
    z: Tensor  # z_t, shape: (*, L)
    outputs: Outputs | None  # the decoder's; None where nobody asked it
    s: Tensor  # s_t, shape: (*, D)
    fed: Tensor  # what later frames are told in place of s_t, shape: (*, D)


def unroll(
    cell: Steps,
    emission: Decoded,
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
        cell: the networks.
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
