"""The network of q(w) as a guide: its bound, its gradient, its contract, and steps of SVI."""

import copy

import pyro
import pytest
import torch
from pyro.infer import TraceEnum_ELBO

from pyromodels.dynamics.by_source import BySource
from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.dynamics.srnn import SRNN
from pyromodels.dynamics.tvnf import TVNF
from pyromodels.dynamics.vae import VAE
from pyromodels.errors import ShapeError, SpecError
from pyromodels.experiments.separation.vkf import Walks
from pyromodels.guides.amortised_assignment import AmortisedAssignment
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.engines import ENGINES
from pyromodels.inference.mixture.bound import closed_form_elbo
from pyromodels.inference.mixture.updates import SourceUpdate
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.networks.assigner import Assigner
from pyromodels.observations.spectra import ComplexSpectra, spectra_batch
from pyromodels.registry import GUIDES
from pyromodels.testing import check, check_guide

NETWORK = {"num_channels": 3, "num_blocks": 1, "hidden_dim": 3, "neighbourhood": 3}


@pytest.fixture(autouse=True)
def double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def deep(num_frames=3, num_bins=3):
    """Two kinds of source, two mixtures."""
    sizes = {"source_dim": num_bins, "emission": "complex"}
    prior = BySource([SRNN(**sizes), VAE(**sizes)]).eval()
    mixture = torch.randn(2, num_frames, num_bins, dtype=torch.complex128)
    return MixDVAE(prior, ComplexSpectra(prior)), spectra_batch(mixture, 2, ratio=0.3)


def walking(num_frames=2, num_bins=2):
    """Walks: priors whose message is exact, so that the closed form is the bound itself."""
    walks, mixture = Walks(), torch.randn(1, num_frames, num_bins, dtype=torch.complex128)
    batch = spectra_batch(mixture, 2, ratio=0.3, anchor=walks.anchor(mixture, 2))
    prior = walks.prior(mixture, 2)
    return MixDVAE(prior, ComplexSpectra(prior)), batch


def made(model, batch):
    return GUIDES.build({"name": "amortised_assignment", "network": NETWORK}, model, batch)


def moved(guide):
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return guide


@pytest.mark.parametrize("problem", [deep, walking])
def test_contract(problem):
    model, batch = problem()
    check_guide(moved(made(model, batch)), model, batch, fresh=lambda: made(model, batch))


def test_the_class_alone_is_checked_on_spectra():
    check(AmortisedAssignment)


@pytest.mark.parametrize("problem", [deep, walking])
def test_it_is_the_first_step_of_variational_em_from_the_network(problem):
    model, batch = problem()
    guide = moved(made(model, batch))
    free = MeanField(model, batch)
    eta = guide.network(batch.observations.square().sum(-1)).softmax(-1)
    free.responsibilities = eta.detach()
    share = eta.detach().movedim(-1, 1).unsqueeze(-1) * batch.observations.unsqueeze(1)
    free.loc = share.flatten(-2).unflatten(-1, (-1, 1))
    free.covariance = torch.full_like(free.covariance, 1e-12)
    with torch.no_grad():
        SourceUpdate()(model, free, batch)
        bounds = [closed_form_elbo(model, one, batch) for one in (free, guide)]
    found = guide.of(batch)
    torch.testing.assert_close(found.responsibilities, eta)
    torch.testing.assert_close(found.sources.loc, free.sources.loc)
    torch.testing.assert_close(found.sources.covariance, free.sources.covariance)
    torch.testing.assert_close(*bounds)


