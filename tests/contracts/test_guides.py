"""Every guide keeps the contract, over the models that it can serve."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.deep_ar import DeepAR
from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.dynamics.srnn import SRNN
from pyromodels.guides.empirical import Empirical
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.observations.detector import Detector
from pyromodels.registry import GUIDES
from pyromodels.testing import check_guide

FAMILIES = ["normal", "multivariate_normal", "low_rank", "flow"]
AUTO = [{"name": "auto", "family": family} for family in FAMILIES]
FACTORISED = [{"name": name} for name in ("mean_field", "parametrised_mean_field", "chain")]
OTHERS = [{"name": "point"}, {"name": "empirical"}]
TESTED = [*FACTORISED, *OTHERS, *AUTO]
LIBRARY = {"mean_field", "parametrised_mean_field", "chain", "point", "empirical", "enumerated"}


def prior(name):
    if name == "linear":
        return LinearGaussian(num_coordinates=2, process_std=(0.4, 0.2))
    steps = {"name": "gaussian", "predicts": "increment", "scale": "unit"}
    small = {"source_dim": 2, "hidden_dim": 3, "emission": steps}
    return DeepAR(**small) if name == "deep_ar" else SRNN(latent_dim=2, **small)


def problem(name, detector=None):
    """A small model and its batch."""
    torch.manual_seed(0)
    num_features = 2 if detector is None else 4
    dynamics = prior(name) if detector is None else LinearGaussian(process_std=(0.4, 0.2))
    model = MixDVAE(dynamics, detector=detector).double()
    observations = torch.rand(2, 3, 2, num_features) + 0.2
    mask = torch.rand(2, 3, 2) > 0.2
    loc = torch.rand(2, 2, model.prior.source_dim) + 0.5
    anchor = Anchor(loc, torch.full_like(loc, 0.1))
    return model, MixtureBatch(observations, mask, torch.full_like(observations, 0.1), anchor)


def build(spec, model, batch):
    """A guide; an empirical one of three chains of draws from the prior."""
    if spec["name"] != "empirical":
        return GUIDES.build(spec, model, batch)
    with pyro.plate("chain", 3, dim=-5), pyro.plate("draw", 4, dim=-4):
        trace = pyro.poutine.trace(model).get_trace(batch)
    names = [name for name in ("s", "s_z") if name in trace.nodes]
    draws = {name: trace.nodes[name]["value"].detach().squeeze(-4) for name in names}
    return Empirical(model, batch, draws)


@pytest.fixture(autouse=True)
def double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def label(value):
    return "-".join(value.values()) if isinstance(value, dict) else value


def hold(spec, model, batch):
    def make():
        torch.manual_seed(5)
        return build(spec, model, batch)

    torch.manual_seed(1)
    guide = build(spec, model, batch)
    with torch.no_grad():  # away from symmetric starts, where gradients vanish
        for parameter in guide.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    check_guide(guide, model, batch, fresh=make, draws_differ=spec["name"] != "point")


@pytest.mark.parametrize("name", ["linear", "deep_ar", "srnn"])
@pytest.mark.parametrize("spec", TESTED, ids=label)
def test_contract(spec, name):
    hold(spec, *problem(name))


@pytest.mark.parametrize("spec", FACTORISED, ids=label)
def test_contract_with_a_detector(spec):
    hold(spec, *problem("linear", Detector()))


def test_contract_of_the_exact_posterior():
    hold({"name": "enumerated"}, *problem("linear"))


def test_no_registered_guide_of_the_library_escapes():
    assert LIBRARY | {"auto"} <= set(GUIDES.names())
    assert {spec["name"] for spec in TESTED} | {"enumerated"} == LIBRARY | {"auto"}


@pytest.mark.parametrize("spec", [*OTHERS, *AUTO[:1], {"name": "enumerated"}], ids=label)
def test_guides_without_rows_refuse_a_minibatch(spec):
    model, batch = problem("linear")
    guide = build(spec, model, batch)
    guide(batch)
    with pytest.raises(ValueError, match="takes no minibatch; .* mean_field, chain"):
        guide(batch.subset(torch.tensor([1, 0])))


@pytest.mark.parametrize("spec", FACTORISED, ids=label)
def test_a_copy_of_a_guide_belongs_to_the_same_model(spec):
    model, batch = problem("linear")
    guide = build(spec, model, batch)
    twin = copy.deepcopy(guide)
    assert twin.model is model and twin.sources.loc is not guide.sources.loc
    assert "model" not in dict(twin.named_children())
    again, other = copy.deepcopy((model, guide))
    assert other.model is again is not model


class Mean(nn.Module):
    """Somebody's model."""

    def forward(self, x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("day", 3):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


class MeanGuide(nn.Module):
    """Somebody's guide, its faults by switch."""

    def __init__(self, *, name="mean", dead=False, observed=False, fixed=False):
        super().__init__()
        self.name, self.observed, self.fixed = name, observed, fixed
        self.loc = nn.Parameter(torch.tensor(0.3))
        if dead:
            self.dead = nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        law = dist.Delta(self.loc) if self.fixed else dist.Normal(self.loc, 0.5)
        pyro.sample(self.name, law, obs=torch.tensor(0.0) if self.observed else None)


def test_somebodys_own_guide_passes():
    check_guide(MeanGuide(), Mean(), torch.tensor([0.1, 0.5, 0.2]), fresh=MeanGuide)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"name": "median"}, "sites that the model lacks"),
        ({"dead": True}, "no gradient reaches 'dead'"),
        ({"observed": True}, "observed in the guide"),
        ({"fixed": True}, "draws are all the same"),
    ],
)
def test_faults_are_found(fault, message):
    with pytest.raises(AssertionError, match=message):
        check_guide(MeanGuide(**fault), Mean(), torch.tensor([0.1, 0.5, 0.2]))


@pytest.mark.parametrize("name", ["auto", "point"])
def test_a_discrete_chain_is_refused_by_guides_that_cannot_serve_it(name):
    model, batch = problem("linear", Detector())
    message = "cannot serve the site 'v'.*marginalise it.*mean_field, chain"
    with pytest.raises(ValueError, match=message):
        GUIDES.build({"name": name}, model, batch)
