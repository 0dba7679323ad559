"""Small mixtures in double precision, and guides with random factors."""

import pytest
import torch

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.chain import GaussianChain
from pyromodels.distributions.kalman import smooth
from pyromodels.distributions.message import Anchor
from pyromodels.distributions.visibility import BinaryChain
from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.experiments.demonstrations.report_examples import one_source
from pyromodels.guides.mean_field import MeanField
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.observations.gaussian import GaussianObservations


@pytest.fixture(autouse=True)
def double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def make_mixture(
    num_sequences=2,
    num_frames=5,
    num_slots=3,
    num_sources=2,
    *,
    order=2,
    num_coordinates=2,
    detector=None,
    projection=None,
    noise_scale=1.0,
    missing=0.25,
    seed=0,
    prior_class=LinearGaussian,
):
    """A model and a random batch of order one; with a detector the observations are boxes."""
    torch.manual_seed(seed)
    num_coordinates = num_coordinates if detector is None else 4
    std = (0.4, 0.2)[:order]
    prior = prior_class(
        num_coordinates=num_coordinates,
        order=order,
        process_std=std,
        velocity_decay=0.9,
        scale="unit",
    )
    law = GaussianObservations(prior, projection=projection, noise_scale=noise_scale)
    model = MixDVAE(prior, law, detector=detector)
    dim = law.num_features
    observations = torch.rand(num_sequences, num_frames, num_slots, dim) + 0.3
    mask = torch.rand(num_sequences, num_frames, num_slots) >= missing
    variance = 0.1 + 0.2 * torch.rand_like(observations)
    loc = 0.5 + 0.3 * torch.randn(num_sequences, num_sources, prior.source_dim)
    if detector is not None:
        loc[..., 2 * order :: order] = 0.5 + torch.rand_like(loc[..., 2 * order :: order])
    anchor = Anchor(loc, 0.2 + torch.rand_like(loc))
    return model, MixtureBatch(observations, mask, variance, anchor)


def random_guide(model, batch, seed=1):
    """A guide all of whose factors are random."""
    torch.manual_seed(seed)
    guide = MeanField(model, batch)
    eta = torch.randn_like(guide.responsibilities).softmax(-1)
    guide.responsibilities = eta * batch.mask[..., None]
    message = model.prior.gaussian_message(guide.sources.loc, anchor=batch.anchor)
    root = torch.randn_like(message.covariance)
    chain = smooth(message, root @ root.mT, torch.randn_like(message.offset))
    # not a smoother's any more, still a distribution
    guide.sources = GaussianChain(chain.loc_blocks, chain.innovation, 0.8 * chain.gain)
    if model.detector is not None:
        first = torch.ones_like(guide.visible_first)  # as in the prior
        guide.visibility = BinaryChain(first, torch.rand_like(guide.visible_step))
    return guide


@pytest.fixture
def mixture():
    """`make_mixture`."""
    return make_mixture


@pytest.fixture
def randomised():
    """`random_guide`."""
    return random_guide


@pytest.fixture(scope="module")
def line():
    """A point on a line, whose posterior is a Kalman smoother's; model and batch."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield one_source(num_sequences=12, num_frames=8)
    torch.set_default_dtype(before)
