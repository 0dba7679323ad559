"""A Pyro user's own model and guide go through the same Posterior, functions or modules."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import nn

from pyromodels.errors import ShapeError
from pyromodels.guides.auto import AutoGuide
from pyromodels.inference.adequacy.report import guide_report
from pyromodels.inference.posterior import arviz_io
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.pyro_support.site_labels import Layout

X = torch.tensor([0.1, 0.7, 1.2], dtype=torch.float64)


def model(x):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("day", len(x)):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


def guide(x):
    pyro.sample("mean", dist.Normal(x.sum() / (len(x) + 1), (len(x) + 1) ** -0.5))


class Model(nn.Module):
    def forward(self, x):
        model(x)


class Guide(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(X.sum() / 4)

    def forward(self, x):
        pyro.sample("mean", dist.Normal(self.loc, 0.5))


PAIRS = [(model, guide), (Model(), Guide())]


@pytest.fixture(params=PAIRS, ids=["functions", "modules"])
def yours(request):
    torch.manual_seed(0)
    return Posterior(*request.param, X)


def test_the_weights_of_an_exact_posterior_are_all_the_evidence(yours):
    draws = yours.sample(20)
    covariance = torch.eye(3) + torch.ones(3, 3)
    evidence = dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(X)
    log_weight = yours.log_joint(draws) - yours.log_prob(draws)
    torch.testing.assert_close(log_weight.detach(), evidence.expand(20))


def test_predictions_are_not_the_data(yours):
    replica = yours.predictive(4000)["x"]
    assert replica.shape == (4000, 3) and not (replica == X).any()
    assert (replica.mean(0) - X.sum() / 4).abs().max() < 5 * math.sqrt(1.25 / 4000)
    assert (replica.var(0) - 1.25).abs().max() < 5 * 1.25 * math.sqrt(2 / 4000)


def test_the_likelihood_is_that_of_each_observation(yours):
    draws = yours.sample(5)
    expected = dist.Normal(draws["mean"][:, None], 1.0).log_prob(X)
    torch.testing.assert_close(yours.log_likelihood(draws)["x"], expected)


def test_the_file_has_every_group_with_the_names_of_the_plates(yours, tmp_path):
    path = yours.to_netcdf(tmp_path / "yours.nc", 8, prior=6, coords={"day": ["a", "b", "c"]})
    data = arviz_io.load(path)
    expected = {
        "posterior", "posterior_predictive", "log_likelihood", "sample_stats", "observed_data",
        "prior", "prior_predictive",
    }  # fmt: skip
    assert set(data.groups()) == expected
    assert data.posterior_predictive["x"].dims == ("chain", "draw", "day")
    assert data.observed_data["x"].values.tolist() == X.tolist()
    assert data.observed_data["day"].values.tolist() == ["a", "b", "c"]
    stats = data.sample_stats
    np.testing.assert_allclose(stats["log_weight"], stats["lp"] - stats["log_q"])
    assert data.prior.sizes["draw"] == 6 and data.prior_predictive["x"].shape == (1, 6, 3)


def test_arviz_compares_models_with_it(yours):
    arviz = arviz_io.import_arviz()
    assert np.isfinite(arviz.loo(yours.to_inference_data(200)).elpd_loo)


def test_pyros_own_autoguide_is_drawn_from_and_weighed():
    pyro.clear_param_store()
    auto = AutoNormal(model)
    svi = pyro.infer.SVI(model, auto, pyro.optim.Adam({"lr": 0.05}), pyro.infer.Trace_ELBO())
    for _ in range(3):
        svi.step(X)
    loc = auto.median(X)["mean"].item()
    data = Posterior(model, auto, X).to_inference_data(400)
    assert abs(data.posterior["mean"].values.mean() - loc) < 5 * 0.1 / math.sqrt(400)
    assert "log_weight" in data.sample_stats
    assert auto.median(X)["mean"].item() == loc
    pyro.clear_param_store()


def test_parameters_in_pyros_store_are_seen():
    def learned(x):
        loc = pyro.param("loc", torch.tensor(3.0))
        pyro.sample("mean", dist.Normal(loc, 1e-6))

    pyro.clear_param_store()
    learned(X)
    pyro.param("loc").data.fill_(7.0)
    assert Posterior(model, learned, X).sample(2)["mean"].round().tolist() == [7.0, 7.0]
    assert list(pyro.get_param_store()) == ["loc"]
    pyro.clear_param_store()


# ---- event dimensions, discrete latents, names


def cluster(x):
    """A mixture of two, its labels left to the model; events are vectors."""
    with pyro.plate("cluster", 2, dim=-1):
        centre = pyro.sample("centre", dist.Normal(torch.zeros(2, 3), 2.0).to_event(1))
    with pyro.plate("item", len(x), dim=-1):
        label = pyro.sample("label", dist.Categorical(torch.tensor([0.3, 0.7])))
        pyro.sample("x", dist.Normal(pick(centre, label), 0.5).to_event(1), obs=x)


def pick(centre, label):
    return torch.where(label.unsqueeze(-1) == 0, centre[..., :1, :], centre[..., 1:, :])


def cluster_guide(x):
    with pyro.plate("cluster", 2, dim=-1):
        start = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
        pyro.sample("centre", dist.Normal(start, 0.3).to_event(1))


@pytest.fixture
def clustered():
    torch.manual_seed(1)
    return Posterior(cluster, cluster_guide, torch.rand(4, 3))


def test_labels_left_to_the_model_are_drawn_given_the_data(clustered):
    draws = clustered.sample(3000)
    assert draws["label"].shape == (3000, 4)
    log_weight = torch.tensor([0.3, 0.7]).log()
    centre = draws["centre"].unsqueeze(1)
    parts = dist.Normal(centre, 0.5).log_prob(clustered.batch[:, None]).sum(-1) + log_weight
    law = parts.softmax(-1)
    error = (draws["label"].double() - law[..., 1]).mean(0).abs()
    assert (error < 5 * 0.5 / math.sqrt(3000)).all()
    log_q = law.gather(-1, draws["label"].unsqueeze(-1)).squeeze(-1).log().sum(-1)
    with_centre = dist.Normal(torch.tensor([[0.0], [1.0]]), 0.3).log_prob(draws["centre"])
    torch.testing.assert_close(clustered.log_prob(draws), log_q + with_centre.sum((-1, -2)))


def test_dimensions_have_names_of_plates_numbers_or_your_own(clustered):
    assert clustered.to_inference_data(2).posterior["centre"].dims[2:] == (
        "cluster",
        "centre_dim_0",
    )
    dims = {"centre": ("group", "axis"), "x": ("item", "axis")}
    named = Posterior(cluster, cluster_guide, clustered.batch, dims=dims)
    data = named.to_inference_data(2)
    assert data.posterior["centre"].dims[2:] == ("group", "axis")
    assert data.posterior_predictive["x"].dims[2:] == ("item", "axis")
    assert data.log_likelihood["x"].dims[2:] == ("item",)


def test_a_model_may_describe_itself():
    class Described(Model):
        def layout(self, x):
            return Layout(sequences="day", constants={"known": (("day",), x > 0.5)})

    data = Posterior(Described(), guide, X).to_inference_data(2)
    assert data.constant_data["known"].values.tolist() == [False, True, True]
    assert data.sample_stats["lp"].dims == ("chain", "draw")  # the mean is of all days


@pytest.mark.parametrize(
    ("dims", "message"),
    [({"mean": ("a",)}, "0 names"), ({"median": ()}, "a site of the model")],
)
def test_names_must_fit(dims, message):
    with pytest.raises(ShapeError, match=message):
        Posterior(model, guide, X, dims=dims)


def test_guides_that_do_not_fit_are_refused():
    def other(x):
        pyro.sample("median", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="samples .'median'., which the model has not; .* mean"):
        Posterior(model, other, X)
    with pytest.raises(ValueError, match="does not sample 'mean', which Pyro cannot enumerate"):
        Posterior(model, lambda x: None, X)


@pytest.mark.parametrize("num_parts", [2, 3], ids=["silently wrong", "an error"])
def test_a_model_that_counts_dimensions_from_the_left_is_refused(num_parts):
    def left(x):
        with pyro.plate("part", num_parts):
            shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("day", 2):
            pyro.sample("x", dist.Normal(shift[0], 1.0), obs=x[:2])

    def parts(x):
        with pyro.plate("part", num_parts):
            pyro.sample("shift", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="from the right"):
        Posterior(left, parts, X)


def test_draws_that_do_not_fit_are_refused(yours):
    with pytest.raises(ShapeError, match="draws of 'mean'"):
        yours.log_joint({"mean": torch.zeros(3, 2)})
    with pytest.raises(ValueError, match="a site 'median'"):
        yours.log_joint({"mean": torch.zeros(3), "median": torch.zeros(3)})
    with pytest.raises(ValueError, match="q is a law, not draws"):
        yours.sample()


def test_a_guide_that_counts_dimensions_from_the_left_is_refused():
    def two(x):
        with pyro.plate("part", 2):
            shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        pyro.sample("mean", dist.Normal(shift.sum(-1, keepdim=True), 1.0))

    def left(x):
        with pyro.plate("part", 2):
            shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        pyro.sample("mean", dist.Normal(shift[:1], 1.0))

    with pytest.raises(ValueError, match="guide: it does not run for many draws .* log q"):
        Posterior(two, left, X)


def test_a_guide_of_data_of_another_size_is_refused():
    def each(x):
        with pyro.plate("day", len(x)):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    message = r"shape of 'mean': given \(3,\); expected \(2,\)"
    with pytest.raises(ShapeError, match=message):
        Posterior(each, AutoGuide(each, X), X[:2])
    Posterior(each, AutoGuide(each, X[:1]), X[:1])


@pytest.mark.parametrize("make", [AutoNormal, AutoMultivariateNormal])
def test_a_stock_autoguide_says_that_its_density_cannot_be_evaluated(make):
    pyro.clear_param_store()
    posterior = Posterior(model, make(model), X)
    with pytest.raises(NotImplementedError, match="auxiliary.*AutoGuide"):
        posterior.log_prob(posterior.sample(3))
    notes = " ".join(guide_report(posterior, num_draws=50).notes)
    assert "no k-hat" in notes and "AutoGuide" in notes
    pyro.clear_param_store()


# ---- pyro.deterministic is no random variable


def test_deterministic_sites_in_plates_are_left_out():
    def derived(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("day", len(x)):
            loc = pyro.deterministic("loc", mean + torch.arange(len(x)))
            pyro.sample("x", dist.Normal(loc, 0.1), obs=x)

    posterior = Posterior(derived, guide, X)
    draws = posterior.sample(2000)
    assert set(draws) == {"mean"}
    loc = draws["mean"][:, None] + torch.arange(3)
    likelihood = posterior.log_likelihood(draws)
    torch.testing.assert_close(likelihood, {"x": dist.Normal(loc, 0.1).log_prob(X)})
    torch.testing.assert_close(
        posterior.log_joint(draws),
        likelihood["x"].sum(-1) + dist.Normal(0.0, 1.0).log_prob(draws["mean"]),
    )
    replica = posterior.predictive(draws=draws)
    assert set(replica) == {"x"}
    assert (replica["x"] - loc).std() == pytest.approx(0.1, rel=0.1)
    data = posterior.to_inference_data(5, prior=4)
    assert set(data.observed_data) == set(data.log_likelihood) == {"x"}
    assert data.prior_predictive["x"].shape == (1, 4, 3)


def test_deterministic_sites_of_enumerated_ones_are_left_out():
    def derived(x):
        with pyro.plate("cluster", 2, dim=-1):
            centre = pyro.sample("centre", dist.Normal(torch.zeros(2, 3), 2.0).to_event(1))
        with pyro.plate("item", len(x), dim=-1):
            label = pyro.sample("label", dist.Categorical(torch.tensor([0.3, 0.7])))
            loc = pyro.deterministic("loc", pick(centre, label))
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)

    x = torch.rand(4, 3)
    plain, ours = (Posterior(one, cluster_guide, x) for one in (cluster, derived))
    draws = ours.sample(6)
    torch.testing.assert_close(ours.log_prob(draws), plain.log_prob(draws))
    torch.testing.assert_close(ours.log_joint(draws), plain.log_joint(draws))
    assert ours.predictive(draws=draws)["x"].shape == (6, 4, 3)
    ours.to_inference_data(3, prior=2)


def test_a_latent_that_is_missing_is_not_drawn_from_its_prior(clustered):
    draws = clustered.sample(3)
    del draws["label"]
    for read in (clustered.log_joint, clustered.log_prob, clustered.log_likelihood):
        with pytest.raises(ValueError, match="none of .'label'.; expected every site"):
            read(draws)
    with pytest.raises(ValueError, match="none of .'label'."):
        clustered.predictive(draws=draws)
