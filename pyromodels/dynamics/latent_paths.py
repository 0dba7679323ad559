"""The path distributions of a dynamical VAE: q(z | s), and the pair p(z | s), p(s | z)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyro.distributions as dist
import torch
from torch import Tensor

from pyromodels.distributions.latent_and_source_paths import CoupledPaths, RollOut
from pyromodels.distributions.message import Anchor
from pyromodels.distributions.path import PathDistribution, diagonal_normal
from pyromodels.dynamics.feedback import Fed, feed_back, frames_of_its_own
from pyromodels.dynamics.unroll import unroll
from pyromodels.networks.encoders import Encoder, Inferred
from pyromodels.networks.mlp import rows

if TYPE_CHECKING:
    from pyromodels.dynamics.dynamical_prior import DynamicalPrior


class EncoderPath(PathDistribution):
    """q(z_t | s, z_<t) of an encoder."""

    def __init__(
        self, prior: DynamicalPrior, encoder: Encoder, s: Tensor, mask: Tensor | None
    ) -> None:
        super().__init__(s.shape[:-2], s.shape[-2], prior.latent_dim, like=s, mask=mask)
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


class LatentPaths(CoupledPaths):
    """p(z_t | s_<t, z_<t) and p(s_t | s_<t, z_<=t) of a `DynamicalPrior`.

    With `use_prediction`, draws and densities are those of networks that are fed with a history in
    which the model's own predictions stand in the place of some frames; one choice of frames serves
    a run. With probability 1 no frame that was drawn reaches a later one but through z.
    """

    def __init__(
        self,
        prior: DynamicalPrior,
        num_steps: int,
        batch_shape: torch.Size,
        *,
        anchor: Anchor | None,
        mask: Tensor | None,
        use_prediction: float = 0.0,
        prediction_hops: int | None = 0,
    ) -> None:
        super().__init__(
            batch_shape,
            num_steps,
            latent_dim=prior.latent_dim,
            source_dim=prior.source_dim,
            like=next(prior.parameters()) if anchor is None else anchor.loc,
            mask=mask,
        )
        self.prior, self.anchor = prior, anchor
        self.use_prediction = use_prediction if prior.reads_history else 0.0
        self.prediction_hops = prediction_hops
        self._own: Tensor | None = None
        self._fed: Fed | None = None

    def latent_conditionals(self, z: Tensor, s: Tensor) -> dist.TorchDistribution:
        """Return p(z_t | s_<t, z_<t)."""
        if self.use_prediction > 0:
            return gaussian(*self.fed_back(z, s).latent)
        return gaussian(*self.prior.cell.all_latents(z, self.prior.see(s)))

    def source_conditionals(self, z: Tensor, s: Tensor) -> dist.TorchDistribution:
        """Return p(s_t | s_<t, z_<=t)."""
        if self.use_prediction > 0:
            history, _, outputs = self.fed_back(z, s)
        else:
            history, outputs = s, self.prior.cell.all_outputs(z, self.prior.see(s), self.mask)
        return as_wide(self.prior.emission.conditionals(outputs, history, self.anchor), s)

    def noise_of(self, law: dist.TorchDistribution, s: Tensor) -> Tensor:
        """Return the noise that would have driven s."""
        return self.prior.emission.noise_of(law, s)

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

    def roll_out_latent(self, noise: Tensor, s: Tensor) -> Tensor:
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

    def roll_out(self, z: Tensor, source_noise: Tensor, *, z_is_known: bool) -> RollOut:
        """Return z and s, interleaved frame by frame; all of z first where the decoder asks."""
        cell = self.prior.cell
        state = cell.start(source_noise.shape[:-2], source_noise)
        if cell.looks_ahead:
            if not z_is_known:  # p(z) reads no s: any will do
                z, z_is_known = self.roll_out_latent(z, torch.zeros_like(source_noise)), True
            state = cell.foresee(state, z, self.mask)
        frames = unroll(
            cell, self.prior.emission, state, self.num_steps,
            **{"z" if z_is_known else "z_noise": rows(z)},
            s_noise=rows(source_noise),
            own=self._rows_of_its_own(source_noise, source_noise.shape[:-1]),
            first=None if self.anchor is None else self._first(source_noise[..., 0, :]),
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

    def _first(self, noise: Tensor) -> Tensor:
        loc, variance = self.anchor
        return (loc + variance.sqrt() * noise).reshape(-1, noise.shape[-1])


def gaussian(
    mean: Tensor,  # shape: (*, D)
    log_variance: Tensor,  # shape: (*, D)
) -> dist.TorchDistribution:  # batch (*), event (D,)
    """N(mean, exp(log_variance)), independent over the last dimension."""
    return diagonal_normal(mean, (0.5 * log_variance).exp())


def as_wide(
    law: dist.TorchDistribution,  # batch (*, T), event (D,)
    value: Tensor,  # shape: (*, T, D)
) -> dist.TorchDistribution:  # batch (*, T), event (D,)
    """Return a law with the batch of the value too, which it has not where it knows none of it."""
    batch = torch.broadcast_shapes(law.batch_shape, value.shape[:-1])
    return law if batch == law.batch_shape else law.expand(batch)
