"""The paths of a dynamical VAE: q(z | s), and z and s that drive each other, fed back or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from pyromodels.distributions.message import Anchor
from pyromodels.distributions.path import PathDistribution, as_wide, diagonal_normal
from pyromodels.dynamics.cell import Frame, frames_of_its_own, unroll
from pyromodels.emissions.base import Outputs
from pyromodels.networks.encoders import Encoder, Inferred
from pyromodels.networks.mlp import rows

if TYPE_CHECKING:
    from pyromodels.dynamics.dynamical_prior import DynamicalPrior


class EncoderPath(PathDistribution):
    """q(z_t | s, z_<t) of an encoder."""

    def __init__(
        self, prior: DynamicalPrior, encoder: Encoder, s: Tensor, mask: Tensor | None
    ) -> None:
        batch_shape = prior.cell.wide(s.shape[:-2])
        super().__init__(batch_shape, s.shape[-2], prior.latent_dim, like=s, mask=mask)
        self.prior, self.encoder, self.x = prior, encoder, prior.see(s)
        self._drawn: Inferred | None = None

    def conditionals(self, value: Tensor) -> dist.TorchDistribution:
        """Return q(z_t | s, z_<t); of the latest draw they are known."""
        drawn = self._drawn
        if drawn is not None and value is drawn.z:
            return gaussian(drawn.mean, drawn.log_variance)
        q = gaussian(*self.encoder.parameters_of(self.prior.cell, value, self.x, self.time_mask))
        return as_wide(q, value)

    def roll_out(self, noise: Tensor) -> Tensor:
        """Return z driven by the noise."""
        self._drawn = self.encoder.infer(self.prior.cell, self.x, noise=noise, mask=self.time_mask)
        return self._drawn.z


class RollOut(NamedTuple):
    """A joint draw (z, s) from the prior."""

    latent: Tensor  # z, shape: (*, T, L)
    source: Tensor  # s, shape: (*, T, D)


class LatentPaths:
    r"""The two sites of a `DynamicalPrior`, whose trajectories are interleaved.

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

    With `use_prediction`, draws and densities are those of networks that are fed with a history in
    which the model's own predictions stand in the place of some frames; one choice of frames serves
    a run. With probability 1 no frame that was drawn reaches a later one but through z.

    Args:
        prior: the model.
        num_steps: T.
        anchor: p(s_1) in place of the model's.
        mask: time mask, broadcastable to `batch_shape + (T,)`.
        batch_shape: of the trajectories; None: that of the anchor, if any.
        use_prediction: probability, at every frame of every trajectory, that the networks are fed
            with the model's own prediction in place of s_t (scheduled sampling).
        prediction_hops: through how many predictions in a row a gradient passes, see `feed_back`;
            0: none, as published.
    """

    def __init__(
        self,
        prior: DynamicalPrior,
        num_steps: int,
        *,
        anchor: Anchor | None = None,
        mask: Tensor | None = None,
        batch_shape: torch.Size | None = None,
        use_prediction: float = 0.0,
        prediction_hops: int | None = 0,
    ) -> None:
        prior.check_start(anchor)
        if batch_shape is None:
            batch_shape = torch.Size() if anchor is None else anchor.loc.shape[:-1]
        self.batch_shape = prior.cell.wide(torch.Size(batch_shape))
        self.prior, self.num_steps, self.anchor, self.mask = prior, num_steps, anchor, mask
        self.like = next(prior.parameters()) if anchor is None else anchor.loc
        self.use_prediction = use_prediction if prior.reads_history else 0.0
        self.prediction_hops = prediction_hops
        self.taught: Tensor | None = None
        self.rolled_out: RollOut | None = None
        self._own: Tensor | None = None
        self._fed: Fed | None = None

    # ---- what a program samples

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
        self.taught = s

    @property
    def known_source(self) -> Tensor:  # shape: (*, T, D)
        """The s that was taught, else the one rolled out."""
        if self.taught is None and self.rolled_out is None:
            raise RuntimeError(
                "p(z | s) was asked for before s is known. Sample the source site, then call "
                "teach(s)."
            )
        return self.rolled_out.source if self.taught is None else self.taught

    # ---- all frames at once

    def fed_back(self, z: Tensor, s: Tensor) -> Fed:
        """Return the history the networks are fed with, and what they say of it."""
        if self._fed is None:
            s = s.expand(*torch.broadcast_shapes(s.shape[:-2], z.shape[:-2]), *s.shape[-2:])
            own = self.own(s).expand(*s.shape[:-1], 1)
            self._fed = feed_back(
                self.prior, s, z, own, hops=self.prediction_hops,
                anchor=self.anchor, mask=self.mask,
            )
        return self._fed

    def own(self, s: Tensor) -> Tensor:  # bool, shape: (*batch, T, 1)
        """Return which frames of the history are predictions: drawn once a run."""
        if self._own is None:
            self._own = frames_of_its_own(s, self.use_prediction, self.anchor)
        return self._own

    # ---- frame by frame

    def roll_out_latent(
        self,
        noise: Tensor,  # shape: (*, T, L)
        s: Tensor,  # shape: (*, T, D)
    ) -> Tensor:  # z, shape: (*, T, L)
        """Return z driven by the noise, s given."""
        cell, wide = self.prior.cell, noise.shape[:-1]
        given = rows(s.expand(*wide, s.shape[-1]))
        # where the decoder looks ahead p(z) reads no s, and nothing can be expected of s yet
        own = None if cell.looks_ahead else self._rows_of_its_own(s, wide)
        frames = unroll(
            cell, self.prior.emission, cell.start(wide[:-1], noise), self.num_steps,
            z_noise=rows(noise), s=given, own=own,
            first=None if self.anchor is None else given[:, 0],
        )
        return torch.stack([frame.z for frame in frames], 1).reshape(noise.shape)

    def roll_out(
        self,
        z: Tensor,  # noise of z, or z itself where it is known; shape: (*, T, L)
        source_noise: Tensor,  # shape: (*, T, D)
        *,
        z_is_known: bool,
    ) -> RollOut:
        """Return z and s, interleaved frame by frame; all of z first where the decoder asks."""
        first = None
        if self.anchor is not None:
            first = self.anchor.driven(source_noise[..., 0, :]).reshape(-1, source_noise.shape[-1])
        frames = frame_by_frame(
            self.prior, source_noise, self.num_steps, mask=self.mask,
            **{"z" if z_is_known else "z_noise": z},
            s_noise=rows(source_noise),
            own=self._rows_of_its_own(source_noise, source_noise.shape[:-1]),
            first=first,
        )
        latents, sources = zip(*((frame.z, frame.s) for frame in frames), strict=True)
        return RollOut(
            z if z_is_known else torch.stack(latents, 1).reshape(z.shape),
            torch.stack(sources, 1).reshape(source_noise.shape),
        )

    def _rows_of_its_own(self, s: Tensor, wide: torch.Size) -> Tensor | None:
        """Return `own` as rows, (rows, T, 1); None where every frame is fed as it is."""
        if self.use_prediction == 0:
            return None
        return rows(self.own(s).expand(*wide, 1))


class LatentPath(PathDistribution):
    """p(z_t | s_<t, z_<t) of a pair."""

    def __init__(self, pair: LatentPaths) -> None:
        taught = () if pair.taught is None else pair.taught.shape[:-2]
        batch_shape = torch.broadcast_shapes(pair.batch_shape, taught)
        size = (pair.num_steps, pair.prior.latent_dim)
        super().__init__(batch_shape, *size, like=pair.like, mask=pair.mask)
        self.pair = pair

    def conditionals(self, value: Tensor) -> dist.TorchDistribution:
        """Return p(z_t | s_<t, z_<t)."""
        pair, s = self.pair, self.pair.known_source
        if pair.use_prediction > 0:
            return gaussian(*pair.fed_back(value, s).latent)
        return gaussian(*pair.prior.cell.all_latents(value, pair.prior.see(s)))

    def roll_out(self, noise: Tensor) -> Tensor:
        """Return z; where s is unknown, draw its noise too and keep the joint roll-out."""
        pair = self.pair
        if pair.taught is not None:
            return pair.roll_out_latent(noise, pair.taught)
        source_noise = torch.randn(
            (*noise.shape[:-1], pair.prior.source_dim), dtype=noise.dtype, device=noise.device
        )
        pair.rolled_out = pair.roll_out(noise, source_noise, z_is_known=False)
        return pair.rolled_out.latent


class SourcePath(PathDistribution):
    """p(s_t | s_<t, z_<=t) of a pair, for one z."""

    def __init__(self, pair: LatentPaths, z: Tensor) -> None:
        batch_shape = torch.broadcast_shapes(pair.batch_shape, z.shape[:-2])
        size = (pair.num_steps, pair.prior.source_dim)
        super().__init__(batch_shape, *size, like=pair.like, mask=pair.mask)
        self.pair, self.z = pair, z

    def conditionals(self, value: Tensor) -> dist.TorchDistribution:
        """Return p(s_t | s_<t, z_<=t)."""
        pair, prior = self.pair, self.pair.prior
        if pair.use_prediction > 0:
            history, _, outputs = pair.fed_back(self.z, value)
        else:
            history, outputs = value, prior.cell.all_outputs(self.z, prior.see(value), pair.mask)
        return as_wide(prior.emission.conditionals(outputs, history, pair.anchor), value)

    def roll_out(self, noise: Tensor) -> Tensor:
        """Return the s that the noise drives, z given."""
        z = self.z.expand(*noise.shape[:-1], self.pair.prior.latent_dim)
        return self.pair.roll_out(z, noise, z_is_known=True).source

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Return the source trajectory rolled out with this z; a new one where none was."""
        stored = self.pair.rolled_out
        if stored is not None and _same(stored.latent, self.z):
            if stored.source.shape == self._extended_shape(torch.Size(sample_shape)):
                return stored.source
        return super().rsample(sample_shape)


