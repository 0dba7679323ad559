"""What every dynamical VAE does beyond the contract: its own predictions, forecasts, sizes."""

import pytest
import torch

from pyromodels.dynamics.cell import frames_of_its_own
from pyromodels.dynamics.latent_paths import feed_back
from pyromodels.emissions.gaussian import Gaussian
from pyromodels.emissions.spectral import Spectral
from pyromodels.errors import SpecError
from pyromodels.registry import DYNAMICS
from pyromodels.testing import (
    build_source_prior,
    check_joint_draw,
    example_anchor,
    run_prior,
    values,
)

MODELS = {
    "vae": {},
    "dkf": {},
    "rvae": {},
    "rvae_noncausal": {"causal": False},
    "storn": {},
    "vrnn": {},
    "srnn": {},
}
DIRECTIONS = {
    "vae": "frame", "dkf": "backward", "rvae": "backward", "rvae_noncausal": "both",
    "storn": "forward", "vrnn": "frame", "srnn": "backward",
}
EMISSIONS = {
    "position": Gaussian("position"), "increment": Gaussian("increment"), "power": Spectral(),
}


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@pytest.fixture(params=EMISSIONS)
def prior(name, request):
    spec = {"name": name.removesuffix("_noncausal"), **MODELS[name]}
    return build_source_prior({**spec, "emission": EMISSIONS[request.param]})


def draw(prior):
    """s, z by the encoder, an anchor if there can be one."""
    s = values(run_prior(prior))["s"]
    noise = torch.randn(*s.shape[:-1], prior.latent_dim, dtype=s.dtype)
    return s, prior.infer(s, noise=noise).z.detach(), example_anchor(prior)


def expected(prior, z, s, anchor):
    """E[s_t | s_<t, z] of every frame."""
    law = prior.emission.conditionals(prior.cell.all_outputs(z, prior.see(s)), s, anchor)
    return law.mean


def test_a_history_of_predictions_predicts_itself(prior):
    s, z, anchor = draw(prior)
    history = prior.own_history(s, z, anchor=anchor)
    rest = slice(0 if anchor is None else 1, None)
    predicted = expected(prior, z, history, anchor)
    torch.testing.assert_close(predicted[..., rest, :], history[..., rest, :])
    if anchor is not None:
        assert torch.equal(history[..., 0, :], s[..., 0, :])


def test_scheduled_sampling_without_predictions_is_teacher_forcing(prior):
    s, _, anchor = draw(prior)
    noise = torch.randn(*s.shape[:-1], prior.latent_dim, dtype=s.dtype)
    bounds = [
        prior.elbo(s, anchor=anchor, z_noise=noise, use_prediction=p) for p in (0.0, 1e-300, 1.0)
    ]
    torch.testing.assert_close(bounds[0], bounds[1])
    assert torch.allclose(bounds[0], bounds[2]) is not prior.reads_history


def test_own_predictions_leave_padding_out(prior):
    s, z, anchor = draw(prior)
    mask = (torch.arange(5) < 3).expand(s.shape[:-1])
    junk = torch.where(mask[..., None], z, torch.full_like(z, 7.0))
    cut = prior.own_history(s[..., :3, :], z[..., :3, :], anchor=anchor)
    padded = prior.own_history(s, junk, anchor=anchor, mask=mask)
    torch.testing.assert_close(padded[..., :3, :], cut)


def test_what_a_model_says_on_the_way_is_what_it_says_of_its_own_history(prior):
    s, z, anchor = draw(prior)
    rest = slice(0 if anchor is None else 1, None)  # the first is the anchor's
    for probability in (0.5, 1.0):
        fed = []
        for hops in (0, 1, None):
            torch.manual_seed(3)
            own = frames_of_its_own(s, probability, anchor)
            fed.append(feed_back(prior, s, z, own, hops=hops, anchor=anchor))
        torch.testing.assert_close(fed[1], fed[0])
        torch.testing.assert_close(fed[2][:2], fed[0][:2])
        for said, expected in zip(fed[2].outputs, fed[0].outputs, strict=True):
            torch.testing.assert_close(said[..., rest, :], expected[..., rest, :])
    torch.testing.assert_close(fed[0].history, prior.own_history(s, z, anchor=anchor))


