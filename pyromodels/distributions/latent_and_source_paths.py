r"""Two trajectories that drive each other: z_t depends on s_<t, and s_t on z_<=t."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from pyromodels.distributions.path import PathDistribution


class RollOut(NamedTuple):
    """A joint draw (z, s) from the prior."""

    latent: Tensor  # z, shape: (*, T, L)
    source: Tensor  # s, shape: (*, T, D)


class CoupledPaths(ABC):
    r"""The two sites of a model whose latent and source trajectories are interleaved.

    p(s, z) = \prod_t p(z_t | s_{<t}, z_{<t}) p(s_t | s_{<t}, z_{<=t})

    Neither factor is a density over one whole trajectory before the other is known, yet Pyro runs
    sites one after the other and asks for their densities after the run. A program writes

        z = pyro.sample("z", pair.latent)
        s = pyro.sample("s", pair.source(z))
        pair.teach(s)

    * Nothing known: drawing z rolls out both; the source site then returns the s that belongs to
      it.
    * z and s known (a guide's, under replay; conditioned): both are teacher-forced.
    * z known, s not (resynthesis): s is rolled out frame by frame, driven by the given z.
    * s known beforehand: say so, `teach(s)` before the first site; z is then drawn from
      p(z_t | s_<t, z_<t). Pyro cannot know at the first site that a later one is conditioned: where
      s is conditioned and z is neither given nor guided, z comes from a free roll-out. Its density,
      and hence log p(z, s), is still evaluated for the actual s.

    A pair serves one run of a program: make a new one each time.

    Args:
        batch_shape: shape of independent trajectories.
        num_steps: T.
        latent_dim: L.
        source_dim: D.
        like: a tensor of the dtype and on the device that samples shall have.
        mask: time mask, broadcastable to `batch_shape + (T,)`.
    """

    def __init__(
        self,
        batch_shape: torch.Size,
        num_steps: int,
        *,
        latent_dim: int,
        source_dim: int,
        like: Tensor,
        mask: Tensor | None = None,
    ) -> None:
        self.batch_shape, self.num_steps = torch.Size(batch_shape), num_steps
        self.latent_dim, self.source_dim = latent_dim, source_dim
        self.like, self.mask = like, mask
        self._taught: Tensor | None = None
        self._rolled_out: RollOut | None = None

    @abstractmethod
    def latent_conditionals(
        self,
        z: Tensor,  # shape: (*, T, L)
        s: Tensor,  # shape: (*, T, D)
    ) -> dist.TorchDistribution:  # batch (*, T), event (L,)
        """Return p(z_t | s_<t, z_<t) of every frame."""

    @abstractmethod
    def source_conditionals(
        self,
        z: Tensor,  # shape: (*, T, L)
        s: Tensor,  # shape: (*, T, D)
    ) -> dist.TorchDistribution:  # batch (*, T), event (D,)
        """Return p(s_t | s_<t, z_<=t) of every frame."""

    @abstractmethod
    def roll_out_latent(
        self,
        noise: Tensor,  # shape: (*, T, L)
        s: Tensor,  # shape: (*, T, D)
    ) -> Tensor:  # z, shape: (*, T, L)
        """Return z driven by the noise, s given."""

    @abstractmethod
    def roll_out(
        self,
        z: Tensor,  # noise of z, or z itself where it is known; shape: (*, T, L)
        source_noise: Tensor,  # shape: (*, T, D)
        *,
        z_is_known: bool,
    ) -> RollOut:
        """Return the joint trajectory driven by the noise, frame by frame."""

    def noise_of(
        self,
        law: dist.TorchDistribution,  # of `source_conditionals`
        s: Tensor,  # shape: (*, T, D)
    ) -> Tensor:  # shape: (*, T, D)
        """Return the noise that would have driven s; another than a Gaussian law overrides it."""
        return (s - law.mean) / law.stddev

    @property
    def latent(self) -> PathDistribution:
        """p(z_t | s_<t, z_<t), event (T, L)."""
        return LatentPath(self)

    def source(
        self,
        z: Tensor,  # shape: (*, T, L)
    ) -> PathDistribution:
        """Return p(s_t | s_<t, z_<=t), event (T, D)."""
        return SourcePath(self, z)

    def teach(
        self,
        s: Tensor,  # shape: (*, T, D)
    ) -> None:
        """Condition `latent` on the actual source trajectory from now on."""
        self._taught = s

    @property
    def _source_value(self) -> Tensor:
        if self._taught is not None:
            return self._taught
        if self._rolled_out is not None:
            return self._rolled_out.source
        raise RuntimeError(
            "p(z | s) was asked for before s is known. Sample the source site, then call teach(s)."
        )


class LatentPath(PathDistribution):
    """p(z_t | s_<t, z_<t) of a pair."""

    def __init__(self, pair: CoupledPaths) -> None:
        taught = () if pair._taught is None else pair._taught.shape[:-2]
        super().__init__(
            torch.broadcast_shapes(pair.batch_shape, taught),
            pair.num_steps,
            pair.latent_dim,
            like=pair.like,
            mask=pair.mask,
        )
        self.pair = pair

    def conditionals(self, value: Tensor) -> dist.TorchDistribution:
        """Return p(z_t | s_<t, z_<t), s being the trajectory taught, else the one rolled out."""
        return self.pair.latent_conditionals(value, self.pair._source_value)

    def roll_out(self, noise: Tensor) -> Tensor:
        """Return z; where s is unknown, draw its noise too and keep the joint roll-out."""
        pair = self.pair
        if pair._taught is not None:
            return pair.roll_out_latent(noise, pair._taught)
        source_noise = torch.randn(
            (*noise.shape[:-1], pair.source_dim), dtype=noise.dtype, device=noise.device
        )
        pair._rolled_out = pair.roll_out(noise, source_noise, z_is_known=False)
        return pair._rolled_out.latent


class SourcePath(PathDistribution):
    """p(s_t | s_<t, z_<=t) of a pair, for one z."""

    def __init__(self, pair: CoupledPaths, z: Tensor) -> None:
        batch_shape = torch.broadcast_shapes(pair.batch_shape, z.shape[:-2])
        super().__init__(
            batch_shape, pair.num_steps, pair.source_dim, like=pair.like, mask=pair.mask
        )
        self.pair, self.z = pair, z

    def conditionals(self, value: Tensor) -> dist.TorchDistribution:
        """Return p(s_t | s_<t, z_<=t)."""
        return self.pair.source_conditionals(self.z, value)

    def noise_of(self, value: Tensor) -> Tensor:
        """Return the noise that drives s."""
        return self.pair.noise_of(self.conditionals(value), value)

    def roll_out(self, noise: Tensor) -> Tensor:
        """Return the s that the noise drives, z given."""
        z = self.z.expand(*noise.shape[:-1], self.pair.latent_dim)
        return self.pair.roll_out(z, noise, z_is_known=True).source

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Return the source trajectory rolled out with this z; a new one where none was."""
        stored = self.pair._rolled_out
        if stored is not None and _same(stored.latent, self.z):
            if stored.source.shape == self._extended_shape(torch.Size(sample_shape)):
                return stored.source
        return super().rsample(sample_shape)


def _same(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors hold one value: handlers detach and reshape what they pass on."""
    return left is right or (left.shape == right.shape and torch.equal(left, right))
