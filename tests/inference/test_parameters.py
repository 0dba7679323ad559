"""Plain modules in Pyro's param store: every instance trains, and none where none is asked for."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn

from pyromodels.pyro_support.param_store import register


@pytest.fixture(autouse=True)
def empty_param_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 1)
        self.fixed = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, x):
        register(self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            loc = self.net(z[:, None])[:, 0] + self.fixed
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


class Guide(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.net = model, nn.Linear(1, 1)

    def forward(self, x):
        register(self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x[:, None])[:, 0], 1.0))


def values(*modules):
    return [p.detach().clone() for m in modules for p in m.parameters() if p.requires_grad]


def train(model, guide, steps=2):
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(steps):
        svi.step(torch.ones(5))


def test_two_instances_of_a_class_both_train_and_share_nothing():
    models = [Model(), Model()]
    guides = [Guide(model) for model in models]
    for index in (0, 1):
        start = values(*models, *guides)
        train(models[index], guides[index])
        moved = [not torch.equal(a, b) for a, b in zip(start, values(*models, *guides),
                                                      strict=True)]
        half = [index == 0] * 2 + [index == 1] * 2
        assert moved == half + [m for m in half for _ in (0, 1)]
    assert len(pyro.get_param_store()) == 8  # 2 x (model's 2, guide's own 2), each under one name


def test_a_copy_and_a_later_instance_are_not_taken_for_the_first():
    first = Model()
    train(first, Guide(first))
    for make in (lambda: copy.deepcopy(first), Model):
        model = make()
        guide = Guide(model)
        start = values(guide)
        train(model, guide)
        assert all(not torch.equal(a, b) for a, b in zip(start, values(guide), strict=True))


def test_training_goes_on_after_the_store_is_cleared():
    model = Model()
    guide = Guide(model)
    train(model, guide)
    pyro.clear_param_store()
    start = values(guide)
    train(model, guide)
    assert all(not torch.equal(a, b) for a, b in zip(start, values(guide), strict=True))


def test_weights_loaded_behind_the_back_of_the_module_are_an_error():
    model = Model()
    register(model)
    store = pyro.get_param_store()
    state = store.get_state()
    state["params"] = {name: value.detach().clone() for name, value in state["params"].items()}
    pyro.clear_param_store()
    store.set_state(state)
    with pytest.raises(RuntimeError, match="another tensor.*load_state_dict"):
        register(model)


def test_frozen_parameters_are_left_out():
    model = Model()
    register(model)
    assert sorted(n.partition("$$$")[2] for n in pyro.get_param_store()) == [
        "net.bias", "net.weight",
    ]


def test_nothing_is_in_the_store_under_module_local_params():
    model = Model()
    loss = Trace_ELBO()(model, Guide(model))
    start = values(loss)
    adam = torch.optim.Adam(loss.parameters(), lr=0.1)
    with pyro.settings.context(module_local_params=True):
        loss(torch.ones(5)).backward()
    adam.step()
    assert all(not torch.equal(a, b) for a, b in zip(start, values(loss), strict=True))
    assert not len(pyro.get_param_store())


def test_a_parameter_that_pyro_would_copy_is_refused():
    pyro.clear_param_store()
    module = nn.Module()
    module.weight = nn.Parameter(torch.zeros(2, 3).T)
    with pytest.raises(RuntimeError, match="contiguous"):
        register(module)
    pyro.clear_param_store()
