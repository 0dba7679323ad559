"""Gaussian chains against the dense joint Gaussian and against statsmodels' Kalman smoother."""

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from pyromodels.distributions.chain import (
    GaussianChain,
    block_inverse,
    block_logdet,
    chain_of,
    natural,
)
from pyromodels.distributions.kalman import kalman_filter, smooth, smooth_and_compare
from pyromodels.distributions.message import GaussianMessage
from pyromodels.errors import ShapeError

CLOSE = {"atol": 1e-10, "rtol": 1e-9}
SIZES = [
    pytest.param(d, num_steps, id=f"d{d}-T{num_steps}")
    for d in (1, 2, 3)
    for num_steps in (1, 2, 6)
]


def covariances(*shape, d):
    root = torch.randn(*shape, d, d, dtype=torch.float64)
    return root @ root.mT + 0.3 * torch.eye(d, dtype=torch.float64)


def problem(d, num_steps, *, batch=(2, 3), num_blocks=2, seed=0):
    """A random time-varying message, and observations of which some frames have none."""
    torch.manual_seed(seed)
    shape = (*batch, num_steps, num_blocks)
    transition = 0.8 * torch.randn(*shape, d, d, dtype=torch.float64)
    transition[..., 0, :, :, :] = 0.0
    message = GaussianMessage(
        transition, torch.randn(*shape, d, dtype=torch.float64), covariances(*shape, d=d)
    )
    precision = covariances(*shape, d=d)
    precision[..., 1::3, :, :, :] = 0.0  # nothing seen
    precision[..., 2::3, :, 1:, :] = precision[..., 2::3, :, :, 1:] = 0.0  # one coordinate seen
    information = (precision @ torch.randn(*shape, d, 1, dtype=torch.float64)).squeeze(-1)
    return message, precision, information


def dense(message, precision, information):
    """Mean (*batch, G, T d) and covariance of the joint Gaussian, by inverting its precision."""
    transition, offset, noise = (
        part.movedim(-4 + (part is message.offset), -3 + (part is message.offset))
        for part in message
    )  # (*batch, G, T, ...)
    num_steps, d = offset.shape[-2:]
    joint = torch.zeros(*offset.shape[:-2], num_steps * d, num_steps * d, dtype=offset.dtype)
    linear = torch.zeros(*offset.shape[:-2], num_steps * d, dtype=offset.dtype)
    for t in range(num_steps):
        # -1/2 (s_t - A s_{t-1} - b)' Q^-1 (s_t - A s_{t-1} - b): the rows of [I, -A] in s
        rows = torch.zeros(*offset.shape[:-2], d, num_steps * d, dtype=offset.dtype)
        rows[..., t * d : (t + 1) * d] = torch.eye(d, dtype=offset.dtype)
        if t:
            rows[..., (t - 1) * d : t * d] = -transition[..., t, :, :]
        weighted = rows.mT @ torch.linalg.inv(noise[..., t, :, :])
        joint += weighted @ rows
        linear += (weighted @ offset[..., t, :, None]).squeeze(-1)
        at = slice(t * d, (t + 1) * d)
        joint[..., at, at] += precision[..., t, :, :, :]
        linear[..., at] += information[..., t, :, :]
    covariance = torch.linalg.inv(joint)
    return (covariance @ linear.unsqueeze(-1)).squeeze(-1), covariance


def dense_of(chain):
    """The chain as a MultivariateNormal for each block, built from its backward recursion."""
    num_steps, num_blocks, d = chain.loc_blocks.shape[-3:]
    lift = torch.zeros(*chain.batch_shape, num_blocks, num_steps * d, num_steps * d).double()
    noise = torch.zeros_like(lift)
    for t in reversed(range(num_steps)):
        at, after = slice(t * d, (t + 1) * d), slice((t + 1) * d, (t + 2) * d)
        # s_t - m_t = J_t (s_{t+1} - m_{t+1}) + e_t, the e independent
        lift[..., at, at] = torch.eye(d, dtype=torch.float64)
        if t < num_steps - 1 and chain.gain is not None:
            gain = chain.gain[..., t, :, :, :]
            lift[..., at, :] += gain @ lift[..., after, :]
            noise[..., at, at] = (
                chain.covariance[..., t, :, :, :]
                - gain @ chain.covariance[..., t + 1, :, :, :] @ gain.mT
            )
        else:
            noise[..., at, at] = chain.covariance[..., t, :, :, :]
    loc = chain.loc_blocks.movedim(-2, -3).flatten(-2)
    return MultivariateNormal(loc, lift @ noise @ lift.mT)


