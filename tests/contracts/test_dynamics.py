"""Every registered source prior keeps the contract; then what is particular to the deep ones."""

import pytest
import torch

from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.deep_ar import DeepAR
from pyromodels.dynamics.srnn import SRNN
from pyromodels.emissions.gaussian import Gaussian
from pyromodels.errors import ShapeError
from pyromodels.testing import (
    SOURCE_PRIOR_CHECKS,
    build_source_prior,
    example_anchor,
    message_log_prob,
    run_prior,
    source_prior_specs,
    values,
)

DEEP = [
    {"name": name, "emission": {"name": "gaussian", "predicts": predicts}}
    for name in ("deep_ar", "srnn")
    for predicts in ("position", "increment")
]


def label(value):
    if isinstance(value, dict):
        return "-".join(str(v) for v in value.values())
    return value.__name__.removeprefix("check_")


@pytest.mark.parametrize("check", SOURCE_PRIOR_CHECKS, ids=label)
@pytest.mark.parametrize("spec", source_prior_specs(), ids=label)
def test_contract(spec, check):
    check(build_source_prior(spec))


@pytest.mark.parametrize("name", ["deep_ar", "srnn"])
def test_increments_know_neither_place_nor_size(name):
    prior = build_source_prior({"name": name, "emission": Gaussian("increment")})
    anchor = example_anchor(prior)
    s = values(run_prior(prior))["s"]
    message = prior.gaussian_message(s, anchor=anchor)
    shift = torch.tensor([0.3, -0.2, 0.3, -0.2], dtype=s.dtype)
    moved = prior.gaussian_message(2.0 * s + shift, anchor=anchor)
    rest = slice(1, None)
    torch.testing.assert_close(moved.offset[..., rest, :, :], 2 * message.offset[..., rest, :, :])
    torch.testing.assert_close(
        moved.covariance[..., rest, :, :, :], 4 * message.covariance[..., rest, :, :, :]
    )


@pytest.mark.parametrize("spec", DEEP, ids=label)
def test_scheduled_sampling_without_predictions_is_teacher_forcing(spec):
    prior = build_source_prior(spec)
    s = values(run_prior(prior))["s"]
    noise = (
        {"z_noise": torch.randn(*s.shape[:-1], 4, dtype=s.dtype)} if "srnn" in spec["name"] else {}
    )
    anchor = example_anchor(prior)
    teacher_forced = prior.elbo(s, anchor=anchor, **noise)
    never = prior.elbo(s, anchor=anchor, use_prediction=1e-300, **noise)
    always = prior.elbo(s, anchor=anchor, use_prediction=1.0, **noise)
    torch.testing.assert_close(never, teacher_forced)
    assert not torch.allclose(always, teacher_forced)


@pytest.mark.parametrize("predicts", ["position", "increment"])
def test_deep_ar_fed_with_its_predictions_only_is_fed_with_its_mean_trajectory(predicts):
    prior = build_source_prior({"name": "deep_ar", "emission": Gaussian(predicts)})
    s = values(run_prior(prior))["s"]
    anchor = example_anchor(prior)
    mean = torch.cat((s[..., :1, :], prior.predict(s[..., :1, :], 4)), -2)
    p = prior.laws(mean, mean, anchor)
    torch.testing.assert_close(
        prior.elbo(s, anchor=anchor, use_prediction=1.0), p.log_prob(s).sum(-1)
    )


@pytest.mark.parametrize("name", ["deep_ar", "srnn"])
def test_bound_given_an_estimate_is_the_density_of_the_message_there(name):
    """Networks are trained as inference uses them: p(s_t | s_{t-1}, what the estimate tells)."""
    prior = build_source_prior({"name": name, "emission": Gaussian("increment", scale="unit")})
    s, anchor = values(run_prior(prior))["s"], example_anchor(prior)
    estimate, keywords, z_noise = s + 0.1 * torch.randn_like(s), {}, None
    if name == "srnn":
        z_noise = torch.randn(*s.shape[:-1], 4, dtype=s.dtype)
        keywords = {"z_noise": z_noise, "kl_weight": 0.0}
    message = prior.gaussian_message(estimate, anchor=anchor, z_noise=z_noise)
    actual = prior.elbo(s, anchor=anchor, history=estimate, **keywords)
    torch.testing.assert_close(actual, message_log_prob(message, s))


