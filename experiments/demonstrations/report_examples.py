"""Shipped examples of guides that serve and guides that do not: the answers are known beforehand.

=========  =========================================================  ===========================
example    guide                                                      known answer
=========  =========================================================  ===========================
exact      one source, its detections known: q(s) is the Kalman       trust
           smoother's posterior
crossing   two sources that cross while detections do not say whose   do not trust: mean field
           they are; free-form mean field                             settles on one assignment
ambiguous  two sources that start at one place: labels are            do not trust: labels are
           exchangeable                                               those of the start
narrow     one source; q(s) factorises over frames as well            do not trust: too narrow
=========  =========================================================  ===========================
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.chain import GaussianChain, block_inverse, natural
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.guides.enumerated import Enumerated
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.adequacy.protocols import Fit
from pyromodels.inference.mixture.adequacy import mixture_simulator
from pyromodels.inference.mixture.restarts import keep_best
from pyromodels.inference.mixture.updates import AssignmentUpdate, SourceUpdate
from pyromodels.inference.mixture.vem import VEM
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.models.mixdvae import MixDVAE

STARTS, MAX_SWEEPS, TOLERANCE = 4, 40, 1e-3
NUM_EXACT = 3
"""Sequences of which the exact posterior is drawn, by enumeration of assignments."""


class Example(NamedTuple):
    """What `guide_report` takes."""

    title: str
    model: MixDVAE
    fit: Fit
    data: MixtureBatch
    reference: tuple[MixtureBatch, dict[str, Tensor]]
    """Draws of the exact posterior, on a few of the sequences."""


def fit_with(model: MixDVAE, *, over_frames: bool = False) -> Fit:
    """Return the fit of a mean-field guide by VEM, the best of some random starts.

    Args:
        model: the program.
        over_frames: let q(s) factorise over frames too (thesis eq. 3.15), the best of that family:
            the smoother's means, and variances with all other frames held still.
    """
    update = SourceUpdate()

    def fit(batch: MixtureBatch, seed: int) -> Posterior:
        starts = STARTS if batch.num_sources > 1 else 1  # with one source nothing is ambiguous
        copies = batch.repeat(starts)
        guide = MeanField(model, copies)
        noise = torch.Generator().manual_seed(seed)
        eta = torch.randn(guide.responsibilities.shape, generator=noise).softmax(-1)
        guide.responsibilities = eta * copies.mask[..., None]
        update(model, guide, copies)
        vem = VEM(model, guide, [AssignmentUpdate(), update])
        vem.run(copies, MAX_SWEEPS, tolerance=TOLERANCE)
        keep_best(vem.elbo(copies), guide, starts)
        if over_frames:
            alone = block_inverse(natural(guide.sources).diagonal)
            guide.sources = GaussianChain(guide.loc, alone)
        return Posterior(model, guide, batch)

    return fit


def one_source(
    num_sequences: int = 25, num_frames: int = 12
) -> tuple[MixDVAE, MixtureBatch]:
    """A point with a velocity on a line, seen once in every frame; unit: any length."""
    start = torch.zeros(1, 2)
    return _made(start, (1.0, 0.1), num_sequences, num_frames, process_std=(0.2, 0.1), noise=0.3)


def two_sources(
    starts: tuple[tuple[float, float], tuple[float, float]],  # position and velocity of each
    num_sequences: int = 25,
    num_frames: int = 6,
) -> tuple[MixDVAE, MixtureBatch]:
    """Two points on a line, two detections in every frame, each of either."""
    start = torch.tensor(starts)
    return _made(start, (0.1, 0.1), num_sequences, num_frames, process_std=(0.1, 0.2), noise=0.3)


def _made(
    start: Tensor, start_std: tuple[float, float], num_sequences: int, num_frames: int,
    *, process_std: tuple[float, float], noise: float,
) -> tuple[MixDVAE, MixtureBatch]:
    """A model and data drawn from it, as many detections a frame as sources."""
    num_sources = len(start)
    prior = LinearGaussian(num_coordinates=1, order=2, process_std=process_std)
    model = MixDVAE(prior)
    shape = (num_sequences, num_frames, num_sources, 1)
    anchor = Anchor(
        start.expand(num_sequences, -1, -1).clone(),
        torch.tensor(start_std).square().expand(num_sequences, num_sources, -1).clone(),
    )
    blank = MixtureBatch(
        torch.zeros(shape), torch.ones(shape[:-1], dtype=torch.bool),
        torch.full(shape, noise**2), anchor,
    )
    data, _ = mixture_simulator(model, blank, num_sequences)(12345)
    return model, data


def _example(title: str, made: tuple[MixDVAE, MixtureBatch], **options: bool) -> Example:
    model, data = made
    few = data.take(torch.arange(NUM_EXACT))
    exact = Posterior(model, Enumerated(model, few), few).sample(1000)
    return Example(title, model, fit_with(model, **options), data, (few, exact))


EXAMPLES: dict[str, Callable[[], Example]] = {
    "exact": lambda: _example("Exact: one source, the Kalman smoother", one_source()),
    "crossing": lambda: _example(
        "Crossing: two sources, detections that do not say whose they are",
        two_sources(((-1.0, 0.4), (1.0, -0.4))),
    ),
    "ambiguous": lambda: _example(
        "Ambiguous: two sources that start at one place", two_sources(((0.0, 0.0), (0.0, 0.0)))
    ),
    "narrow": lambda: _example(
        "Narrow: a guide that also factorises over frames", one_source(), over_frames=True
    ),
}