def by_block(value, d):
    """(*, T, G d) -> (*, G, T d), the order of `dense_of`."""
    return value.unflatten(-1, (-1, d)).movedim(-2, -3).flatten(-2)


@pytest.mark.parametrize(("d", "num_steps"), SIZES)
def test_smoother_equals_the_dense_joint_gaussian(d, num_steps):
    message, precision, information = problem(d, num_steps)
    chain = smooth(message, precision, information)
    loc, covariance = dense(message, precision, information)
    torch.testing.assert_close(by_block(chain.loc, d), loc, **CLOSE)
    for t in range(num_steps):
        at, after = slice(t * d, (t + 1) * d), slice((t + 1) * d, (t + 2) * d)
        torch.testing.assert_close(
            chain.covariance[..., t, :, :, :], covariance[..., at, at], **CLOSE
        )
        if t < num_steps - 1:
            torch.testing.assert_close(
                chain.cross_covariance[..., t, :, :, :], covariance[..., at, after], **CLOSE
            )
    torch.testing.assert_close(dense_of(chain).covariance_matrix, covariance, **CLOSE)


@pytest.mark.parametrize(("d", "num_steps"), SIZES)
def test_filter_equals_the_dense_joint_gaussian_of_the_past(d, num_steps):
    message, precision, information = problem(d, num_steps)
    filtered = kalman_filter(message, precision, information)
    for t in range(num_steps):
        past = GaussianMessage(
            message.transition[..., : t + 1, :, :, :],
            message.offset[..., : t + 1, :, :],
            message.covariance[..., : t + 1, :, :, :],
        )
        seen, seen_information = (
            precision[..., : t + 1, :, :, :].clone(),
            information[..., : t + 1, :, :].clone(),
        )
        at = slice(t * d, (t + 1) * d)
        loc, covariance = dense(past, seen, seen_information)
        torch.testing.assert_close(filtered.loc[..., t, :, :], loc[..., at], **CLOSE)
        torch.testing.assert_close(
            filtered.covariance[..., t, :, :, :], covariance[..., at, at], **CLOSE
        )
        seen[..., t, :, :, :], seen_information[..., t, :, :] = 0.0, 0.0
        loc, covariance = dense(past, seen, seen_information)
        torch.testing.assert_close(filtered.predicted_loc[..., t, :, :], loc[..., at], **CLOSE)
        torch.testing.assert_close(
            filtered.predicted_covariance[..., t, :, :, :], covariance[..., at, at], **CLOSE
        )


def test_constant_velocity_smoother_equals_statsmodels():
    statespace = pytest.importorskip("statsmodels.tsa.statespace.kalman_smoother")
    rng = np.random.default_rng(1)
    num_steps, noise = 25, 0.3
    transition, process = np.array([[1.0, 1.0], [0.0, 0.95]]), np.diag([0.02, 0.01])
    observed = np.cumsum(rng.normal(size=num_steps))
    observed[[4, 5, 6, 18]] = np.nan
    oracle = statespace.KalmanSmoother(k_endog=1, k_states=2)
    oracle.bind(observed)
    oracle["design"], oracle["obs_cov"] = np.array([[1.0, 0.0]]), np.array([[noise]])
    oracle["transition"], oracle["selection"], oracle["state_cov"] = transition, np.eye(2), process
    oracle.initialize_known(np.array([0.5, -0.1]), np.diag([2.0, 0.3]))
    expected = oracle.smooth()

    seen = torch.tensor(~np.isnan(observed)).double()
    message = GaussianMessage(
        torch.tensor(transition).expand(num_steps, 1, 2, 2).clone(),
        torch.zeros(num_steps, 1, 2, dtype=torch.float64),
        torch.tensor(process).expand(num_steps, 1, 2, 2).clone(),
    )
    message.transition[0] = 0.0
    message.offset[0] = torch.tensor([0.5, -0.1], dtype=torch.float64)
    message.covariance[0] = torch.diag(torch.tensor([2.0, 0.3], dtype=torch.float64))
    precision = torch.zeros(num_steps, 1, 2, 2, dtype=torch.float64)
    precision[:, 0, 0, 0] = seen / noise
    information = torch.zeros(num_steps, 1, 2, dtype=torch.float64)
    information[:, 0, 0] = torch.tensor(np.nan_to_num(observed)) * seen / noise
    chain = smooth(message, precision, information)
    filtered = kalman_filter(message, precision, information)
    tight = {"rtol": 1e-9, "atol": 1e-11}
    np.testing.assert_allclose(chain.loc, expected.smoothed_state.T, **tight)
    np.testing.assert_allclose(
        chain.covariance[:, 0], np.moveaxis(expected.smoothed_state_cov, -1, 0), **tight
    )
    np.testing.assert_allclose(filtered.loc[:, 0], expected.filtered_state.T, **tight)
    np.testing.assert_allclose(
        filtered.predicted_covariance[:, 0],
        np.moveaxis(expected.predicted_state_cov, -1, 0)[:-1],
        **tight,
    )
    # Cov(s_t, s_{t+1}); statsmodels keeps Cov(s_{t+1}, s_t)
    np.testing.assert_allclose(
        chain.cross_covariance[:, 0].mT,
        np.moveaxis(expected.smoothed_state_autocov, -1, 0)[:-1],
        **tight,
    )


