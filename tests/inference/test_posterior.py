"""The posterior object: draws, densities, predictions, and the file they go to."""

import math
import sys
import types

import numpy as np
import pyro
import pytest
import torch

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.srnn import SRNN
from pyromodels.emissions.gaussian import Gaussian
from pyromodels.errors import ShapeError
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.mixture.bound import closed_form_elbo
from pyromodels.inference.posterior import arviz_io
from pyromodels.inference.posterior.inference_data import bound_trace
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.observations.detector import Detector

NUM_DRAWS = 4000


def within_errors(draws, expected, errors=5.0):
    """The mean over draws lies within so many standard errors of the expected value."""
    error = draws.std(0) / math.sqrt(len(draws))
    return (draws.mean(0) - expected).abs() <= errors * error + 1e-9


@pytest.fixture(params=[None, Detector()], ids=["plain", "detector"])
def fitted(request, mixture, randomised):
    model, batch = mixture(detector=request.param)
    return Posterior(model, randomised(model, batch), batch)


@pytest.fixture
def draws(fitted):
    torch.manual_seed(2)
    return fitted.sample(NUM_DRAWS)


def test_draws_have_the_shapes_of_the_docstring(fitted):
    batch, draws = fitted.batch, fitted.sample(7)
    sequences, frames, slots = batch.mask.shape
    dim = fitted.model.prior.source_dim
    expected = {
        "s": (7, sequences, batch.num_sources, frames, dim),
        "w": (7, sequences, frames, slots),
    }
    if fitted.model.detector is not None:
        expected["v"] = (7, sequences, batch.num_sources, frames)
    assert {name: tuple(value.shape) for name, value in draws.items()} == expected


def test_moments_of_trajectories_match_the_chain(fitted, draws):
    chain = fitted.guide.sources
    assert within_errors(draws["s"], chain.mean).all()
    deviation = draws["s"] - chain.mean
    assert within_errors(deviation.square(), chain.variance).all()
    now, then = (
        part.unflatten(-1, chain.loc_blocks.shape[-2:])
        for part in (deviation[..., :-1, :], deviation[..., 1:, :])
    )
    assert within_errors(now[..., None] * then[..., None, :], chain.cross_covariance).all()


def test_owners_follow_the_responsibilities_and_are_absent_where_masked(fitted, draws):
    eta, mask = fitted.guide.responsibilities, fitted.batch.mask
    frequency = torch.nn.functional.one_hot(draws["w"].clamp_min(0), eta.shape[-1]).double()
    assert within_errors(frequency, eta)[mask].all()
    assert (draws["w"][:, ~mask] == -1).all() and (draws["w"][:, mask] >= 0).all()


def test_visibility_follows_its_chain(mixture, randomised):
    model, batch = mixture(detector=Detector())
    posterior = Posterior(model, randomised(model, batch), batch)
    torch.manual_seed(2)
    v = posterior.sample(NUM_DRAWS)["v"]
    assert within_errors(v, posterior.guide.visibility.mean).all()


def test_log_prob_is_the_sum_of_the_factors(fitted):
    draws, guide = fitted.sample(5), fitted.guide
    owners = draws["w"].clamp_min(0).unsqueeze(-1)
    log_eta = guide.responsibilities.log().expand(5, -1, -1, -1, -1).gather(-1, owners)
    expected = log_eta.squeeze(-1).masked_fill(~fitted.batch.mask, 0.0).sum((-1, -2))
    expected = expected + guide.sources.log_prob(draws["s"]).sum(-1)
    if "v" in draws:
        expected = expected + guide.visibility.log_prob(draws["v"]).sum(-1)
    torch.testing.assert_close(fitted.log_prob(draws), expected)


def test_log_densities_average_to_the_closed_form_bound(fitted, draws):
    log_weight = fitted.log_joint(draws) - fitted.log_prob(draws)
    elbo = closed_form_elbo(fitted.model, fitted.guide, fitted.batch).detach()
    assert within_errors(log_weight, elbo).all()