@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_draws_from_a_history_of_predictions_have_the_density_of_one(prior, probability):
    anchor = example_anchor(prior)
    shape = torch.Size([3]) if anchor is None else anchor.loc.shape[:-1]
    pair = prior.pair(5, anchor=anchor, batch_shape=shape, use_prediction=probability)
    z = pair.latent.rsample()
    s = pair.source(z).rsample()
    z_noise, s_noise = check_joint_draw(pair, z, s)
    torch.testing.assert_close(pair.roll_out_latent(z_noise, s), z)
    torch.testing.assert_close(pair.roll_out(z, s_noise, z_is_known=True).source, s)
    if probability == 1.0:  # what was drawn reaches no later frame, but for an anchor's
        other = torch.cat((s_noise[..., :1, :], s_noise[..., 1:, :].flip(-2)), -2)
        rolled = pair.roll_out(z_noise, other, z_is_known=False)
        torch.testing.assert_close(rolled.latent, z)
        assert not torch.allclose(rolled.source, s)


def test_many_draws_of_z_share_the_data(prior):
    s, z, anchor = draw(prior)
    many = torch.stack([z, z.flip(-1), -z])

    def log_prob(z):
        pair = prior.pair(5, anchor=anchor, batch_shape=s.shape[:-2], use_prediction=1.0)
        pair.teach(s)
        return pair.latent.log_prob(z) + pair.source(z).log_prob(s)

    torch.testing.assert_close(log_prob(many), torch.stack([log_prob(one) for one in many]))


def test_predictions_pass_the_gradient_of_the_density_on(prior):
    """Against differences: all hops of five frames give it, and none do not."""
    s, z, anchor = draw(prior)

    def log_joint(z, hops):
        pair = prior.pair(
            5, anchor=anchor, batch_shape=s.shape[:-2], use_prediction=1.0, prediction_hops=hops
        )
        pair.teach(s)
        return (pair.latent.log_prob(z) + pair.source(z).log_prob(s)).sum()

    z, along = z.requires_grad_(), torch.randn_like(z)
    with torch.no_grad():
        above, below = (log_joint(z + step * along, 0) for step in (1e-6, -1e-6))
    slope = (above - below) / 2e-6
    found = {}
    for hops in (0, 4, None):
        (gradient,) = torch.autograd.grad(log_joint(z, hops), z)
        found[hops] = (gradient * along).sum()
    for hops in (4, None):
        torch.testing.assert_close(found[hops], slope, rtol=1e-5, atol=1e-6)
    assert torch.allclose(found[0], slope, rtol=1e-4) is not prior.reads_history


@torch.no_grad()
def test_a_forecast_is_the_mean_of_prior_and_decoder_frame_after_frame(prior):
    s, _, _ = draw(prior)
    z, horizon = prior.infer(s, noise=None).z, 3
    forecast = prior.predict(s, horizon)
    assert forecast.shape == (*s.shape[:-2], horizon, prior.source_dim)
    whole = torch.cat((s, forecast), -2)
    for _ in range(horizon):
        longer = torch.cat((z, torch.zeros_like(z[..., :1, :])), -2)
        x = prior.see(whole[..., : longer.shape[-2], :])
        mean, _ = prior.cell.all_latents(longer, x)
        z = torch.cat((z, mean[..., -1:, :]), -2)
    actual = expected(prior, z, whole, example_anchor(prior))[..., -horizon:, :]
    torch.testing.assert_close(forecast, actual)


def test_sizes(name):
    kind, keywords = DYNAMICS[name.removesuffix("_noncausal")], MODELS[name]
    assert {"paper", "small"} <= set(kind.sizes)
    for size in kind.sizes:
        prior = kind.sized(size, source_dim=7, emission="spectral", **keywords)
        s = torch.rand(2, 4, 7)
        assert prior.latent_dim == 16 and prior.elbo(s).isfinite().all()
        assert prior.cell.looks_ahead == (name == "rvae_noncausal")
        assert prior.encoder.direction == DIRECTIONS[name]
    with pytest.raises(SpecError, match="size of .*'smal'; did you mean 'small'"):
        kind.sized("smal")
    assert kind.sized("small", latent_dim=3).latent_dim == 3
