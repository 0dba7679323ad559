"""Sources of different kinds: a prior for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pyromodels.distributions.message import Anchor, FrameMessage, GaussianMessage
from pyromodels.distributions.path import IndependentFrames, PathDistribution
from pyromodels.dynamics.autoregressive import Autoregressive, AutoregressivePath
from pyromodels.dynamics.base import SourcePrior, Statement
from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.dynamics.latent_paths import LatentPaths
from pyromodels.errors import ShapeError, SpecError, mismatch
from pyromodels.registry import DYNAMICS


class BySource(SourcePrior):
    r"""p(s_1) ... p(s_N), source n by the n-th of several deep priors: speech and a flute.

        p(s, z) = \prod_n p_n(s_n, z_n),        q(z | s) = \prod_n q_n(z_n | s_n)

    The sources are the last batch dimension of a trajectory, and of its sites as they are with one
    prior for all; latents of a smaller model are filled up with zeros that have no density. An
    autoregressive prior has none of its own; where no source has any there is no site of z.

    Args:
        priors: one for each source, objects or tables of registered ones; of equal D.

    Raises:
        SpecError: for a prior that is neither a dynamical VAE nor one autoregressive model, or has
            a latent of the whole sequence.
        ShapeError: for frames of different sizes, or another number of sources.

    Example:
        >>> from pyromodels.dynamics.srnn import SRNN
        >>> from pyromodels.dynamics.vae import VAE
        >>> sizes = {"source_dim": 3, "emission": "complex"}
        >>> prior = BySource([SRNN(**sizes), VAE(**sizes)])
        >>> prior.sample_sources("s", 4, batch_shape=torch.Size([5, 2])).shape
        torch.Size([5, 2, 4, 6])
    """

    block_dim = 1
    message_is_exact = False

    def __init__(self, priors: Sequence[SourcePrior | Mapping[str, Any]]) -> None:
        super().__init__()
        made = [DYNAMICS.build(p) if isinstance(p, Mapping) else p for p in priors]
        for prior in made:
            alone = isinstance(prior, Autoregressive) and prior.num_members == 1
            if not (alone or isinstance(prior, DynamicalPrior)) or prior.global_dim:
                expected = (
                    "dynamical VAEs without a latent of the whole sequence, e.g. srnn, or single "
                    "autoregressive models, e.g. deep_ar"
                )
                raise SpecError(mismatch("priors", given=type(prior).__name__, expected=expected))
        if len({prior.source_dim for prior in made}) != 1:
            given = [prior.source_dim for prior in made]
            raise ShapeError(mismatch("priors", given=f"D = {given}", expected="one D for all"))
        self.priors = nn.ModuleList(made)
        self.source_dim = made[0].source_dim
        self.latent_dim = max(prior.latent_dim for prior in made)
        self.needs_anchor = any(prior.needs_anchor for prior in made)
        self.takes_anchor = all(prior.takes_anchor for prior in made)
        self.has_gaussian_message = all(prior.has_gaussian_message for prior in made)

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
        """z, s ~ p(z, s): sites `name + "_z"` and `name`, batches that end with N."""
        if batch_shape is None:
            batch_shape = torch.Size() if anchor is None else anchor.loc.shape[:-1]
        self._check_sources(batch_shape)
        pairs = [
            _pair(prior, num_steps, anchor=_of(anchor, n), mask=_row(mask, n),
                  batch_shape=batch_shape[:-1])
            for n, prior in enumerate(self.priors)
        ]
        own = [None] * len(pairs)
        if self.latent_dim:
            own = self._latents(pyro.sample(f"{name}_z", Paths([pair.latent for pair in pairs])))
        s = sample(name, Paths([pair.source(z_n) for pair, z_n in zip(pairs, own, strict=True)]))
        for n, pair in enumerate(pairs):
            pair.teach(s[..., n, :, :])
        return s

    def guide_sources(
        self,
        name: str,
        s: Tensor,
        *,
        anchor: Anchor | None = None,
        mask: Tensor | None = None,
    ) -> None:
        """z ~ q(z | s), each source by its own encoder: site `name + "_z"`."""
        self._check_sources(s.shape[:-2])
        if not self.latent_dim:
            return
        paths = [
            no_latents(s[..., n, :, :]) if isinstance(prior, Autoregressive)
            else prior.posterior(s[..., n, :, :], mask=_row(mask, n))
            for n, prior in enumerate(self.priors)
        ]
        pyro.sample(f"{name}_z", Paths(paths))

    def iterate(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Return what stands for each source before its own networks."""
        own = [
            prior.iterate(mean[..., n, :, :], variance[..., n, :, :])
            for n, prior in enumerate(self.priors)
        ]
        return torch.stack(own, -3)

    def gaussian_message(
        self, s: Tensor, *, anchor: Anchor | None, z_noise: Tensor | None = None
    ) -> GaussianMessage:
        """Return the message of every source, by its own prior."""
        self._check_sources(s.shape[:-2])
        noises = [None] * len(self.priors) if z_noise is None else self._latents(z_noise)
        messages = [
            prior.gaussian_message(s[..., n, :, :], anchor=_of(anchor, n), z_noise=noises[n])
            for n, prior in enumerate(self.priors)
        ]
        parts = [torch.stack(part, s.dim() - 3) for part in zip(*messages, strict=True)]
        frames = all(isinstance(message, FrameMessage) for message in messages)
        return (FrameMessage if frames else GaussianMessage)(*parts)

    def elbo(
        self, s: Tensor, *, anchor: Anchor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the bound of every source, by its own prior: nats a sequence, shape (*batch)."""
        self._check_sources(s.shape[:-2])
        parts = [
            prior.elbo(s[..., n, :, :], anchor=_of(anchor, n), mask=_row(mask, n))
            for n, prior in enumerate(self.priors)
        ]
        return torch.stack(parts, -1)

    def _latents(self, z: Tensor) -> list[Tensor]:
        """Return the latents of every source, each (*batch, T, L_n)."""
        return [z[..., n, :, : prior.latent_dim] for n, prior in enumerate(self.priors)]

    def _check_sources(self, batch_shape: torch.Size) -> None:
        if not batch_shape or batch_shape[-1] != len(self.priors):
            given = f"a batch of shape {tuple(batch_shape)}"
            expected = f"one that ends with {len(self.priors)} sources"
            raise ShapeError(mismatch("sources of BySource", given=given, expected=expected))


class WithoutLatents(NamedTuple):
    """The sites of a prior that has no latents, asked as `LatentPaths` are."""

    path: AutoregressivePath

    @property
    def latent(self) -> PathDistribution:
        """A trajectory without coordinates."""
        path = self.path
        return no_latents(path.like.new_empty(()).expand(*path.batch_shape, *path.event_shape))

    def source(self, z: Tensor | None) -> PathDistribution:
        """Return p(s)."""
        return self.path

    def teach(self, s: Tensor) -> None:
        """Nothing depends on s."""


def no_latents(
    s: Tensor,  # for batch shape, dtype and device; shape: (*batch, T, D)
) -> PathDistribution:  # batch (*batch), event (T, 0)
    """Return the law of a trajectory without coordinates."""
    nothing = s.new_zeros(*s.shape[:-1], 0)
    return IndependentFrames(nothing, nothing)


def _pair(prior: SourcePrior, num_steps: int, **options: Any) -> LatentPaths | WithoutLatents:
    if isinstance(prior, Autoregressive):
        return WithoutLatents(prior.path(num_steps, **options))
    return prior.pair(num_steps, **options)


class Paths(PathDistribution):
    """Independent trajectories of different laws, stacked as the last batch dimension.

    Those of fewer coordinates are filled up with zeros, which have no density.

    Args:
        paths: one for each source, batch (*batch), event (T, D_n).
    """

    def __init__(self, paths: Sequence[PathDistribution]) -> None:
        self.paths = list(paths)
        shape = torch.broadcast_shapes(*(path.batch_shape for path in paths))
        num_steps = paths[0].event_shape[0]
        dim = max(path.event_shape[-1] for path in paths)
        super().__init__(torch.Size((*shape, len(paths))), num_steps, dim, like=paths[0].like)

    def conditionals(self, value: Tensor) -> dist.TorchDistribution:
        """Refused: the frames of different laws have none in common."""
        raise NotImplementedError("paths of different laws have no common law of a frame")

    def log_prob_by_frame(self, value: Tensor) -> Tensor:
        """Return log p(v_t | v_<t) of every source, shape (*, N, T)."""
        return self._each(lambda path, own: path.log_prob_by_frame(own), value, 1)

    def noise_of(self, value: Tensor) -> Tensor:
        """Return the noise that drives every source."""
        return self._each(lambda path, own: self._filled(path.noise_of(own)), value, 2)

    def roll_out(self, noise: Tensor) -> Tensor:
        """Return every source driven by its noise."""
        return self._each(lambda path, own: self._filled(path.roll_out(own)), noise, 2)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw every source from its own law."""
        wide = self._extended_shape(torch.Size(sample_shape))[:-3]
        drawn = [
            self._filled(path.expand(self.batch_shape[:-1]).rsample(sample_shape))
            for path in self.paths
        ]
        return torch.stack([d.expand(*wide, *d.shape[-2:]) for d in drawn], -3)

    def _each(
        self, ask: Callable[[PathDistribution, Tensor], Tensor], value: Tensor, event_dim: int
    ) -> Tensor:
        given = value.expand(*value.shape[:-3], len(self.paths), *value.shape[-2:])
        parts = [
            ask(path, given[..., n, :, : path.event_shape[-1]])
            for n, path in enumerate(self.paths)
        ]
        return torch.stack(parts, -1 - event_dim)

    def _filled(self, value: Tensor) -> Tensor:
        return pad(value, (0, self.event_shape[-1] - value.shape[-1]))


def _of(anchor: Anchor | None, n: int) -> Anchor | None:
    return None if anchor is None else Anchor(*(part[..., n, :] for part in anchor))


def _row(
    mask: Tensor | None,  # shape: broadcastable to (*batch, N, T)
    n: int,
) -> Tensor | None:  # shape: broadcastable to (*batch, T)
    if mask is None or mask.dim() < 2:
        return mask
    return mask[..., n if mask.shape[-2] > 1 else 0, :]
