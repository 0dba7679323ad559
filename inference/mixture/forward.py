"""E-S in the order of time: a frame's posterior is what the networks see of it afterwards."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.chain import GaussianChain
from pyromodels.dynamics.by_source import BySource
from pyromodels.dynamics.cell import unroll
from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.emissions.base import DecodedEmission, FrameLaw, Outputs
from pyromodels.errors import SpecError, mismatch
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.engines.coordinate_ascent import Update
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.networks.mlp import rows


@dataclass
class ForwardSourceUpdate(Update):
    r"""E-S of the published code: q(s_t) ∝ p(s_t | m_{<t}, z_{<=t}) × observations, t = 1..T.

    The decoder runs once over the frames, and is fed with the posterior mean of each frame as soon
    as it is known, where `SourceUpdate` feeds it with the whole trajectory of the sweep before. The
    encoder sees that trajectory in either.

    Departure: the recursion starts as in training; the published one is fed with the source's own
    first frame once more.

    Reference: Lin, 2024 (thesis), eq. A.34-A.35 and section 5.4.2.

    Args:
        with_variance: what networks see of q(s) is the prior's own `iterate`. False: the mean, as
            published with noise off.

    Raises:
        SpecError: for a prior that is no dynamical VAE of Gaussian frames, that has transitions
            from frame to frame or a latent of the whole sequence, or starts at an anchor.
    """

    with_variance: bool = True
    changes_model = False

    def __call__(self, model: MixDVAE, guide: MeanField, batch: MixtureBatch) -> None:
        """Set the guide's sources."""
        priors = _each_source(model.prior, batch)
        loc = guide.sources.loc
        if self.with_variance:
            loc = model.prior.iterate(loc, guide.sources.variance)
        precision, information = (
            part.flatten(3) for part in model.observation.pseudo_observations(batch, guide.assigned)
        )
        parts = [
            self._run(prior, loc[:, own], precision[:, own], information[:, own])
            for prior, own in priors
        ]
        loc, variance = (torch.cat(part, 1).unsqueeze(-1) for part in zip(*parts, strict=True))
        covariance = variance.unsqueeze(-1)
        guide.sources = GaussianChain(loc, covariance, None, covariance=covariance)

    def _run(
        self, prior: DynamicalPrior, loc: Tensor, precision: Tensor, information: Tensor
    ) -> tuple[Tensor, Tensor]:  # m and V, each (B, N_own, T, D)
        z = prior.infer(loc, noise=None).z
        cell, shape = prior.cell, loc.shape[:-2]
        state = cell.foresee(cell.start(shape, loc), z)
        posterior = FramePosterior(prior.emission, self.with_variance)
        frames = list(unroll(
            cell, posterior, state, loc.shape[-2], z=rows(z),
            s_noise=rows(torch.cat((precision, information), -1)),
        ))
        mean, variance = torch.stack([f.s for f in frames], 1), torch.stack(posterior.variances, 1)
        return mean.reshape(loc.shape), variance.reshape(loc.shape)


class FramePosterior(FrameLaw):
    """What a frame is, given networks and observations, in the place of an emission's draw.

    Args:
        emission: Gaussian frames without a transition.
        with_variance: see `ForwardSourceUpdate`.
    """

    def __init__(self, emission: DecodedEmission, with_variance: bool) -> None:
        self.emission, self.with_variance = emission, with_variance
        self.variances: list[Tensor] = []

    def relative(self, s: Tensor, previous: Tensor | None) -> Tensor:
        """Return what networks see of the frame that was drawn last."""
        if self.with_variance:
            s = self.emission.iterate(s, self.variances[-1])
        return self.emission.relative(s, previous)

    def draw(self, outputs: Outputs, noise: Tensor, previous: Tensor | None) -> Tensor:
        """Return the posterior mean; `noise` holds precision and information of the frame."""
        precision, information = noise.chunk(2, -1)
        framed = tuple(output.unsqueeze(-2) for output in outputs)
        message = self.emission.message(framed, None, None)
        own = 1 / message.covariance.flatten(-4)
        variance = 1 / (own + precision)
        self.variances.append(variance)
        return variance * (own * message.offset.flatten(-3) + information)

    def conditionals(self, *args: Any) -> Any:
        """Refused: a frame's posterior is known one frame at a time."""
        raise NotImplementedError("the posterior of a frame needs that of the frame before")


def _each_source(prior: Any, batch: MixtureBatch) -> list[tuple[DynamicalPrior, slice]]:
    """Return which prior is that of which sources."""
    if isinstance(prior, BySource):
        found = [(p, slice(n, n + 1)) for n, p in enumerate(prior.priors)]
    else:
        found = [(prior, slice(0, batch.num_sources))]
    for own, _ in found:
        fits = isinstance(own, DynamicalPrior) and own.has_gaussian_message
        if not fits or own.needs_anchor or own.global_dim or batch.anchor is not None:
            expected = "a dynamical VAE whose frames have no transition, e.g. of complex spectra"
            raise SpecError(mismatch("prior", given=type(own).__name__, expected=expected))
    return found