def test_the_enumerated_bound_and_its_gradient_are_those_of_the_closed_form():
    model, batch = walking()
    guide = moved(made(model, batch))
    parameters = list(guide.parameters())
    exact = closed_form_elbo(model, guide, batch).sum()
    slope = torch.cat([g.flatten() for g in torch.autograd.grad(exact, parameters)])
    elbo = TraceEnum_ELBO(num_particles=400, vectorize_particles=True,
                          max_plate_nesting=model.max_plate_nesting)
    values, slopes = [], []
    with pyro.settings.context(module_local_params=True):
        for _ in range(30):
            loss = elbo.differentiable_loss(model, guide, batch)
            values.append(-loss.detach())
            grads = torch.autograd.grad(loss, parameters)
            slopes.append(-torch.cat([g.flatten() for g in grads]))
    for found, said in ((torch.stack(values), exact.detach()), (torch.stack(slopes), slope)):
        error = found.std(0) / len(found) ** 0.5
        assert ((found.mean(0) - said).abs() <= 5.5 * error + 1e-9).all()


def test_the_slope_of_the_bound_is_that_of_differences():
    model, batch = deep()
    guide = moved(made(model, batch))
    weight = guide.network.output.weight
    (slope,) = torch.autograd.grad(closed_form_elbo(model, guide, batch).sum(), weight)
    way, step = torch.randn_like(weight), 1e-6
    values = []
    with torch.no_grad():
        for sign in (1, -2):
            weight += sign * step * way
            values.append(closed_form_elbo(model, guide, batch).sum())
    torch.testing.assert_close((slope * way).sum(), (values[0] - values[1]) / (2 * step),
                               rtol=1e-5, atol=1e-6)


def test_silence_has_a_finite_slope():
    model, _ = deep()
    mixture = torch.randn(1, 3, 3, dtype=torch.complex128)
    mixture[:, 1] = 0
    batch = spectra_batch(mixture, 2)
    guide = made(model, batch)
    loss = closed_form_elbo(model, guide, batch).sum()
    slopes = torch.autograd.grad(loss, list(guide.parameters()))
    assert all(slope.isfinite().all() for slope in slopes)


@pytest.mark.parametrize("elbo", ["closed_form", "trace_enum"])
def test_the_engine_moves_the_network(elbo):
    model, batch = deep(num_frames=6)
    guide = made(model, batch)
    before = closed_form_elbo(model, guide, batch).sum()
    engine = ENGINES["svi"](model, guide, batch, steps=30, learning_rate=0.5, elbo=elbo)
    engine.run(batch)
    assert engine.guide is guide
    assert closed_form_elbo(model, guide, batch).sum() > before + 1


def test_stock_svi_takes_it():
    model, batch = deep(num_frames=6)
    guide = made(model, batch)
    weights = copy.deepcopy(guide.network.state_dict())
    pyro.clear_param_store()
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.01}),
                         TraceEnum_ELBO(max_plate_nesting=model.max_plate_nesting))
    losses = [svi.step(batch) for _ in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5]) - 10
    assert all((guide.network.state_dict()[name] != value).any()
               for name, value in weights.items())


def test_a_minibatch_is_any_other_batch():
    model, batch = deep()
    guide = moved(made(model, batch))
    part = guide.of(batch.subset(torch.tensor([1])))
    torch.testing.assert_close(part.responsibilities, guide.of(batch).responsibilities[1:])
    torch.testing.assert_close(part.sources.loc, guide.of(batch).sources.loc[1:])


def test_what_it_cannot_be_a_guide_of_is_refused():
    model, batch = deep()
    with pytest.raises(ShapeError, match="F and N"):
        AmortisedAssignment(model, batch, network=Assigner(3, 3, **NETWORK))
    boxes = MixDVAE(LinearGaussian(num_coordinates=2))
    with pytest.raises(SpecError, match="complex_spectra alone"):
        AmortisedAssignment(boxes, batch)
    with pytest.raises(NotImplementedError, match=r"guide\.of\(batch\)\.sources"):
        _ = made(model, batch).sources
    flow = TVNF(source_dim=6)
    with pytest.raises(SpecError, match="Gaussian message"):
        AmortisedAssignment(MixDVAE(flow, ComplexSpectra(flow)), batch)