def test_a_prior_with_noise_of_each_sequence_has_a_density(mixture, randomised):
    model, batch = mixture(num_sequences=3)
    scale = torch.tensor([0.5, 1.0, 2.0]).reshape(3, 1, 1, 1)
    model.prior.process_std = model.prior.process_std * scale
    posterior = Posterior(model, randomised(model, batch), batch)
    draws = posterior.sample(4)
    alone = model.prior.path(batch.num_frames, batch.anchor).log_prob(draws["s"])
    inside = pyro.poutine.trace(
        pyro.poutine.condition(model, {"s": draws["s"][0].unsqueeze(1)})
    ).get_trace(batch)
    log_prob = inside.nodes["s"]["fn"].log_prob(inside.nodes["s"]["value"])
    torch.testing.assert_close(log_prob.squeeze(1), alone[0])
    assert posterior.log_joint(draws).shape == (4, 3)


def test_predictive_is_not_the_data_and_has_the_moments_of_its_owner(mixture, randomised):
    model, batch = mixture()
    posterior = Posterior(model, randomised(model, batch), batch)
    torch.manual_seed(3)
    replica = posterior.predictive(NUM_DRAWS)["o"]
    mask = batch.mask
    assert not (replica == batch.observations)[:, mask].any()
    assert (replica[:, ~mask] == 0).all()
    eta = posterior.guide.responsibilities.unsqueeze(-1)
    law = model.observation
    loc = law.project(posterior.guide.sources.mean).squeeze(-2).transpose(1, 2).unsqueeze(2)
    mean = (eta * loc).sum(-2)
    assert within_errors(replica, mean)[mask].all()
    variance = law.project(posterior.guide.sources.variance).squeeze(-2)
    second = (eta * (variance.transpose(1, 2).unsqueeze(2) + loc.square())).sum(-2)
    assert within_errors(replica.square(), second + law.variance(batch).detach())[mask].all()


def test_predictive_of_clutter_comes_from_clutter(mixture, randomised):
    model, batch = mixture(detector=Detector(), missing=0.0)
    posterior = Posterior(model, randomised(model, batch), batch)
    draws = posterior.sample(200)
    draws["w"] = torch.full_like(draws["w"], batch.num_sources)
    centres = posterior.predictive(draws=draws)["o"][..., :2]
    assert ((centres >= 0) & (centres <= 1)).all()
    assert abs(centres.mean().item() - 0.5) < 0.02


@pytest.mark.parametrize("arguments", [{}, {"num_samples": 2, "draws": {}}])
def test_predictive_wants_one_source_of_draws(mixture, randomised, arguments):
    model, batch = mixture()
    posterior = Posterior(model, randomised(model, batch), batch)
    with pytest.raises(ValueError, match="either num_samples or draws"):
        posterior.predictive(**arguments)


@pytest.mark.parametrize("weights", ["posterior", "prior"])
def test_log_likelihood_sums_over_the_owners(fitted, weights):
    model, batch, guide = fitted.model, fitted.batch, fitted.guide
    draws = fitted.sample(2)
    result = fitted.log_likelihood(draws, weights=weights)["o"]
    b, t, k = (int(i) for i in batch.mask.nonzero()[0])
    law = model.observation
    location = law.project(draws["s"][1, b, :, t]).squeeze(-2)
    normal = torch.distributions.Normal(location, law.variance(batch)[b, t, k].sqrt())
    parts = normal.log_prob(batch.observations[b, t, k]).sum(-1).exp()
    eta = guide.responsibilities[b, t, k]
    if model.detector is not None:
        clutter = model.clutter(batch).log_prob(batch.observations[b, t, k]).exp()
        parts = torch.cat((parts, clutter[None]))
    if weights == "prior":
        eta = torch.full_like(eta, 1 / len(eta))
        if model.detector is not None:
            rates = model.detector.rates(draws["v"][1, b, :, t])
            eta = torch.cat((rates, rates.new_tensor([model.detector.clutter_rate])))
            eta = eta / eta.sum()
    torch.testing.assert_close(result[1, b, t, k], (eta * parts).sum().log().detach())
    assert (result[:, ~batch.mask] == 0).all()