# ---- a model fed with its own predictions, and how far gradients follow them
#
# Scheduled sampling and generation put predictions where the data would be. A history of
# predictions is a fixed point of the decoder's pass over all frames: a pass leaves it where it is,
# and takes gradients through one prediction more. So a few passes follow predictions over a few
# hops, and all of them are followed frame by frame.


class Fed(NamedTuple):
    """What a model fed with a history says of every frame of it."""

    history: Tensor  # the data, or the model's own predictions; shape: (*batch, T, D)
    latent: tuple[Tensor, Tensor]  # p(z_t | history_<t, z_<t), each (*batch, T, L)
    outputs: Outputs  # the decoder's, each (*batch, T, D)


@torch.no_grad()
def predictions(
    prior: DynamicalPrior,
    s: Tensor,  # shape: (*batch, T, D)
    z: Tensor,  # shape: (*batch, T, L)
    own: Tensor,  # shape: (*batch, T, 1)
    *,
    anchor: Anchor | None = None,
    mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
) -> Tensor:  # shape: (*batch, T, D)
    """Return s with the model's own predictions in some frames, each told of those before."""
    frames = _fed_frames(prior, s, z, own, anchor, mask)
    return torch.stack([frame.fed for frame in frames], 1).reshape(s.shape)


def feed_back(
    prior: DynamicalPrior,
    s: Tensor,  # shape: (*batch, T, D)
    z: Tensor,  # shape: (*batch, T, L)
    own: Tensor,  # shape: (*batch, T, 1)
    *,
    hops: int | None,
    anchor: Anchor | None = None,
    mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
) -> Fed:
    """Return `predictions` and what the model says of them.

    Args:
        prior: the model.
        s: the data.
        z: its latents.
        own: which frames are predictions, see `frames_of_its_own`.
        hops: through how many predictions in a row gradients pass. One costs a pass; where every
            frame reads every earlier one, as in a Transformer, it is the direct effect of each
            prediction on all that follow. None: through all, frame by frame.
        anchor: p(s_1) in place of the model's.
        mask: True where a frame counts.
    """
    if hops is None:
        frames = list(_fed_frames(prior, s, z, own, anchor, mask))
        each = [(f.fed, *prior.cell.latent(f.state), *f.outputs) for f in frames]
        history, mean, log_variance, *said = (
            torch.stack(parts, 1).reshape(*s.shape[:-1], -1) for parts in zip(*each, strict=True)
        )
        return Fed(history, (mean, log_variance), tuple(said))
    history = predictions(prior, s, z, own, anchor=anchor, mask=mask)
    for _ in range(hops):
        outputs = prior.cell.all_outputs(z, prior.see(history), mask)
        expected = prior.emission.conditionals(outputs, history, anchor).mean
        history = torch.where(own, expected, s)
    x = prior.see(history)
    return Fed(history, prior.cell.all_latents(z, x), prior.cell.all_outputs(z, x, mask))


