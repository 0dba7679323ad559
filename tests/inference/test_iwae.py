"""The importance-weighted bound against Pyro's, the evidence, and the weights by hand."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, Trace_ELBO

from pyromodels.batch import SequenceBatch
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.srnn import SRNN
from pyromodels.guides.amortised import Amortised
from pyromodels.inference.objectives.iwae import ImportanceELBO
from pyromodels.models.dvae import DynamicalVAE


@pytest.fixture(autouse=True)
def empty_param_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


@pytest.fixture
def problem():
    torch.manual_seed(0)
    model = DynamicalVAE(SRNN(source_dim=2, latent_dim=3))
    x = 0.3 * torch.randn(3, 6, 2).cumsum(1)
    mask = torch.arange(6) < torch.tensor((6, 4, 1))[:, None]
    return model, Amortised(model), SequenceBatch(x, mask, Anchor(x[:, 0], 0.5 + 0 * x[:, 0]))


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("vectorised", [True, False])
def test_value_and_gradient_are_those_of_pyro(problem, vectorised):
    model, guide, batch = problem
    results = []
    for kind in (RenyiELBO, ImportanceELBO):
        model.zero_grad()
        torch.manual_seed(1)
        elbo = kind(num_particles=4, vectorize_particles=vectorised, max_plate_nesting=3)
        results.append((elbo.loss_and_grads(model, guide, batch), gradients(model)))
        torch.manual_seed(1)
        assert elbo.loss(model, guide, batch) == pytest.approx(results[-1][0])
    assert results[1][0] == pytest.approx(results[0][0])
    torch.testing.assert_close(results[1][1], results[0][1])


@pytest.mark.parametrize("scale", [3.0, "tensor"])
@pytest.mark.parametrize("vectorised", [True, False])
def test_scale_multiplies_the_bound_of_a_sequence(problem, scale, vectorised):
    model, guide, batch = problem
    scale = torch.tensor([0.5, 2.0, 4.0])[:, None, None] if scale == "tensor" else scale
    elbo = ImportanceELBO(num_particles=4, vectorize_particles=vectorised)
    losses = []
    for programs in ((model, guide), [poutine.scale(p, scale=scale) for p in (model, guide)]):
        torch.manual_seed(1)
        losses.append(elbo.per_sequence(*programs, batch))
    factor = scale.flatten() if isinstance(scale, torch.Tensor) else scale
    torch.testing.assert_close(losses[1], factor * losses[0])


def test_one_particle_is_the_log_ratio(problem):
    model, guide, batch = problem
    losses = []
    for elbo in (Trace_ELBO(max_plate_nesting=3), ImportanceELBO(num_particles=1)):
        torch.manual_seed(1)
        losses.append(elbo.loss(model, guide, batch))
    assert losses[1] == pytest.approx(losses[0])


def conjugate(x):
    with pyro.plate("batch", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_bound_rises_with_the_particles_to_the_evidence():
    x = torch.tensor([0.4, -1.2])
    evidence = dist.Normal(0.0, math.sqrt(2.0)).log_prob(x).sum().item()

    def guide(x):
        with pyro.plate("batch", len(x)):
            pyro.sample("z", dist.Normal(0.2 * x, 1.0))

    torch.manual_seed(0)
    bounds = {}
    for num, repeats in ((1, 2000), (5, 2000), (20_000, 20)):
        elbo = ImportanceELBO(num_particles=num, max_plate_nesting=1)
        draws = torch.tensor([-elbo.loss(conjugate, guide, x) for _ in range(repeats)])
        bounds[num] = draws.mean().item(), (draws.std() / repeats**0.5).item()
    for fewer, more in ((1, 5), (5, 20_000)):
        assert bounds[more][0] - bounds[fewer][0] > 5 * math.hypot(bounds[more][1],
                                                                    bounds[fewer][1])
    assert abs(bounds[20_000][0] - evidence) < 5 * bounds[20_000][1] + 1e-4


def test_stock_svi_takes_the_steps_of_torch_adam(problem):
    model, guide, batch = problem
    start = {name: value.clone() for name, value in model.state_dict().items()}
    elbo, stepped = ImportanceELBO(num_particles=3), []
    for stock in (True, False):
        model.load_state_dict(start)
        torch.manual_seed(2)
        if stock:
            SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), elbo).step(batch)
        else:
            adam = torch.optim.Adam(model.parameters(), lr=0.01)
            with pyro.settings.context(module_local_params=True):
                elbo(model, guide)(batch).backward()
            adam.step()
        stepped.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        model.zero_grad()
    torch.testing.assert_close(*stepped)
    assert (stepped[0] != torch.cat([value.flatten() for value in start.values()])).all()


def test_what_has_no_weight_of_a_sequence_is_refused(problem, mixture, randomised):
    model, guide, batch = problem
    elbo = ImportanceELBO()
    with pytest.raises(ValueError, match="sites of different scales"):
        elbo.loss(poutine.scale(model, scale=2.0), guide, batch)
    by_frame = torch.linspace(1, 2, 6).reshape(2, 1, 3)  # varies over sources
    with pytest.raises(ValueError, match="varies within"):
        elbo.loss(*(poutine.scale(p, scale=by_frame) for p in (model, guide)), batch)
    with pytest.raises(NotImplementedError, match="'w' is enumerated"):
        other, observed = mixture()
        elbo.loss(other, randomised(other, observed), observed)

    def outside():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="'z' is outside the plate"):
        ImportanceELBO(num_particles=1).loss(outside, outside)
