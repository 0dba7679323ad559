"""E-S in the order of time: a frame's posterior is what the networks see of it afterwards."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.chain import GaussianChain
from pyromodels.dynamics.autoregressive import Autoregressive
from pyromodels.dynamics.base import EmittingPrior
from pyromodels.dynamics.by_source import BySource
from pyromodels.dynamics.cell import unroll
from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.emissions.base import FrameLaw, Said
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
        SpecError: for a prior that is neither a dynamical VAE nor an autoregressive model, whose
            frames are not Gaussian or have transitions, that has a latent of the whole sequence, or
            starts at an anchor.
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
        self, prior: EmittingPrior, loc: Tensor, precision: Tensor, information: Tensor
    ) -> tuple[Tensor, Tensor]:  # m and V, each (B, N_own, T, D)
        evidence, num_steps = torch.cat((precision, information), -1), loc.shape[-2]
        law = prior.head if isinstance(prior, Autoregressive) else prior.emission
        posterior = FramePosterior(law, prior.iterate if self.with_variance else None)
        if isinstance(prior, Autoregressive):
            run = prior.unroll(evidence, num_steps, law=posterior, s_noise=evidence)
        else:
            z, cell = prior.infer(loc, noise=None).z, prior.cell
            state = cell.foresee(cell.start(loc.shape[:-2], loc), z)
            run = unroll(cell, posterior, state, num_steps, z=rows(z), s_noise=rows(evidence))
        means = [frame.s for frame in run]
        mean, variance = (torch.stack(part, -2) for part in (means, posterior.variances))
        return mean.reshape(loc.shape), variance.reshape(loc.shape)


class FramePosterior(FrameLaw):
    """What a frame is, given networks and observations, in the place of a law's draw.

    Args:
        law: Gaussian frames without a transition: an emission, or a head.
        iterate: of the prior, what networks see of mean and variance; None: they see the mean.
    """

    def __init__(
        self, law: FrameLaw, iterate: Callable[[Tensor, Tensor], Tensor] | None
    ) -> None:
        self.law, self.iterate = law, iterate
        self.variances: list[Tensor] = []

    def relative(self, s: Tensor, previous: Tensor | None) -> Tensor:
        """Return what networks see of the frame that was drawn last."""
        if self.iterate is not None:
            s = self.iterate(s, self.variances[-1])
        return self.law.relative(s, previous)

    def draw(self, said: Said, noise: Tensor, previous: Tensor | None) -> Tensor:
        """Return the posterior mean; `noise` holds precision and information of the frame."""
        precision, information = noise.chunk(2, -1)
        framed = (
            said.unsqueeze(-2) if isinstance(said, Tensor) else tuple(o.unsqueeze(-2) for o in said)
        )
        message = self.law.message(framed, None, None)
        own = 1 / message.covariance.flatten(-4)
        variance = 1 / (own + precision)
        self.variances.append(variance)
        return variance * (own * message.offset.flatten(-3) + information)

    def conditionals(self, *args: Any) -> Any:
        """Refused: a frame's posterior is known one frame at a time."""
        raise NotImplementedError("the posterior of a frame needs that of the frame before")


def _each_source(prior: Any, batch: MixtureBatch) -> list[tuple[EmittingPrior, slice]]:
    """Return which prior is that of which sources."""
    if isinstance(prior, BySource):
        found = [(p, slice(n, n + 1)) for n, p in enumerate(prior.priors)]
    else:
        found = [(prior, slice(0, batch.num_sources))]
    for own, _ in found:
        fits = isinstance(own, DynamicalPrior | Autoregressive) and own.has_gaussian_message
        if not fits or own.needs_anchor or own.global_dim or batch.anchor is not None:
            expected = "a deep prior whose frames have no transition, e.g. of complex spectra"
            raise SpecError(mismatch("prior", given=type(own).__name__, expected=expected))
    return found
