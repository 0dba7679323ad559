"""Guides that are points, draws, or Pyro's own: what they fit, and what they refuse."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO

from pyromodels.errors import ShapeError
from pyromodels.guides.auto import AutoGuide
from pyromodels.guides.empirical import Empirical
from pyromodels.guides.mean_field import MeanField
from pyromodels.guides.point import Point
from pyromodels.inference.engines.svi import SVI
from pyromodels.inference.mixture.updates import AssignmentUpdate, SourceUpdate
from pyromodels.inference.mixture.vem import VEM
from pyromodels.inference.posterior.posterior import Posterior

FAMILIES = ["normal", "multivariate_normal", "low_rank", "flow"]


WEIGHT = torch.tensor([1.0, 2.0], dtype=torch.float64)


def correlated(x):
    """A Gaussian and a positive latent; the posterior of `place` and `shift` is correlated."""
    place = pyro.sample("place", dist.Normal(0.0, 1.0))
    with pyro.plate("part", 2):
        shift = pyro.sample("shift", dist.Normal(0.0, 0.5))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with pyro.plate("day", len(x)):
        pyro.sample("x", dist.Normal(place + (shift * WEIGHT).sum(-1, keepdim=True), scale), obs=x)


DATA = torch.tensor([0.5, 1.0, 0.7], dtype=torch.float64)


@pytest.fixture
def smoothed(mixture):
    """One source, whose exact posterior is the smoother's."""
    model, batch = mixture(1, 3, 2, 1, num_coordinates=1, order=1, missing=0.0)
    vem = VEM(model, MeanField(model, batch), [AssignmentUpdate(), SourceUpdate()])
    vem.sweep(batch)
    return model, batch, vem


@pytest.mark.parametrize("family", ["multivariate_normal", "low_rank", "flow"])
def test_guides_that_can_reach_the_exact_posterior(smoothed, family):
    model, batch, vem = smoothed
    pyro.set_rng_seed(0)
    guide = AutoGuide(model, batch, family=family, init={"s": vem.guide.sources.mean[:, None]})
    elbo = TraceEnum_ELBO(max_plate_nesting=3, num_particles=16, vectorize_particles=True)
    svi = SVI(model, guide, elbo=elbo, learning_rate=0.05, num_steps=250)
    for _ in range(250):
        svi.step(batch)
    evidence = vem.elbo(batch).sum()
    draws = torch.tensor([svi.evaluate_loss(batch) for _ in range(30)])
    assert -0.05 < (draws.mean() + evidence) < 0.2
    sample = Posterior(model, guide, batch).sample(2000)["s"]
    exact = vem.guide.sources
    assert ((sample.mean(0) - exact.mean).abs() < 0.3 * exact.variance.sqrt()).all()


def test_independent_normals_fall_short_by_the_correlation(smoothed):
    model, batch, vem = smoothed
    pyro.set_rng_seed(0)
    guide = AutoGuide(model, batch, init={"s": vem.guide.sources.mean[:, None]})
    elbo = TraceEnum_ELBO(max_plate_nesting=3, num_particles=16, vectorize_particles=True)
    svi = SVI(model, guide, elbo=elbo, learning_rate=0.05, num_steps=250)
    for _ in range(250):
        svi.step(batch)
    chain = vem.guide.sources
    precision = torch.linalg.inv(dense(chain))
    gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))  # KL at the optimum
    draws = torch.tensor([svi.evaluate_loss(batch) for _ in range(50)])
    assert draws.mean() + vem.elbo(batch).sum() == pytest.approx(gap.item(), abs=0.1)


def dense(chain):
    """Covariance of a chain of scalars over time."""
    marginal, gain = chain.covariance.flatten(), chain.gain.flatten()
    covariance = torch.diag(marginal)
    for t in range(len(marginal)):
        for back in range(t - 1, -1, -1):
            covariance[back, t] = covariance[t, back] = gain[back] * covariance[back + 1, t]
    return covariance


@pytest.mark.parametrize("family", FAMILIES)
def test_the_density_of_an_auto_guide_counts_the_transform_of_a_positive_site(family):
    torch.manual_seed(0)
    posterior = Posterior(correlated, AutoGuide(correlated, DATA, family=family), DATA)
    draws, log_q = posterior.model_and_guide.draw(9)
    assert {name: value.shape[1:] for name, value in draws.items()} == {
        "place": (), "shift": (2,), "scale": ()
    }  # fmt: skip
    torch.testing.assert_close(posterior.log_prob(draws), log_q)
    if family == "normal":
        auto = posterior.guide.auto
        expected = sum(
            dist.Normal(getattr(auto.locs, name), getattr(auto.scales, name))
            .log_prob(draws[name] if name != "scale" else draws[name].log())
            .reshape(9, -1)
            .sum(-1)
            for name in draws
        )
        torch.testing.assert_close(log_q, expected - draws["scale"].log())


