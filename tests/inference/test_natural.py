"""VEM is natural-gradient ascent: unit steps, damped steps, minibatches, fixed points."""

import pytest
import torch

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.chain import GaussianChain
from pyromodels.distributions.message import Anchor
from pyromodels.guides.damping import damped
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.mixture.bound import closed_form_elbo
from pyromodels.inference.mixture.natural import (
    NaturalAssignment,
    NaturalSources,
    expectations,
    expected_log_path,
)
from pyromodels.inference.mixture.updates import AssignmentUpdate, SourceUpdate, VisibilityUpdate
from pyromodels.inference.mixture.vem import VEM
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.observations.detector import Detector
from pyromodels.registry import DYNAMICS

CLOSE = {"atol": 1e-10, "rtol": 1e-10}
DETECTOR = Detector(0.9, 0.1, 0.4, hide=0.2, reappear=0.3)
PRIORS = [
    pytest.param(name, spec, id=f"{name}-{i}")
    for name in DYNAMICS
    for i, spec in enumerate(DYNAMICS[name].contract_specs)
    if DYNAMICS[name](**spec).has_gaussian_message
]


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def scene(prior, num_sequences=2, num_frames=6, num_slots=3, num_sources=2):
    """A batch that fits a prior, boxes as likely as anything else."""
    torch.manual_seed(0)
    model = MixDVAE(prior)
    dim = model.observation.num_features
    observations = torch.rand(num_sequences, num_frames, num_slots, dim)
    if dim == 4:
        observations[..., 2:] += 1.0
    mask = torch.rand(observations.shape[:3]) > 0.2
    anchor = torch.zeros(num_sequences, num_sources, prior.source_dim)
    anchor[..., :: prior.block_dim] = observations[:, 0, :num_sources]
    variance = torch.full_like(anchor, 0.1)
    return model, MixtureBatch(
        observations, mask, torch.full_like(observations, 0.05), Anchor(anchor, variance)
    )


@pytest.mark.parametrize(("name", "spec"), PRIORS)
def test_a_unit_natural_gradient_step_is_the_closed_form_update_for_every_prior(name, spec):
    torch.manual_seed(1)
    model, batch = scene(DYNAMICS[name](**spec))
    closed, natural = MeanField(model, batch), MeanField(model, batch)
    one = VEM(model, closed, [SourceUpdate(), AssignmentUpdate()])
    other = VEM(model, natural, [NaturalSources(), NaturalAssignment()])
    for _ in range(3):
        one.sweep(batch)
        other.sweep(batch)
        for part in ("loc", "innovation", "covariance", "responsibilities"):
            torch.testing.assert_close(getattr(natural, part), getattr(closed, part), **CLOSE)
        torch.testing.assert_close(
            natural.sources.cross_covariance, closed.sources.cross_covariance, **CLOSE
        )


def test_the_expected_log_path_is_linear_in_the_expectation_parameters(mixture, randomised):
    model, batch = mixture()
    chains = [randomised(model, batch, seed).sources for seed in (1, 2)]
    message = model.prior.gaussian_message(chains[0].loc, anchor=batch.anchor)
    one, other = (expectations(chain) for chain in chains)
    middle = [torch.lerp(*pair, 0.3) for pair in zip(one, other, strict=True)]
    ends = [expected_log_path(message, *moments) for moments in (one, other)]
    torch.testing.assert_close(expected_log_path(message, *middle), torch.lerp(*ends, 0.3), **CLOSE)
    samples = chains[0].sample((20_000,))
    path = model.prior.path(batch.num_frames, batch.anchor).log_prob(samples)
    error = (path.mean(0) - ends[0]) / (path.std(0) / 20_000**0.5)
    assert error.abs().max() < 5


@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_damped_closed_forms_equal_natural_steps_of_that_size(mixture, rate):
    model, batch = mixture(detector=DETECTOR)
    closed, natural = MeanField(model, batch), MeanField(model, batch)
    one = VEM(model, closed, [SourceUpdate(), AssignmentUpdate()], damping=rate)
    other = VEM(model, natural, [NaturalSources(rate), NaturalAssignment(rate)])
    for _ in range(4):
        one.sweep(batch)
        other.sweep(batch)
    torch.testing.assert_close(natural.loc, closed.loc, **CLOSE)
    torch.testing.assert_close(natural.responsibilities, closed.responsibilities, **CLOSE)


