"""A Pyro user's two-line model and guide, plain functions, through SVI, ascend and Posterior."""

import math

import arviz
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch.distributions import constraints

from pyromodels.inference.engines.ascend import AscentOptions, ascend
from pyromodels.inference.engines.svi import SVI
from pyromodels.inference.mixture.bound import closed_form_elbo
from pyromodels.inference.posterior.posterior import Posterior

DATA = torch.tensor([1.2, 0.7, 2.1, 1.4])
POSTERIOR = (DATA.sum().item() / 5, 5**-0.5)  # mean, deviation


def model(x):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("day", len(x)):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


def guide(x):
    loc = pyro.param("loc", lambda: torch.zeros(()))
    scale = pyro.param("scale", lambda: torch.ones(()), constraint=constraints.positive)
    pyro.sample("mean", dist.Normal(loc, scale))


@pytest.fixture(autouse=True)
def empty_param_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def stepper():
    elbo = Trace_ELBO(num_particles=20, vectorize_particles=True)
    return SVI(model, guide, elbo=elbo, learning_rate=0.1, num_steps=300)


def test_it_is_fitted_and_its_posterior_written(tmp_path):
    ascend(stepper(), DATA, AscentOptions(max_steps=300, seed=0))
    fitted = torch.stack([pyro.param(name).detach() for name in ("loc", "scale")])
    torch.testing.assert_close(fitted, torch.tensor(POSTERIOR), atol=0.03, rtol=0)
    posterior = Posterior(model, guide, DATA)
    draws = posterior.sample(2000)
    assert draws["mean"].mean().item() == pytest.approx(POSTERIOR[0], abs=0.06)
    log_weight = posterior.log_joint(draws) - posterior.log_prob(draws)
    assert log_weight.std() < 0.2  # the guide is the posterior, nearly: its weights are constant
    path = posterior.to_netcdf(tmp_path / "mine.nc", 50)
    data = arviz.from_netcdf(path)
    assert data.posterior["mean"].sizes == {"chain": 1, "draw": 50}
    assert data.log_likelihood["x"].dims == ("chain", "draw", "day")


def test_a_cut_run_resumes_to_the_same_bits(tmp_path):
    options = AscentOptions(max_steps=8, checkpoint_every=3, seed=1)
    whole = ascend(stepper(), DATA, options)
    expected = pyro.param("loc").item()
    pyro.clear_param_store()
    ascend(stepper(), DATA, AscentOptions(max_steps=6, checkpoint_every=3, seed=1), folder=tmp_path)
    pyro.clear_param_store()
    resumed = ascend(stepper(), DATA, options, folder=tmp_path, resume=True)
    assert resumed.losses == whole.losses
    assert pyro.param("loc").item() == expected


def test_a_function_without_parameters_is_told_at_the_first_step():
    def fixed(x):
        pyro.sample("mean", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="fixed has no parameter to train"):
        SVI(model, fixed, elbo=Trace_ELBO()).step(DATA)


@pytest.mark.parametrize("called", [False, True])
def test_an_autoguide_of_pyros_own_trains(called):
    auto = AutoNormal(model)
    if called:
        auto(DATA)
    svi = SVI(model, auto, elbo=Trace_ELBO(num_particles=8, vectorize_particles=True),
              learning_rate=0.1, num_steps=200)
    for _ in range(200):
        svi.step(DATA)
    assert auto.median()["mean"].item() == pytest.approx(POSTERIOR[0], abs=0.1)


def test_resuming_a_run_that_was_over_leaves_its_checkpoint_whole(tmp_path):
    options = AscentOptions(max_steps=6, checkpoint_every=4, seed=1)
    whole = ascend(stepper(), DATA, AscentOptions(max_steps=9, checkpoint_every=4, seed=1))
    pyro.clear_param_store()
    ascend(stepper(), DATA, options, folder=tmp_path)
    pyro.clear_param_store()
    over = stepper()
    (tmp_path / "losses.jsonl").unlink()
    ascend(over, DATA, options, folder=tmp_path, resume=True)
    assert len((tmp_path / "losses.jsonl").read_text().splitlines()) == 6
    assert over.state_dict()["steps_made"] == 6
    assert math.isfinite(over.evaluate_loss(DATA))  # with what was restored
    assert pyro.param("loc").item() != 0
    pyro.clear_param_store()
    on = AscentOptions(max_steps=9, checkpoint_every=4, seed=1)
    assert ascend(stepper(), DATA, on, folder=tmp_path, resume=True).losses == whole.losses


def test_the_closed_form_is_of_a_mixdvae():
    with pytest.raises(ValueError, match="closed_form.*function is none.*estimator"):
        SVI(model, guide, elbo=closed_form_elbo).step(DATA)