def _fed_frames(
    prior: DynamicalPrior, s: Tensor, z: Tensor, own: Tensor, anchor: Anchor | None, mask: Tensor
) -> Iterator[Frame]:
    """Yield frames of z and s given, predictions fed back; rows flat."""
    return frame_by_frame(
        prior, s, s.shape[-2], z=z.expand(*s.shape[:-1], -1), mask=mask, s=rows(s), own=rows(own),
        first=None if anchor is None else rows(s)[:, 0],
    )


def frame_by_frame(
    prior: DynamicalPrior,
    like: Tensor,  # for batch shape, dtype and device; shape: (*batch, T', X)
    num_steps: int,
    *,
    z: Tensor | None = None,  # as far as it is known, shape: (*batch, T', L)
    z_noise: Tensor | None = None,  # shape: (*batch, T, L)
    mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
    **given: Tensor | None,  # what else `unroll` takes, rows flat
) -> Iterator[Frame]:
    """Yield frames from the first on, rows flat; all of z is there first where a decoder asks."""
    cell, state = prior.cell, prior.cell.start(like.shape[:-2], like)
    latents = {name: rows(v) for name, v in (("z", z), ("z_noise", z_noise)) if v is not None}
    if cell.looks_ahead:
        if z is None or z.shape[-2] < num_steps:  # p(z) reads no s: any will do
            unread = rows(like.new_zeros(*like.shape[:-2], num_steps, prior.source_dim))
            frames = unroll(cell, prior.emission, state, num_steps, s=unread, **latents)
            z = torch.stack([frame.z for frame in frames], 1)
            z = z.reshape(*like.shape[:-2], *z.shape[1:])
            latents = {"z": rows(z)}
        state = cell.foresee(state, z, mask)
    return unroll(cell, prior.emission, state, num_steps, **latents, **given)


def gaussian(
    mean: Tensor,  # shape: (*, D)
    log_variance: Tensor,  # shape: (*, D)
) -> dist.TorchDistribution:  # batch (*), event (D,)
    """N(mean, exp(log_variance)), independent over the last dimension."""
    return diagonal_normal(mean, (0.5 * log_variance).exp())


def _same(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors hold one value: handlers detach and reshape what they pass on."""
    return left is right or (left.shape == right.shape and torch.equal(left, right))