def test_damped_factors_are_geometric_means(mixture, randomised):
    model, batch = mixture(detector=DETECTOR, num_frames=3)
    one, other = randomised(model, batch, 1), randomised(model, batch, 2)
    chain = damped(one.sources, other.sources, 0.3)
    values = one.sources.sample((2,))
    densities = [0.7 * one.sources.log_prob(values) + 0.3 * other.sources.log_prob(values)]
    densities.append(chain.log_prob(values))
    ratio = densities[1] - densities[0]  # a constant: the normaliser
    torch.testing.assert_close(ratio[0], ratio[1], **CLOSE)
    eta = damped(one.responsibilities, other.responsibilities, 0.3)
    product = one.responsibilities**0.7 * other.responsibilities**0.3
    seen = batch.mask
    expected = product[seen] / product[seen].sum(-1, keepdim=True)
    torch.testing.assert_close(eta[seen], expected, **CLOSE)
    assert not eta[~seen].any()
    paths = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)[:, None, None]
    paths = paths[paths[..., 0].squeeze() == 1]  # every source starts visible
    mixed = 0.7 * one.visibility.log_prob(paths) + 0.3 * other.visibility.log_prob(paths)
    visible = damped(one.visibility, other.visibility, 0.3)
    torch.testing.assert_close(visible.log_prob(paths), mixed.log_softmax(0), **CLOSE)


def test_damping_reaches_the_same_bound_more_slowly(mixture):
    model, batch = mixture(detector=DETECTOR)
    steps = [SourceUpdate(), VisibilityUpdate(), AssignmentUpdate()]
    bounds = {}
    for damping in (1.0, 0.5):
        vem = VEM(model, MeanField(model, batch), steps, damping=damping)
        trace = []
        for _ in range(200):
            vem.sweep(batch)
            trace.append(vem.elbo(batch))
        trace = torch.stack(trace)
        assert trace.diff(dim=0).min() > -1e-9
        bounds[damping] = trace
    torch.testing.assert_close(bounds[0.5][-1], bounds[1.0][-1], atol=1e-6, rtol=0)
    assert (bounds[0.5][0] < bounds[1.0][0]).all()


@pytest.mark.parametrize("damping", [0.0, 1.5])
def test_impossible_damping_is_refused(mixture, damping):
    model, batch = mixture()
    with pytest.raises(ValueError, match="damping: given"):
        VEM(model, MeanField(model, batch), [], damping=damping)


def test_minibatches_of_sequences_reach_what_the_whole_batch_reaches(mixture):
    model, batch = mixture(5, detector=DETECTOR)
    steps = [SourceUpdate(), VisibilityUpdate(), AssignmentUpdate()]
    whole = VEM(model, MeanField(model, batch), steps)
    parts = VEM(model, MeanField(model, batch), steps)
    untouched = parts.guide.loc[4]
    parts.step(batch.subset(torch.tensor([3, 1])))
    torch.testing.assert_close(parts.guide.loc[4], untouched)
    for _ in range(3):
        whole.sweep(batch)
    for rows in (torch.tensor([0, 2, 4]),) * 3 + (torch.tensor([1, 3]),) * 2:
        loss = parts.step(batch.subset(rows))
        assert loss == pytest.approx(parts.evaluate_loss(batch.subset(rows)))
    torch.testing.assert_close(parts.guide.loc, whole.guide.loc, **CLOSE)
    torch.testing.assert_close(parts.elbo(batch), whole.elbo(batch), **CLOSE)


@pytest.mark.parametrize("order", [1, 2])
def test_the_gradient_of_every_factor_vanishes_at_the_fixed_point(mixture, order):
    model, batch = mixture(order=order, detector=DETECTOR)
    vem = VEM(
        model,
        MeanField(model, batch),
        [SourceUpdate(), VisibilityUpdate(), AssignmentUpdate()],
    )
    vem.run(batch, 2000, tolerance=1e-15)
    guide = vem.guide.parametrised()
    closed_form_elbo(model, guide, batch).sum().backward()
    for name, parameter in guide.named_parameters():
        assert parameter.grad.abs().max() < 1e-8, name


def test_an_attached_history_changes_the_step_of_deep_priors_alone():
    torch.manual_seed(0)
    for name, differs in (("linear", False), ("srnn", True)):
        spec = {"num_coordinates": 4, "order": 1, "process_std": (0.3,)} if name == "linear" else {}
        model, batch = scene(DYNAMICS[name](**spec))
        locs = []
        for detach in (True, False):
            guide = MeanField(model, batch)
            with torch.no_grad():
                NaturalSources(0.2, detach_history=detach)(model, guide, batch)
            locs.append(guide.loc)
        assert torch.allclose(*locs, atol=1e-12) is not differs


def test_chains_of_one_block_and_of_one_frame_have_natural_steps():
    prior = DYNAMICS["linear"](num_coordinates=1, order=1, process_std=(0.3,))
    model, batch = scene(prior, num_frames=1)
    one, other = MeanField(model, batch), MeanField(model, batch)
    with torch.no_grad():
        SourceUpdate()(model, one, batch)
        NaturalSources()(model, other, batch)
    assert isinstance(other.sources, GaussianChain)
    torch.testing.assert_close(one.loc, other.loc, **CLOSE)