@pytest.mark.parametrize(("d", "num_steps"), SIZES)
def test_log_prob_and_entropy_equal_the_dense_gaussian(d, num_steps):
    chain = smooth(*problem(d, num_steps))
    oracle = dense_of(chain)
    torch.manual_seed(1)
    value = torch.randn(4, *chain.batch_shape, *chain.event_shape, dtype=torch.float64)
    torch.testing.assert_close(
        chain.log_prob(value), oracle.log_prob(by_block(value, d)).sum(-1), **CLOSE
    )
    torch.testing.assert_close(chain.entropy(), oracle.entropy().sum(-1), **CLOSE)
    torch.testing.assert_close(
        chain.variance, dense_of(chain).variance.unflatten(-1, (-1, d)).movedim(-3, -2).flatten(-2)
    )


def test_samples_have_the_moments_of_the_dense_gaussian():
    chain = smooth(*problem(2, 4, batch=(), num_blocks=1))
    oracle = dense_of(chain)
    torch.manual_seed(2)
    num_samples = 40_000
    samples = by_block(chain.rsample((num_samples,)), 2).squeeze(-2)
    loc, covariance = oracle.mean[0], oracle.covariance_matrix[0]
    mean_error = (samples.mean(0) - loc) / (covariance.diagonal() / num_samples).sqrt()
    assert mean_error.abs().max() < 5
    deviation = samples - loc
    products = deviation.unsqueeze(-1) * deviation.unsqueeze(-2)
    error = (products.mean(0) - covariance) / (products.std(0) / num_samples**0.5)
    assert error.abs().max() < 5


def test_rsample_passes_gradients_to_loc_innovation_and_gain():
    chain = smooth(*problem(2, 3))
    parts = [
        part.clone().requires_grad_() for part in (chain.loc_blocks, chain.innovation, chain.gain)
    ]
    torch.manual_seed(0)
    GaussianChain(*parts).rsample().square().sum().backward()
    assert all(part.grad.isfinite().all() and part.grad.abs().sum() > 0 for part in parts)


def test_without_gain_frames_are_independent():
    shape = (3, 5, 2)
    torch.manual_seed(0)
    loc, covariance = torch.randn(*shape, 2).double(), covariances(*shape, d=2)
    chain = GaussianChain(loc, covariance)
    oracle = MultivariateNormal(loc, covariance)
    value = torch.randn_like(loc)
    torch.testing.assert_close(
        chain.log_prob(value.flatten(-2)), oracle.log_prob(value).sum((-1, -2)), **CLOSE
    )
    torch.testing.assert_close(chain.entropy(), oracle.entropy().sum((-1, -2)), **CLOSE)
    assert not chain.cross_covariance.any()
    zero_gain = GaussianChain(loc, covariance, torch.zeros_like(covariance))
    torch.testing.assert_close(
        zero_gain.log_prob(value.flatten(-2)), chain.log_prob(value.flatten(-2))
    )


