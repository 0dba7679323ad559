"""Every coordinate update against loops over the equations, and the bound's gradient."""

import itertools
import math

import pyro
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from pyromodels.distributions.chain import GaussianChain
from pyromodels.distributions.message import Anchor, GaussianMessage
from pyromodels.distributions.visibility import BinaryChain
from pyromodels.dynamics.deep_ar import DeepAR
from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.errors import ShapeError
from pyromodels.inference.mixture.bound import closed_form_elbo
from pyromodels.inference.mixture.moments import (
    averaged_message,
)
from pyromodels.inference.mixture.updates import (
    AssignmentUpdate,
    FineTuneUpdate,
    ObservationNoiseUpdate,
    ProcessNoiseUpdate,
    SourceUpdate,
    VisibilityUpdate,
    observation_variance,
)
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.observations.detector import Detector
from pyromodels.observations.gaussian import GaussianObservations

CLOSE = {"atol": 1e-11, "rtol": 1e-9}
DETECTOR = Detector(0.9, 0.1, 0.4, hide=0.2, reappear=0.3)
DETECTORS = [pytest.param(None, id="thesis"), pytest.param(DETECTOR, id="detector")]


class FrameByFrame(LinearGaussian):
    """A prior whose message has no transition: the frames of eq. 3.18-3.19."""

    def gaussian_message(self, s, *, anchor, z_noise=None):
        _, _, covariance = super().gaussian_message(s, anchor=anchor)
        torch.manual_seed(5)
        offset = torch.randn(*s.shape[:-1], self.source_dim // self.block_dim, self.block_dim)
        return GaussianMessage(torch.zeros_like(covariance), offset, covariance)


def slot_projection(num_slots, num_coordinates=2, order=2):
    """One random P_k a slot, every row of which reads one block."""
    torch.manual_seed(7)
    blocks = torch.randn(num_slots, num_coordinates, num_coordinates, order)
    return (blocks * torch.eye(num_coordinates)[..., None]).flatten(-2)


def indices(batch):
    return itertools.product(*(range(size) for size in batch.mask.shape))


def slot(model, k):
    """P_k."""
    projection = model.observation.projection
    return projection[k if len(projection) > 1 else 0]


def dense_covariance(guide, b, n, t):
    return torch.block_diag(*guide.covariance[b, n, t])


def gradient(model, guide, batch, **leaves):
    """Gradient of the bound with respect to buffers of the guide, by name."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in leaves.items()}
    for name, value in leaves.items():
        setattr(guide, name, value)
    if "loc" in leaves:  # the marginal covariances follow
        guide.sources = GaussianChain(guide.loc, guide.innovation, guide.gain)
    bound = closed_form_elbo(model, guide, batch).sum()
    return torch.autograd.grad(bound, list(leaves.values()))


# E-W


@pytest.mark.parametrize("projection", ["prior", "slot"])
def test_assignment_equals_equation_a23_by_loops(mixture, randomised, projection):
    model, batch = mixture(projection=slot_projection(3) if projection == "slot" else None)
    guide = randomised(model, batch)
    AssignmentUpdate()(model, guide, batch)
    for b, t, k in indices(batch):
        phi = torch.diag(batch.variance[b, t, k])
        beta = []
        for n in range(batch.num_sources):
            mean = slot(model, k) @ guide.sources.loc[b, n, t]
            spread = slot(model, k) @ dense_covariance(guide, b, n, t) @ slot(model, k).T
            density = MultivariateNormal(mean, phi).log_prob(batch.observations[b, t, k]).exp()
            beta.append(density * (-0.5 * torch.trace(torch.linalg.inv(phi) @ spread)).exp())
        eta = torch.stack(beta) / sum(beta) * batch.mask[b, t, k]
        torch.testing.assert_close(guide.responsibilities[b, t, k], eta, **CLOSE)


@pytest.mark.parametrize("detector", DETECTORS)
def test_assignment_at_a_known_path_is_the_exact_posterior_by_enumeration(
    mixture, randomised, detector
):
    """With q(s) and q(v) points, q(w) is p(w | o, s, v), here from the program's own log joint."""
    model, batch = mixture(1, 2, 2, 2, detector=detector, missing=0.0)
    guide = randomised(model, batch)
    guide.sources = GaussianChain(guide.loc, guide.covariance * 1e-30)
    sites = {"s": guide.sources.loc.unsqueeze(1)}
    if detector is not None:
        step = guide.visible_step.round()
        guide.visibility = BinaryChain(guide.visible_first, step)
        sites["v"] = guide.visibility.mean.unsqueeze(1)
    AssignmentUpdate()(model, guide, batch)
    components = guide.responsibilities.shape[-1]
    choices = list(itertools.product(range(components), repeat=4))
    scores = []
    for choice in choices:
        sites["w"] = torch.tensor(choice).reshape(1, 2, 2)
        program = pyro.poutine.condition(model, data=sites)
        scores.append(pyro.poutine.trace(program).get_trace(batch).log_prob_sum())
    posterior = torch.stack(scores).detach().softmax(0)
    for place in range(4):
        eta = torch.zeros(components)
        eta.index_add_(0, torch.tensor(choices)[:, place], posterior)
        torch.testing.assert_close(guide.responsibilities[0, place // 2, place % 2], eta, **CLOSE)


@pytest.mark.parametrize("detector", DETECTORS)
def test_assignment_is_a_stationary_point_of_the_bound(mixture, randomised, detector):
    model, batch = mixture(detector=detector)
    guide = randomised(model, batch)
    AssignmentUpdate()(model, guide, batch)
    eta = guide.responsibilities
    floor = torch.where(batch.mask[..., None], eta, torch.ones_like(eta) / eta.shape[-1])
    logits = floor.log().requires_grad_()
    guide.responsibilities = logits.softmax(-1) * batch.mask[..., None]
    (slope,) = torch.autograd.grad(closed_form_elbo(model, guide, batch).sum(), logits)
    assert slope.abs().max() < 1e-8
    guide = randomised(model, batch)  # and elsewhere it is none
    logits = torch.randn_like(eta).requires_grad_()
    guide.responsibilities = logits.softmax(-1) * batch.mask[..., None]
    (slope,) = torch.autograd.grad(closed_form_elbo(model, guide, batch).sum(), logits)
    assert slope.abs().max() > 1e-2


@pytest.mark.parametrize("likelihood", ["expected", "cavity"])
def test_assignment_keeps_the_first_frame_when_told(mixture, randomised, likelihood):
    model, batch = mixture()
    guide = randomised(model, batch)
    before = guide.responsibilities.clone()
    AssignmentUpdate(likelihood=likelihood, keep_first=True)(model, guide, batch)
    assert torch.equal(guide.responsibilities[:, 0], before[:, 0])
    assert not torch.equal(guide.responsibilities[:, 1:], before[:, 1:])


def test_responsibilities_are_probabilities_where_something_is_seen_and_zero_elsewhere(
    mixture, randomised
):
    model, batch = mixture(detector=DETECTOR)
    for likelihood in ("expected", "cavity"):
        guide = randomised(model, batch)
        AssignmentUpdate(likelihood=likelihood)(model, guide, batch)
        assert torch.allclose(guide.responsibilities.sum(-1), batch.mask.to(torch.float64))


# E-S


@pytest.mark.parametrize("num_slots", [0, 1, 3])
def test_sources_without_transition_are_products_of_gaussians(mixture, randomised, num_slots):
    model, batch = mixture(num_slots=num_slots, prior_class=FrameByFrame, missing=0.0)
    guide = randomised(model, batch)
    eta = guide.responsibilities
    message = model.prior.gaussian_message(guide.sources.loc, anchor=batch.anchor)
    SourceUpdate()(model, guide, batch)
    for b, n, t in itertools.product(range(2), range(2), range(5)):
        prior = torch.linalg.inv(torch.block_diag(*message.covariance[b, n, t]))
        precision, information = prior.clone(), prior @ message.offset[b, n, t].flatten()
        for k in range(num_slots):  # eq. 3.18-3.19
            weight = eta[b, t, k, n] * slot(model, k).T @ torch.diag(1 / batch.variance[b, t, k])
            precision += weight @ slot(model, k)
            information += weight @ batch.observations[b, t, k]
        covariance = torch.linalg.inv(precision)
        torch.testing.assert_close(dense_covariance(guide, b, n, t), covariance, **CLOSE)
        torch.testing.assert_close(guide.sources.loc[b, n, t], covariance @ information, **CLOSE)


@pytest.mark.parametrize("projection", ["prior", "slot"])
def test_pseudo_observations_equal_loops(mixture, randomised, projection):
    model, batch = mixture(projection=slot_projection(3) if projection == "slot" else None)
    guide = randomised(model, batch)
    precision, information = model.observation.pseudo_observations(batch, guide.assigned)
    for b, n, t in itertools.product(range(2), range(2), range(5)):
        dense, vector = torch.zeros(4, 4), torch.zeros(4)
        for k in range(3):
            weight = slot(model, k).T @ torch.diag(
                guide.assigned[b, t, k, n] / batch.variance[b, t, k]
            )
            dense += weight @ slot(model, k)
            vector += weight @ batch.observations[b, t, k]
        torch.testing.assert_close(torch.block_diag(*precision[b, n, t]), dense, **CLOSE)
        torch.testing.assert_close(information[b, n, t].flatten(), vector, **CLOSE)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("detector", DETECTORS)
def test_sources_are_a_stationary_point_of_the_bound(mixture, randomised, order, detector):
    model, batch = mixture(order=order, detector=detector)
    guide = randomised(model, batch)
    start = gradient(
        model, guide, batch, loc=guide.loc, innovation=guide.innovation, gain=guide.gain
    )
    assert all(slope.abs().max() > 1e-2 for slope in start)
    SourceUpdate()(model, guide, batch)
    loc, innovation, gain = gradient(
        model, guide, batch, loc=guide.loc, innovation=guide.innovation, gain=guide.gain
    )
    assert loc.abs().max() < 1e-8
    assert (innovation + innovation.mT).abs().max() < 1e-8  # it moves as a symmetric matrix
    assert gain.abs().max() < 1e-8


def test_sources_with_a_projection_for_each_slot_are_a_stationary_point(mixture, randomised):
    model, batch = mixture(projection=slot_projection(3))
    guide = randomised(model, batch)
    SourceUpdate()(model, guide, batch)
    loc, innovation, gain = gradient(
        model, guide, batch, loc=guide.loc, innovation=guide.innovation, gain=guide.gain
    )
    slopes = (loc, innovation + innovation.mT, gain)
    assert all(slope.abs().max() < 1e-8 for slope in slopes)


def test_equal_projections_for_all_slots_equal_one_shared_projection(mixture, randomised):
    answers = []
    for projection in (torch.eye(4)[::2], torch.eye(4)[::2].expand(3, 2, 4)):
        model, batch = mixture(projection=projection)
        guide = randomised(model, batch)
        for update in (SourceUpdate(), AssignmentUpdate(), SourceUpdate()):
            update(model, guide, batch)
        answers.append((guide.loc, guide.covariance, guide.responsibilities))
    torch.testing.assert_close(*answers, **CLOSE)


def test_projections_that_do_not_fit_are_refused():
    prior = LinearGaussian(num_coordinates=2)
    with pytest.raises(ValueError, match="reads several blocks"):
        GaussianObservations(prior, projection=torch.tensor([[1.0, 0.0, 1.0, 0.0]]))
    with pytest.raises(ShapeError, match="projection"):
        GaussianObservations(prior, projection=torch.eye(3))
    with pytest.raises(ShapeError, match="observations with a detector: given 2 coord.*centre x"):
        MixDVAE(prior, detector=DETECTOR)
    GaussianObservations(
        prior, projection=torch.tensor([[1.0, 0.5, 0.0, 0.0]])
    )  # one block: position and velocity


# E-V


def test_visibility_is_a_stationary_point_of_the_bound(mixture, randomised):
    model, batch = mixture(detector=DETECTOR)
    guide = randomised(model, batch)
    VisibilityUpdate()(model, guide, batch)
    logits = guide.visible_step.logit().requires_grad_()
    guide.visibility = BinaryChain(guide.visible_first, logits.sigmoid())
    (slope,) = torch.autograd.grad(closed_form_elbo(model, guide, batch).sum(), logits)
    assert slope.abs().max() < 1e-8
    assert torch.equal(guide.visible_first, torch.ones_like(guide.visible_first))


def test_visibility_update_leaves_the_model_of_the_thesis_alone(mixture, randomised):
    model, batch = mixture()
    guide = randomised(model, batch)
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    VisibilityUpdate()(model, guide, batch)
    assert all(torch.equal(value, before[name]) for name, value in guide.state_dict().items())


# M


@pytest.mark.parametrize("strength", [0.0, 20.0])
def test_process_noise_is_a_stationary_point_of_the_bound_plus_its_prior(
    mixture, randomised, strength
):
    model, batch = mixture(num_coordinates=2)
    guide = randomised(model, batch)
    centre = torch.rand(2, 1, 2, 2) + 0.1
    ProcessNoiseUpdate(centre, strength)(model, guide, batch)
    log_std = model.prior.log_process_std
    assert log_std.shape == (2, 1, 2, 2)
    variance = (2 * log_std).exp()
    log_prior = -0.5 * strength * (centre.square() / variance + variance.log()).sum()
    objective = closed_form_elbo(model, guide, batch).sum() + log_prior
    (slope,) = torch.autograd.grad(objective, log_std)
    assert slope.abs().max() < 1e-8


def test_process_noise_by_source_is_the_maximum_of_the_bound_over_one_for_each(
    mixture, randomised
):
    model, batch = mixture(num_coordinates=2)
    guide = randomised(model, batch)
    centre = torch.rand(2, 2, 2, 2) + 0.1
    ProcessNoiseUpdate(centre, 0.0, by_source=True)(model, guide, batch)
    log_std = model.prior.log_process_std
    assert log_std.shape == (2, batch.num_sources, 2, 2)
    (slope,) = torch.autograd.grad(closed_form_elbo(model, guide, batch).sum(), log_std)
    assert slope.abs().max() < 1e-8


def test_a_single_frame_says_nothing_of_process_noise(randomised, mixture):
    model, batch = mixture(num_frames=1)
    guide = randomised(model, batch)
    with pytest.raises(ValueError, match="frames of ProcessNoiseUpdate: given 1.*strength"):
        ProcessNoiseUpdate(torch.ones(2, 2), 0.0)(model, guide, batch)


def test_process_noise_is_in_the_unit_of_the_prior(randomised, mixture):
    model, batch = mixture(detector=DETECTOR)
    guide = randomised(model, batch)
    boxes = LinearGaussian(process_std=(0.4, 0.2), velocity_decay=0.9, scale="centre_box")
    model.prior = boxes
    ProcessNoiseUpdate(torch.ones(4, 2), 3.0)(model, guide, batch)
    std = boxes.process_std
    variance = (std * boxes.unit(batch.anchor)).square()  # (B, N, G, d)
    assert variance.shape == (2, 2, 4, 2)
    prior = -1.5 * (1 / std.square() + std.square().log()).sum()
    objective = closed_form_elbo(model, guide, batch).sum() + prior
    (slope,) = torch.autograd.grad(objective, boxes.log_process_std)
    assert slope.abs().max() < 1e-8


def test_process_noise_of_a_deep_prior_is_refused(mixture, randomised):
    model, batch = mixture(order=1)
    guide = randomised(model, batch)
    model.prior = DeepAR(source_dim=2, hidden_dim=2)
    with pytest.raises(TypeError, match="expected LinearGaussian"):
        ProcessNoiseUpdate(torch.ones(2, 1))(model, guide, batch)


def test_observation_variance_equals_equation_3_26_by_loops(mixture, randomised):
    model, batch = mixture(projection=slot_projection(3))
    guide = randomised(model, batch)
    answer = observation_variance(model, guide, batch)
    for b, t, k in indices(batch):
        total = torch.zeros(2, 2)
        for n in range(2):
            residual = batch.observations[b, t, k] - slot(model, k) @ guide.sources.loc[b, n, t]
            spread = slot(model, k) @ dense_covariance(guide, b, n, t) @ slot(model, k).T
            total += guide.assigned[b, t, k, n] * (torch.outer(residual, residual) + spread)
        torch.testing.assert_close(answer[b, t, k], total.diagonal(), **CLOSE)


@pytest.mark.parametrize("detector", DETECTORS)
def test_observation_noise_is_a_stationary_point_of_the_bound(mixture, randomised, detector):
    model, batch = mixture(detector=detector)
    guide = randomised(model, batch)
    ObservationNoiseUpdate()(model, guide, batch)
    assert model.observation.log_noise_scale.item() != 0
    bound = closed_form_elbo(model, guide, batch).sum()
    (slope,) = torch.autograd.grad(bound, model.observation.log_noise_scale)
    assert slope.abs() < 1e-8


def test_observation_noise_stays_where_nothing_is_seen(mixture, randomised):
    model, batch = mixture(missing=1.1, noise_scale=0.7)
    ObservationNoiseUpdate()(model, randomised(model, batch), batch)
    assert model.observation.log_noise_scale.item() == pytest.approx(math.log(0.7))


def test_fine_tuning_moves_the_networks_and_nothing_else(mixture, randomised):
    model, batch = mixture(order=1)
    guide = randomised(model, batch)
    prior = DeepAR(source_dim=2, hidden_dim=3)
    model.prior = prior
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    buffers = {name: value.clone() for name, value in guide.named_buffers(recurse=False)}
    with torch.no_grad():
        FineTuneUpdate(prior, 0.01)(model, guide, batch)
    assert any(not torch.equal(v, before[name]) for name, v in prior.state_dict().items())
    assert all(torch.equal(v, buffers[name]) for name, v in guide.named_buffers(recurse=False))
    with pytest.raises(TypeError, match="no networks to tune"):
        FineTuneUpdate(LinearGaussian())


# the cavity


@pytest.mark.parametrize("weights", ["one-hot", "soft"])
@pytest.mark.parametrize("order", [1, 2])
def test_cavity_is_the_predictive_of_a_smoother_that_lacks_the_observation(
    mixture, randomised, order, weights
):
    model, batch = mixture(1, 4, 2, 2, order=order, missing=0.0)
    guide = randomised(model, batch)
    if weights == "one-hot":
        guide.responsibilities = torch.eye(2).expand(1, 4, 2, 2).clone()
    eta = guide.responsibilities.clone()
    SourceUpdate()(model, guide, batch)
    answer = model.observation.cavity_log_prob(batch, guide.sources, eta)
    for t, k, n in itertools.product(range(4), range(2), range(2)):
        guide.responsibilities = eta.clone()
        guide.responsibilities[0, t, k, n] = 0.0
        SourceUpdate()(model, guide, batch)
        mean, variance = model.observation.moments(guide.sources)
        total = variance[0, t, 0, n] + batch.variance[0, t, k]
        predictive = Normal(mean[0, t, 0, n], total.sqrt())
        expected = predictive.log_prob(batch.observations[0, t, k]).sum()
        torch.testing.assert_close(answer[0, t, k, n], expected, atol=1e-9, rtol=1e-9)


def test_a_fixed_history_is_equation_3_18_at_the_iterate(mixture, randomised):
    model, batch = mixture(order=1)
    guide = randomised(model, batch)
    loc = guide.loc
    message = model.prior.gaussian_message(guide.sources.loc, anchor=batch.anchor)
    precision, information = model.observation.pseudo_observations(batch, guide.assigned)
    SourceUpdate(history="fixed")(model, guide, batch)
    for t in range(batch.num_frames):
        prior_mean = message.offset[:, :, t]
        if t:
            prior_mean = prior_mean + message.transition[:, :, t, :, :, 0] * loc[:, :, t - 1]
        variance = message.covariance[:, :, t, ..., 0]
        total = 1 / variance + precision[:, :, t, ..., 0]
        expected = (prior_mean / variance + information[:, :, t]) / total
        torch.testing.assert_close(guide.loc[:, :, t], expected, **CLOSE)
        torch.testing.assert_close(guide.covariance[:, :, t, ..., 0], 1 / total, **CLOSE)
    assert not guide.gain.any()
    with pytest.raises(ValueError, match="history: given 'mended'"):
        SourceUpdate(history="mended")


class Follower(LinearGaussian):
    """b_t = 2 s_{t-1}, Q_t = 1 + s_{t-1}^2: a message whose average is known."""

    message_is_exact = False

    def gaussian_message(self, s, *, anchor, z_noise=None):
        before = torch.nn.functional.pad(s[..., :-1, :], (0, 0, 1, 0))
        offset, variance = 2 * before.unsqueeze(-1), (1 + before.square())[..., None, None]
        return GaussianMessage(torch.zeros_like(variance), offset, variance)


def test_averaged_message_is_the_law_of_total_variance():
    torch.manual_seed(0)
    loc = torch.randn(2, 3, 5, 1, dtype=torch.float64)
    draws = torch.randn(7, 2, 3, 5, 1, dtype=torch.float64)
    anchor = Anchor(torch.zeros(2, 3, 1), torch.ones(2, 3, 1))
    prior = Follower(num_coordinates=1, order=1, process_std=(0.1,))
    message = averaged_message(prior, loc, draws, anchor=anchor)
    torch.testing.assert_close(message.offset[..., 1:, 0, 0], 2 * loc[..., :-1, 0])
    before = draws[..., :-1, 0]
    expected = 1 + before.square().mean(0) + 4 * before.var(0, unbiased=False)
    torch.testing.assert_close(message.covariance[..., 1:, 0, 0, 0], expected)
    plain = averaged_message(prior, loc, draws[:0], anchor=anchor)
    torch.testing.assert_close(plain.covariance[..., 1:, 0, 0, 0], 1 + loc[..., :-1, 0].square())
