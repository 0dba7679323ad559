"""The path distributions of an SRNN: q(z | s), and the pair p(z | s), p(s | z)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn import functional as F

from pyromodels.distributions.coupled import CoupledPaths, RollOut
from pyromodels.distributions.message import Anchor
from pyromodels.distributions.path import PathDistribution, diagonal_normal

if TYPE_CHECKING:
    from pyromodels.dynamics.srnn import SRNN


class EncoderPath(PathDistribution):
    """q(z_t | s_<=t, z_{t-1}) of an `SRNN`."""

    def __init__(self, model: SRNN, s: Tensor, mask: Tensor | None) -> None:
        super().__init__(s.shape[:-2], s.shape[-2], model.latent_dim, like=s, mask=mask)
        self.model = model
        self.h, self.x = model.hidden(s)

    def conditionals(self, value: Tensor) -> dist.TorchDistribution:
        """Return q(z_t | s_<=t, z_{t-1})."""
        mean, log_variance = self.model.encoder(self.h, self.x, before(value))
        return diagonal_normal(mean, (0.5 * log_variance).exp())

    def roll_out(self, noise: Tensor) -> Tensor:
        """Return z driven by the noise."""
        return self.model.infer(self.h, self.x, noise=noise).z


class SRNNPaths(CoupledPaths):
    """p(z_t | s_<t, z_{t-1}) and p(s_t | s_<t, z_t) of an `SRNN`."""

    def __init__(self, model: SRNN, num_steps: int, anchor: Anchor, mask: Tensor | None) -> None:
        super().__init__(
            anchor.loc.shape[:-1],
            num_steps,
            latent_dim=model.latent_dim,
            source_dim=model.source_dim,
            like=anchor.loc,
            mask=mask,
        )
        self.model, self.anchor = model, anchor

    def latent_conditionals(self, z: Tensor, s: Tensor) -> dist.TorchDistribution:
        """Return p(z_t | s_<t, z_{t-1})."""
        mean, log_variance = self.model.prior(self.model.hidden(s)[0], before(z))
        return diagonal_normal(mean, (0.5 * log_variance).exp())

    def source_conditionals(self, z: Tensor, s: Tensor) -> dist.TorchDistribution:
        """Return p(s_t | s_<t, z_t)."""
        output = self.model.decoder(self.model.hidden(s)[0], z)
        return self.model.coordinates.conditionals(*output, s, self.anchor)

    def roll_out_latent(self, noise: Tensor, s: Tensor) -> Tensor:
        """Return z driven by the noise, s given."""
        prior = self.model.prior.split()
        known = prior.known({0: self.model.hidden(s)[0]})
        steps = known.expand(*noise.shape[:-1], -1).reshape(-1, *known.shape[-2:]).unbind(1)
        z, path = noise.new_zeros(steps[0].shape[0], self.latent_dim), []
        for known_t, noise_t in zip(steps, rows(noise).unbind(1), strict=True):
            mean, log_variance = prior.step(known_t, 1, z)
            z = mean + (0.5 * log_variance).exp() * noise_t
            path.append(z)
        return torch.stack(path, 1).reshape(noise.shape)

    def roll_out(self, z: Tensor, source_noise: Tensor, *, z_is_known: bool) -> RollOut:
        """Return z and s, interleaved frame by frame."""
        model, coordinates = self.model, self.model.coordinates
        steps, recurrence = model.steps(), model.recurrence
        anchor_shape = source_noise[..., 0, :].shape
        loc, variance = (flat(v.expand(anchor_shape)) for v in self.anchor)
        noise, given = rows(source_noise), rows(z)
        latents, sources = [], []
        x = torch.zeros_like(noise[:, 0])
        z_t, state = torch.zeros_like(given[:, 0]), recurrence.initial_state(x)
        for t in range(self.num_steps):
            state = recurrence.step(x, state)  # h_t
            if z_is_known:
                z_t = given[:, t]
            else:
                mean, log_variance = steps.prior.step(steps.prior.known({0: state[0]}), 1, z_t)
                z_t = mean + (0.5 * log_variance).exp() * given[:, t]
            if t == 0:
                s = loc + variance.sqrt() * noise[:, 0]
                x = coordinates.first(s)
            else:
                mean, log_variance = steps.decoder.step(steps.decoder.known({0: state[0]}), 1, z_t)
                draw = mean + coordinates.scale_of(log_variance) * noise[:, t]
                following = coordinates.absolute(draw, s)
                x, s = coordinates.relative(following, s), following
            latents.append(z_t)
            sources.append(s)
        return RollOut(
            torch.stack(latents, 1).reshape(z.shape) if not z_is_known else z,
            torch.stack(sources, 1).reshape(source_noise.shape),
        )


def before(z: Tensor) -> Tensor:
    """z_{t-1} for every t, z_0 = 0."""
    return F.pad(z, (0, 0, 1, 0))[..., :-1, :]


def rows(v: Tensor) -> Tensor:
    """(*batch, T, X) -> (rows, T, X)."""
    return v.reshape(-1, *v.shape[-2:])


def flat(v: Tensor) -> Tensor:
    """(*batch, X) -> (rows, X)."""
    return v.reshape(-1, v.shape[-1])