@pytest.mark.parametrize("d", [1, 2, 3])
def test_zero_transition_is_a_product_of_two_gaussians_in_every_frame(d):
    message, precision, information = problem(d, 5)
    message = message._replace(transition=torch.zeros_like(message.transition))
    chain = smooth(message, precision, information)
    prior_precision = torch.linalg.inv(message.covariance)
    covariance = torch.linalg.inv(prior_precision + precision)
    loc = covariance @ (prior_precision @ message.offset.unsqueeze(-1) + information.unsqueeze(-1))
    torch.testing.assert_close(chain.covariance, covariance, **CLOSE)
    torch.testing.assert_close(chain.loc_blocks, loc.squeeze(-1), **CLOSE)
    assert not chain.cross_covariance.any()


def test_nothing_seen_leaves_the_prior():
    message, precision, information = problem(2, 5, batch=())
    nothing = torch.zeros_like(precision), torch.zeros_like(information)
    chain = smooth(message, *nothing)
    loc, covariance = message.offset[0], message.covariance[0]
    for t in range(5):
        if t:
            moving = message.transition[t]
            loc = (moving @ loc.unsqueeze(-1)).squeeze(-1) + message.offset[t]
            covariance = moving @ covariance @ moving.mT + message.covariance[t]
        torch.testing.assert_close(chain.loc_blocks[t], loc, **CLOSE)
        torch.testing.assert_close(chain.covariance[t], covariance, **CLOSE)


def test_expand_keeps_the_class_the_density_and_the_shapes():
    chain = smooth(*problem(2, 4, batch=(3,)))
    value = torch.randn(3, *chain.event_shape, dtype=torch.float64)
    for wide in (
        chain.expand((5, 3)),
        GaussianChain(chain.loc_blocks, chain.covariance).expand((5, 3)),
    ):
        assert type(wide) is GaussianChain
        assert wide.batch_shape == (5, 3)
        assert wide.event_shape == (4, 4)
        assert wide.rsample((2,)).shape == (2, 5, 3, 4, 4)
        assert wide.innovation.shape == (5, 3, 4, 2, 2, 2)
    torch.testing.assert_close(
        chain.expand((5, 3)).log_prob(value), chain.log_prob(value).expand(5, 3)
    )


@pytest.mark.parametrize("d", [1, 2, 3])
def test_smoother_is_differentiable_in_its_message_and_observations(d):
    (transition, offset, noise), precision, information = problem(
        d, 3, batch=(), num_blocks=1, seed=3
    )
    transition = transition[1:].clone().requires_grad_()
    inputs = [transition, offset.requires_grad_(), information.requires_grad_()]

    def outputs(transition, offset, information):
        first = torch.zeros_like(transition[:1])
        message = GaussianMessage(torch.cat((first, transition)), offset, noise)
        chain = smooth(message, precision, information)
        return chain.loc, chain.covariance, chain.gain

    assert torch.autograd.gradcheck(outputs, inputs)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_block_inverse_and_logdet_equal_torch(d):
    torch.manual_seed(0)
    matrix = covariances(4, 5, d=d)
    torch.testing.assert_close(block_inverse(matrix), torch.linalg.inv(matrix), **CLOSE)
    torch.testing.assert_close(block_logdet(matrix), torch.logdet(matrix), **CLOSE)
    general = torch.randn(4, 5, d, d, dtype=torch.float64) + 2 * torch.eye(d)
    torch.testing.assert_close(block_inverse(general), torch.linalg.inv(general), **CLOSE)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_smoother_is_equivariant_under_a_change_of_units(d, scale):
    message, precision, information = problem(d, 6)
    chain = smooth(message, precision, information)
    other = smooth(
        GaussianMessage(message.transition, message.offset * scale, message.covariance * scale**2),
        precision / scale**2,
        information / scale,
    )
    torch.testing.assert_close(other.loc / scale, chain.loc, **CLOSE)
    torch.testing.assert_close(other.covariance / scale**2, chain.covariance, **CLOSE)