def test_log_likelihood_of_a_minibatch_takes_the_owners_of_its_sequences(mixture, randomised):
    model, batch = mixture(num_sequences=3)
    whole, rows = Posterior(model, randomised(model, batch), batch), torch.tensor([2, 0])
    part = Posterior(model, whole.guide, batch.subset(rows))
    draws = whole.sample(4)
    expected = whole.log_likelihood(draws)["o"][:, rows]
    some = {name: value[:, rows] for name, value in draws.items()}
    torch.testing.assert_close(part.log_likelihood(some)["o"], expected)


def test_log_likelihood_knows_two_weights(fitted):
    with pytest.raises(ValueError, match="posterior or prior"):
        fitted.log_likelihood(fitted.sample(1), weights="none")


def test_a_guide_of_another_batch_is_refused(mixture, randomised):
    model, batch = mixture()
    guide = randomised(model, batch)
    with pytest.raises(ShapeError, match="another batch"):
        Posterior(model, guide, batch.repeat(2))


def test_no_draws_are_refused(fitted):
    with pytest.raises(ValueError, match="at least 1"):
        fitted.sample(0)


@pytest.fixture
def deep():
    torch.manual_seed(0)
    model = MixDVAE(SRNN(emission=Gaussian("increment", scale="unit")))
    observations = torch.rand(2, 6, 3, 4)
    loc = torch.rand(2, 2, 4)
    batch = MixtureBatch(
        observations,
        torch.ones(2, 6, 3, dtype=torch.bool),
        torch.full_like(observations, 0.01),
        Anchor(loc, torch.full_like(loc, 0.01)),
    )
    return Posterior(model, MeanField(model, batch), batch)


def test_latents_of_a_deep_prior_are_drawn_given_the_trajectory(deep):
    draws = deep.sample(3)
    latent_dim = deep.model.prior.latent_dim
    assert draws["s_z"].shape == (3, 2, 2, 6, latent_dim)
    encoder = deep.model.prior.posterior(draws["s"])
    s_and_w = deep.guide.sources.log_prob(draws["s"]).sum(-1)
    s_and_w = s_and_w + deep.guide.responsibilities.log().amax(-1).sum((-1, -2))
    log_z = encoder.log_prob(draws["s_z"]).sum(-1)
    torch.testing.assert_close(deep.log_prob(draws), s_and_w + log_z)
    assert torch.isfinite(deep.log_joint(draws)).all()
    assert deep.to_inference_data(3)["posterior"]["s_z"].dims[-1] == "latent"


# ---- ArviZ


def test_netcdf_round_trip_keeps_groups_labels_and_values(fitted, tmp_path):
    torch.manual_seed(4)
    trace = {"bound": [torch.tensor([1.0, 2.0, 3.0, 4.0])] * 3, "final": [torch.zeros(2)]}
    names = ["first", "second"]
    data = fitted.to_inference_data(6, trace=trace, batch_names=names)
    path = arviz_io.save(data, tmp_path / "posterior.nc")
    assert [p.name for p in tmp_path.iterdir()] == ["posterior.nc"]
    read = arviz_io.load(path)
    drawn, frame_slot = ("chain", "draw"), ("batch", "frame", "observation")
    path_dims = ("batch", "source", "frame")
    dims = {
        ("posterior", "s"): (*drawn, *path_dims, "feature", "component"),
        ("posterior", "w"): (*drawn, *frame_slot),
        ("posterior_predictive", "o"): (*drawn, *frame_slot, "feature"),
        ("log_likelihood", "o"): (*drawn, *frame_slot),
        ("sample_stats", "lp"): (*drawn, "batch"),
        ("sample_stats", "log_q"): (*drawn, "batch"),
        ("observed_data", "o"): (*frame_slot, "feature"),
        ("constant_data", "mask"): frame_slot,
        ("bound_trace", "bound"): ("bound_sweep", "bound_start", "batch"),
    }
    if fitted.model.detector is not None:
        dims["posterior", "v"] = (*drawn, *path_dims)
    for (group, name), expected in dims.items():
        assert read[group][name].dims == expected, (group, name)
        np.testing.assert_array_equal(read[group][name].values, data[group][name].values)
    assert read["posterior"]["batch"].values.tolist() == names
    seen = ~np.isnan(read["observed_data"]["o"].values).any(-1)
    np.testing.assert_array_equal(seen, fitted.batch.mask.numpy())
    observed = fitted.batch.observations[fitted.batch.mask].numpy()
    np.testing.assert_array_equal(read["observed_data"]["o"].values[seen], observed)