@pytest.mark.parametrize("spec", DEEP, ids=label)
def test_predict_one_step_is_the_mean_of_the_next_conditional(spec):
    prior = build_source_prior(spec)
    s = values(run_prior(prior))["s"]
    past, anchor = s[..., :-1, :], example_anchor(prior)
    predicted = prior.predict(past, 3)
    assert predicted.shape == (*s.shape[:-2], 3, 4)
    longer = torch.cat((past, predicted[..., :1, :]), -2)
    torch.testing.assert_close(prior.predict(past, 1)[..., 0, :], predicted[..., 0, :])
    if spec["name"] == "deep_ar":
        message = prior.gaussian_message(s, anchor=anchor)
        mean = message.transition[..., 0] * s[..., [-2], :, None] + message.offset
        torch.testing.assert_close(predicted[..., 0, :], mean[..., -1, :, 0])
        torch.testing.assert_close(prior.predict(longer, 2), predicted[..., 1:, :])
    else:
        h = prior.recurrence(prior.emission.see(s))
        z = prior.infer(s, noise=None).z
        z_last, _ = prior.prior(h[..., -1, :], z[..., -2, :])
        mean, _ = prior.decoder(h[..., -1, :], z_last)
        expected = prior.emission.absolute(mean, past[..., -1, :])
        torch.testing.assert_close(predicted[..., 0, :], expected)


def test_srnn_draws_latents_from_the_conditional_prior_where_s_is_taught_first():
    prior = build_source_prior({"name": "srnn"})
    s, anchor = values(run_prior(prior))["s"], example_anchor(prior)
    pair = prior.pair(5, anchor=anchor)
    pair.teach(s.expand(4, *s.shape))
    latent = pair.latent
    noise = latent.noise()
    z = latent.roll_out(noise)
    given = latent.conditionals(z)
    assert z.shape[0] == 4
    torch.testing.assert_close((z - given.mean) / given.stddev, noise)


def test_latent_density_before_s_is_known_is_an_error():
    prior = build_source_prior({"name": "srnn"})
    pair = prior.pair(5, anchor=example_anchor(prior))
    with pytest.raises(RuntimeError, match="teach"):
        pair.latent.log_prob(torch.zeros(5, 4, dtype=torch.float64))


@pytest.mark.parametrize("kind", [DeepAR, SRNN])
def test_degenerate_boxes_give_finite_messages_and_gradients(kind):
    prior = kind(emission=Gaussian("increment"))
    box = torch.tensor([0.5, 0.5, 0.4, 0.5])  # negative width, no height
    s = box.expand(2, 6, 4).clone().requires_grad_()
    message = prior.gaussian_message(s, anchor=Anchor(box, torch.full_like(box, 1e-5)))
    (gradient,) = torch.autograd.grad(message.covariance.sum() + message.offset.sum(), s)
    assert message.covariance.isfinite().all() and gradient.isfinite().all()
    assert (message.covariance > 0).all()


@pytest.mark.parametrize("kind", [DeepAR, SRNN])
def test_boxes_need_four_coordinates(kind):
    with pytest.raises(ShapeError, match='scale="unit"'):
        kind(source_dim=3, emission=Gaussian("increment"))
    with pytest.raises(ShapeError, match="trajectory"):
        prior = kind(source_dim=3)
        prior.gaussian_message(torch.zeros(5, 4), anchor=Anchor(torch.zeros(3), torch.ones(3)))