def test_mean_field_shapes_that_do_not_fit_are_refused():
    loc = torch.zeros(5, 2, 3)
    with pytest.raises(ShapeError, match="innovation has shape"):
        GaussianChain(loc, torch.zeros(5, 2, 3))
    with pytest.raises(ShapeError, match="gain has shape"):
        GaussianChain(loc, torch.zeros(5, 2, 3, 3), torch.zeros(4, 2, 3, 3))


@pytest.mark.parametrize(("d", "num_steps"), SIZES)
def test_natural_parameters_are_those_of_the_dense_gaussian_and_lead_back(d, num_steps):
    chain = smooth(*problem(d, num_steps))
    parameters = natural(chain)
    dense_precision = torch.linalg.inv(dense_of(chain).covariance_matrix)
    for t in range(num_steps):
        at, after = slice(t * d, (t + 1) * d), slice((t + 1) * d, (t + 2) * d)
        torch.testing.assert_close(
            parameters.diagonal[..., t, :, :, :], dense_precision[..., at, at], **CLOSE
        )
        if t < num_steps - 1:
            torch.testing.assert_close(
                parameters.off_diagonal[..., t, :, :, :], dense_precision[..., at, after], **CLOSE
            )
    linear = (dense_precision @ by_block(chain.loc, d).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(
        parameters.information.movedim(-2, -3).flatten(-2), linear, **CLOSE
    )
    back = chain_of(parameters)
    torch.testing.assert_close(back.loc, chain.loc, **CLOSE)
    torch.testing.assert_close(back.covariance, chain.covariance, **CLOSE)
    torch.testing.assert_close(
        back.gain[..., :-1, :, :, :], chain.gain[..., :-1, :, :, :], **CLOSE
    )


def test_a_precision_that_is_not_positive_definite_is_refused():
    parameters = natural(smooth(*problem(2, 3)))
    with pytest.raises(torch.linalg.LinAlgError, match="not positive definite"):
        chain_of(parameters._replace(diagonal=-parameters.diagonal))


@pytest.mark.parametrize(("d", "num_steps"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_divergence_is_that_of_the_dense_gaussians(d, num_steps, dtype):
    message, precision, information = problem(d, num_steps)
    nothing = torch.zeros_like(precision), torch.zeros_like(information)
    prior = MultivariateNormal(*dense(message, *nothing))
    posterior = MultivariateNormal(*dense(message, precision, information))
    expected = torch.distributions.kl_divergence(posterior, prior).sum(-1)
    message = GaussianMessage(*(part.to(dtype) for part in message))
    answer = smooth_and_compare(message, precision.to(dtype), information.to(dtype)).divergence
    close = CLOSE if dtype is torch.float64 else {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(answer.double(), expected, **close)


def test_draws_are_the_roll_out_of_their_noise():
    torch.manual_seed(0)
    root = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    covariance = root @ root.mT + torch.eye(2, dtype=torch.float64)
    chain = GaussianChain(
        torch.randn(4, 3, 2, dtype=torch.float64), covariance, 0.1 * torch.randn_like(covariance)
    )
    torch.manual_seed(1)
    draws = chain.rsample((5,))
    torch.manual_seed(1)
    noise = torch.randn(5, 4, 3, 2, dtype=torch.float64)
    assert torch.equal(chain.roll_out(noise), draws)
    torch.testing.assert_close(chain.roll_out(torch.zeros_like(noise[0])), chain.mean)


def test_round_trips_through_natural_parameters_do_not_drift():
    """Asymmetry of the blocks used to grow tenfold a trip, until no chain was left."""
    num_steps, std = 60, torch.tensor([2e-3, 6e-4], dtype=torch.float64)
    transition = torch.tensor([[1.0, 1.0], [0.0, 0.95]], dtype=torch.float64)
    transition = transition.expand(1, num_steps, 1, 2, 2).clone()
    transition[:, 0] = 0.0
    noise = torch.diag_embed(std.square()).expand(1, num_steps, 1, 2, 2)
    message = GaussianMessage(transition, torch.zeros(1, num_steps, 1, 2).double(), noise)
    precision = torch.diag_embed(torch.tensor([1e4, 0.0]).double()).expand_as(noise)
    first = chain = smooth(message, precision, torch.randn(1, num_steps, 1, 2).double())
    for _ in range(20):
        chain = chain_of(natural(chain))
    torch.testing.assert_close(chain.covariance, first.covariance, rtol=1e-8, atol=0)
