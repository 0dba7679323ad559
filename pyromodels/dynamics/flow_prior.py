"""Priors of whole trajectories that are flows: an exact density, draws and codes by one pass."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import torch
from torch import Tensor

from pyromodels.densities.base import SmoothedDensity
from pyromodels.distributions.flow import FlowDistribution
from pyromodels.distributions.message import Anchor, GaussianMessage
from pyromodels.dynamics.base import SourcePrior, Statement
from pyromodels.emissions.spectral import refuse_anchor
from pyromodels.errors import SpecError, mismatch, misshapen
from pyromodels.networks.noise_level import NoiseLevel
from pyromodels.transforms.base import Invertible
from pyromodels.transforms.multiscale import MultiScale


class FlowPrior(SourcePrior, SmoothedDensity):
    r"""p(s_{1:T}) = N(f(s); 0, I) |det df/ds|, all frames at once; event (T, D), nats.

    Frames have no order: there is no law of a frame given those before, nothing to start at, and no
    frame that could be left out. T, and D of images, is a multiple of what the levels squeeze.

    With `noise_conditioned` one network is told sigma and is p of every sigma, as it was trained
    with; without, `log_prob` of another sigma than 0 is refused.

    Args:
        scales: f of channels, (C, T) of sounds or (1, T, D) of images.
        source_dim: D.
        noise_dim: size of what its networks are told of sigma; 0: nothing.

    Raises:
        SpecError: a size that the levels cannot squeeze.
    """

    event_dim = 2
    block_dim = 1
    needs_anchor = takes_anchor = takes_mask = False
    has_gaussian_message = False
    message_is_exact = False

    def __init__(self, scales: MultiScale, source_dim: int, *, noise_dim: int = 0) -> None:
        super().__init__()
        self.source_dim, self.frame_multiple = source_dim, 2 ** len(scales.levels)
        images = scales.event_dim == 3
        if source_dim < 1 or (images and source_dim % self.frame_multiple):
            expected = f"a multiple of {self.frame_multiple}" if images else "1 or more"
            raise SpecError(mismatch("source_dim", given=source_dim, expected=expected))
        self.flow = OfTrajectories(scales)
        self.noise = NoiseLevel(noise_dim) if noise_dim else None

    def path(
        self,
        num_steps: int,
        *,
        batch_shape: torch.Size | None = None,
        noise_std: float | Tensor = 0.0,  # sigma, broadcastable to (*batch)
    ) -> FlowDistribution:
        """Return p(s_{1:T}), a distribution of batch shape (*batch) and event (T, D).

        Raises:
            ShapeError: where T is no multiple of `frame_multiple`.
            ValueError: for a sigma that no network is told.
        """
        shape = (num_steps, self.source_dim)
        if num_steps < 1 or num_steps % self.frame_multiple:
            expected = f"T, a multiple of {self.frame_multiple}, and D = {self.source_dim}"
            raise misshapen(f"frames of {type(self).__name__}", shape, expected)
        like = next(self.flow.parameters())
        e = self._told(like.new_empty((*(batch_shape or ()), 0, 0)), noise_std)
        return FlowDistribution(self.flow.given(e), batch_shape or (), shape, like=like)

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
        """s ~ p(s)."""
        self._refuse(anchor, mask)
        return sample(name, self.path(num_steps, batch_shape=batch_shape))

    def gaussian_message(
        self, s: Tensor, *, anchor: Anchor, z_noise: Tensor | None = None
    ) -> GaussianMessage:
        """Raise: there is no law of a frame given its past.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no law of a frame given its past, so it sends no message; "
            "follow its score, by Langevin dynamics or by NUTS"
        )

    def elbo(
        self, s: Tensor, *, anchor: Anchor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return log p(s): exact, there is nothing to bound."""
        self._refuse(anchor, mask)
        return self.log_prob(s)

    def log_prob(
        self,
        s: Tensor,  # shape: (*batch, T, D)
        noise_std: float | Tensor = 0.0,  # sigma, broadcastable to (*batch)
    ) -> Tensor:  # nats, shape: (*batch)
        """Return log p_sigma(s)."""
        self.check(s, None)
        batch, num_steps = s.shape[:-2], s.shape[-2]
        return self.path(num_steps, batch_shape=batch, noise_std=noise_std).log_prob(s)

    @torch.no_grad()
    def draw(
        self,
        num_steps: int,
        *,
        batch_shape: torch.Size | None = None,
        temperature: float = 1.0,
        noise_std: float | Tensor = 0.0,  # sigma, broadcastable to (*batch)
    ) -> Tensor:  # s, shape: (*batch, T, D)
        """Return f^{-1} of noise of this standard deviation; with 0, of no noise."""
        law = self.path(num_steps, batch_shape=batch_shape, noise_std=noise_std)
        z = torch.randn(law.shape(), dtype=law.like.dtype, device=law.like.device)
        return law.transform(temperature * z)

    def codes(
        self,
        s: Tensor,  # shape: (*batch, T, D)
        noise_std: float | Tensor = 0.0,  # sigma, broadcastable to (*batch)
    ) -> list[Tensor]:  # by level, finest first; each (*batch, C_l, *space_l)
        """Return all latents of s, each standard normal under the prior."""
        self.check(s, None)
        z, _ = self.flow.to_noise(s, self._told(s, noise_std))
        return self.flow.scales.latents(self.flow.channels(z))

    def from_codes(
        self,
        codes: Sequence[Tensor],  # as `codes` returns them
        noise_std: float | Tensor = 0.0,  # sigma, broadcastable to (*batch)
    ) -> Tensor:  # s, shape: (*batch, T, D)
        """Return the s of which these are the latents."""
        z = self.flow.frames(self.flow.scales.placed(codes))
        return self.flow.from_noise(z, self._told(z, noise_std))

    def _told(self, s: Tensor, noise_std: float | Tensor) -> Tensor | None:
        """Return what networks are told of sigma, shape (*batch, N)."""
        if self.noise is not None:
            return self.noise(self.noise_of(s, noise_std))
        if isinstance(noise_std, Tensor) or noise_std != 0:
            hint = "Only a prior with noise_conditioned=True is told of another."
            raise ValueError(mismatch("noise_std", given=noise_std, expected=0, hint=hint))
        return None

    def _refuse(self, anchor: Anchor | None, mask: Tensor | None) -> None:
        refuse_anchor(anchor)
        if mask is not None:
            hint = "A flow of whole trajectories leaves no frame out: cut them to one length."
            raise ValueError(mismatch("mask", given="a mask", expected=None, hint=hint))


class OfTrajectories(Invertible):
    """A flow of channels, of trajectories: (T, D) as D channels of T, or as one of T x D.

    Args:
        scales: the flow of channels.
    """

    event_dim = 2

    def __init__(self, scales: MultiScale) -> None:
        super().__init__()
        self.scales = scales

    def to_noise(self, x: Tensor, e: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return z, shape (*, T, D)."""
        z, log_det = self.scales.to_noise(self.channels(x), e)
        return self.frames(z), log_det

    def from_noise(self, z: Tensor, e: Tensor | None = None) -> Tensor:
        """Return x, shape (*, T, D)."""
        return self.frames(self.scales.from_noise(self.channels(z), e))

    def channels(
        self,
        s: Tensor,  # shape: (*, T, D)
    ) -> Tensor:  # shape: (*, D, T), or (*, 1, T, D)
        """Return a trajectory as channels."""
        return s.unsqueeze(-3) if self.scales.event_dim == 3 else s.mT

    def frames(self, x: Tensor) -> Tensor:
        """Undo `channels`."""
        return x.squeeze(-3) if self.scales.event_dim == 3 else x.mT