@pytest.mark.parametrize("family", FAMILIES)
def test_stock_svi_trains_two_auto_guides_in_one_process(mixture, family):
    pyro.clear_param_store()
    model, batch = mixture(1, 3, 2, 2, missing=0.0)
    guides = [AutoGuide(model, batch, family=family) for _ in range(2)]
    for guide in guides:
        before = [p.detach().clone() for p in guide.parameters()]
        elbo = TraceEnum_ELBO(max_plate_nesting=3)
        svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), elbo)
        for _ in range(2):
            svi.step(batch)
        pairs = zip(before, guide.parameters(), strict=True)
        assert all((old != new).any() for old, new in pairs)
    states = [list(guide.state_dict().values()) for guide in guides]
    assert any((a != b).any() for a, b in zip(*states, strict=True))
    pyro.clear_param_store()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_of_an_auto_guide_is_trained_on_its_own(family):
    pyro.clear_param_store()
    guide = AutoGuide(correlated, DATA, family=family)
    for _ in range(2):  # a copy of a copy too, and of one that stock Pyro has run
        twin = copy.deepcopy(guide)
        kept = [p.detach().clone() for p in guide.parameters()]
        svi = pyro.infer.SVI(correlated, twin, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        for _ in range(2):
            svi.step(DATA)
        pairs = list(zip(kept, guide.parameters(), twin.parameters(), strict=True))
        assert all(torch.equal(old, mine) for old, mine, _ in pairs)
        assert all((old != theirs).any() for old, _, theirs in pairs)
        posterior = Posterior(correlated, twin, DATA)
        draws, log_q = posterior.model_and_guide.draw(4)
        torch.testing.assert_close(posterior.log_prob(draws), log_q)
        guide = twin
    pyro.clear_param_store()


@pytest.mark.parametrize("make", [AutoGuide, Point])
def test_a_start_of_a_site_that_is_none_is_refused(make):
    with pytest.raises(ValueError, match="sites .'foo'.; expected place, shift, scale"):
        make(correlated, DATA, init={"foo": torch.zeros(())})


def test_the_posterior_leaves_nothing_in_the_parameter_store(mixture):
    pyro.clear_param_store()
    model, batch = mixture(1, 3, 2, 2)
    Posterior(model, AutoGuide(model, batch), batch).to_inference_data(3)
    assert not list(pyro.get_param_store())


def test_an_unknown_family_is_named():
    with pytest.raises(ValueError, match="given 'norml'"):
        AutoGuide(correlated, DATA, family="norml")


# ---- points


def test_a_point_goes_to_the_mode(smoothed):
    model, batch, vem = smoothed
    guide = Point(model, batch)
    elbo = TraceEnum_ELBO(max_plate_nesting=3)
    svi = SVI(model, guide, elbo=elbo, learning_rate=0.1, num_steps=300)
    for _ in range(300):
        svi.step(batch)
    mode = Posterior(model, guide, batch).sample(1)["s"][0]
    torch.testing.assert_close(mode, vem.guide.sources.mean, atol=1e-3, rtol=0)


def test_a_point_of_another_shape_is_refused():
    with pytest.raises(ShapeError, match=r"init\['shift'\]"):
        Point(correlated, DATA, init={"shift": torch.zeros(3)})


def test_a_model_without_continuous_latents_has_no_point():
    def coin(x):
        pyro.sample("w", dist.Bernoulli(0.5))

    with pytest.raises(ValueError, match="no continuous latent"):
        Point(coin, None)


# ---- draws


def test_empirical_keeps_its_chains_and_their_order():
    value = torch.arange(12.0, dtype=torch.float64).reshape(2, 3, 2)
    rest = torch.zeros(2, 3)
    guide = Empirical(correlated, DATA, {"shift": value, "place": rest, "scale": rest + 1})
    posterior = Posterior(correlated, guide, DATA)
    assert torch.equal(posterior.sample()["shift"], value.flatten(0, 1))
    data = posterior.to_inference_data()
    assert data.posterior["shift"].values.tolist() == value.tolist()
    assert data.posterior["shift"].dims == ("chain", "draw", "part")
    anew = posterior.to_inference_data(50)
    assert anew.posterior.sizes["draw"] == 50
    assert {tuple(row) for row in anew.posterior["shift"].values[0].tolist()} <= {
        tuple(row) for row in value.flatten(0, 1).tolist()
    }


def test_empirical_says_that_it_has_no_density():
    rest = torch.zeros(1, 3)
    guide = Empirical(
        correlated, DATA, {"shift": torch.zeros(1, 3, 2), "place": rest, "scale": rest + 1}
    )
    posterior = Posterior(correlated, guide, DATA)
    with pytest.raises(NotImplementedError, match="no density; use log_joint"):
        posterior.log_prob(posterior.sample())
    assert posterior.log_joint(posterior.sample()).shape == (3,)


@pytest.mark.parametrize(
    ("draws", "message"),
    [
        ({}, r"\(C, n, ...\)"),
        ({"place": torch.zeros(4)}, r"\(C, n, ...\)"),
        ({"nowhere": torch.zeros(1, 4)}, "place, shift, scale"),
        ({"place": torch.zeros(1, 4), "scale": torch.ones(2, 4)}, "one .* of all sites"),
        ({"shift": torch.zeros(1, 4, 3)}, r"draws\['shift'\]"),
        ({"shift": torch.zeros(1, 4)}, "draws of 'shift'"),
    ],
)
def test_draws_that_do_not_fit_are_refused(draws, message):
    with pytest.raises(ValueError, match=message):
        Empirical(correlated, DATA, draws)


def test_auto_guides_work_without_any_enumeration():
    guide = AutoGuide(correlated, DATA)
    svi = SVI(torch.nn.Module(), guide, elbo=Trace_ELBO())
    svi.model.forward = correlated
    first = svi.step(DATA)
    assert torch.isfinite(torch.tensor(first))