def test_boxes_name_their_features(mixture, randomised):
    model, batch = mixture(detector=Detector())
    data = Posterior(model, randomised(model, batch), batch).to_inference_data(2)
    width = data["posterior"]["s"].sel(feature="width", component=0)
    assert width.dims == ("chain", "draw", "batch", "source", "frame")


def test_arviz_summarises_what_it_gets(fitted):
    arviz = arviz_io.import_arviz()
    data = fitted.to_inference_data(50, weights="prior")
    table = arviz.summary(data, var_names=["s"], kind="stats")
    assert len(table) == fitted.sample(1)["s"].numel()
    assert np.isfinite(table["mean"]).all()


def test_to_netcdf_writes_a_file(fitted, tmp_path):
    path = fitted.to_netcdf(tmp_path / "posterior.nc", num_samples=3)
    assert arviz_io.load(path)["posterior"].sizes["draw"] == 3


def test_arviz_one_gets_a_data_tree_of_the_same_file(fitted, tmp_path, monkeypatch):
    import xarray

    monkeypatch.setitem(sys.modules, "arviz", types.SimpleNamespace(__version__="1.0.0"))
    data = fitted.to_inference_data(3)
    assert isinstance(data, xarray.DataTree)
    path = arviz_io.save(data, tmp_path / "tree.nc")
    tree = arviz_io.load(path)
    assert isinstance(tree, xarray.DataTree)
    np.testing.assert_array_equal(tree["posterior/s"].values, data["posterior/s"].values)
    monkeypatch.undo()
    old = arviz_io.load(path)  # what ArviZ 1 wrote, ArviZ 0.2x reads
    np.testing.assert_array_equal(old["posterior"]["s"].values, data["posterior/s"].values)


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    dims = ("chain", "draw")
    path = tmp_path / "x.nc"
    first = arviz_io.inference_data({"posterior": {"x": (dims, np.zeros((1, 3)))}})
    arviz_io.save(first, path)
    second = arviz_io.inference_data({"posterior": {"x": (dims, np.ones((1, 3)))}})

    def broken(self, *args, **kwargs):
        args[0].write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(type(second["posterior"]), "to_netcdf", broken)
    with pytest.raises(KeyboardInterrupt):
        arviz_io.save(second, path)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["x.nc"]
    assert (arviz_io.load(path)["posterior"]["x"] == 0).all()


def test_dimensions_must_fit_the_values():
    with pytest.raises(ShapeError, match="posterior/x"):
        arviz_io.inference_data({"posterior": {"x": (("chain",), np.zeros((1, 3)))}})


def test_labels_must_fit_the_dimensions():
    group = {"posterior": {"x": (("chain", "draw", "source"), np.zeros((1, 3, 2)))}}
    with pytest.raises(ShapeError, match="given 3 labels"):
        arviz_io.inference_data(group, coords={"source": ["a", "b", "c"]})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.nc"):
        arviz_io.load(tmp_path / "nowhere.nc")


def test_bound_trace_separates_starts_and_sequences():
    trace = {"final": [torch.arange(6.0), torch.tensor([7.0, 8.0])]}
    group = bound_trace(trace, num_sequences=2)
    assert {name: value.shape for name, (_, value) in group.items()} == {
        "final": (1, 3, 2),
        "final_2": (1, 1, 2),
    }
    np.testing.assert_array_equal(group["final"][1][0], [[0, 1], [2, 3], [4, 5]])


def test_bound_trace_of_another_batch_is_refused():
    with pytest.raises(ShapeError, match="multiple of 4"):
        bound_trace({"bound": [torch.zeros(6)]}, num_sequences=4)
