"""TVNF and TVGMM against Jacobians, integrals, torch's networks and mixtures of others."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyromodels.distributions.message import Anchor
from pyromodels.distributions.mixture import DiagonalMixture
from pyromodels.dynamics.tvgmm import TVGMM
from pyromodels.dynamics.tvnf import TVNF
from pyromodels.errors import ShapeError, SpecError
from pyromodels.networks.memory import make_memory

FLOWS = [
    {"source_dim": 1},
    {"source_dim": 2, "mixing": True},
    {"source_dim": 5, "memory": "lstm"},
    {"source_dim": 4, "split": 1, "coupling": "spline"},
    {"source_dim": 3, "memory": "convolution", "coupling": "spline", "mixing": True},
]


def built(cls, **spec):
    torch.manual_seed(0)
    small = {"past_dim": 4, "hidden_dim": 5, **({"num_layers": 2} if cls is TVNF else {})}
    return cls(**{**small, **spec}).double()


@pytest.mark.parametrize("spec", FLOWS, ids=str)
def test_log_prob_is_that_of_the_noise_and_of_the_numerical_jacobian(spec):
    path = built(TVNF, **spec).path(3)
    x = path.rsample().detach()
    size = x.numel()
    jacobian = torch.autograd.functional.jacobian(path.noise_of, x).reshape(size, size)
    noise = path.noise_of(x)
    expected = dist.Normal(0.0, 1.0).log_prob(noise).sum() + torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(path.log_prob(x), expected)


@pytest.mark.parametrize("spec", FLOWS, ids=str)
def test_there_and_back_at_ten_digits(spec):
    path = built(TVNF, **spec).path(6)
    noise = path.noise((20,))
    x = path.roll_out(noise)
    torch.testing.assert_close(path.noise_of(x), noise, rtol=0, atol=1e-10)
    torch.testing.assert_close(path.roll_out(path.noise_of(x)), x, rtol=0, atol=1e-10)


@pytest.mark.parametrize("spec", [{"source_dim": 1, "coupling": "spline"}, {"source_dim": 1}])
def test_density_of_a_coordinate_integrates_to_one(spec):
    grid = torch.linspace(-20, 20, 40001, dtype=torch.float64)
    density = built(TVNF, **spec).path(1).log_prob(grid[:, None, None]).exp()
    torch.testing.assert_close(torch.trapezoid(density, grid).item(), 1.0, rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", [
    lambda: built(TVNF, source_dim=2, mixing=True),
    lambda: built(TVGMM, source_dim=2, num_components=3),
], ids=["tvnf", "tvgmm"])
def test_moments_of_draws_are_those_of_the_density_given_the_past(make):
    prior = make()
    past = torch.tensor([[0.3, -1.0]], dtype=torch.float64)
    axis = torch.linspace(-12, 12, 601, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    pairs = torch.stack((past.expand_as(x), x), -2)  # the second frame after this first one
    density = prior.path(2).conditionals(pairs).log_prob(pairs)[:, 1].exp()
    density = density * (axis[1] - axis[0]) ** 2
    torch.testing.assert_close(density.sum().item(), 1.0, rtol=0, atol=1e-4)
    mean = density @ x
    second = torch.einsum("n,ni,nj->ij", density, x, x)
    torch.manual_seed(1)
    law = prior.path(2).conditionals(pairs[0])
    draws = law.rsample(torch.Size([20000]))[:, 1].detach()
    products = torch.einsum("ni,nj->nij", draws, draws).flatten(1)
    for values, expected in ((draws, mean), (products, second.flatten())):
        error = values.std(0) / math.sqrt(len(values))
        assert ((values.mean(0) - expected).abs() < 5 * error).all()


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_past_is_torchs_network_of_every_member(kind):
    torch.manual_seed(0)
    past = make_memory(kind, 3, 2, 5).double()
    x = torch.randn(3, 4, 6, 2, dtype=torch.float64)
    for member in range(3):
        network = {"gru": nn.GRU, "lstm": nn.LSTM}[kind](2, 5, batch_first=True).double()
        with torch.no_grad():
            for weight, ours in zip(network.parameters(), past.weights(member), strict=True):
                weight.copy_(ours)
        expected = network(x[member])[0]
        torch.testing.assert_close(past(x)[member, :, 1:], expected[:, :-1])
        assert not past(x)[member, :, 0].any(), "e_1 is zero"


@pytest.mark.parametrize("cls", [TVNF, TVGMM])
@pytest.mark.parametrize("past", ["gru", "lstm", "convolution"])
def test_several_members_are_as_many_single_models(cls, past):
    more = {"num_components": 2} if cls is TVGMM else {"mixing": True}
    several = built(cls, source_dim=2, num_members=3, memory=past, **more)
    path = several.path(5)
    assert path.batch_shape == (3,)
    x = path.rsample((4,)).detach()
    shared = x[:, :1]  # the same sequences under every member, as a classifier asks
    for member in range(3):
        single = built(cls, source_dim=2, memory=past, **more)
        single.load_state_dict({k: v[member : member + 1] for k, v in several.state_dict().items()})
        law = single.path(5)
        torch.testing.assert_close(path.log_prob(x)[:, member], law.log_prob(x[:, member]))
        torch.testing.assert_close(path.log_prob(shared)[:, member], law.log_prob(shared[:, 0]))
    with pytest.raises(ShapeError, match="one entry for each of the members"):
        several.path(5, batch_shape=torch.Size([2]))


def example_start(dim, *batch_shape):
    generator = torch.Generator().manual_seed(2)
    loc = torch.randn(*batch_shape, dim, generator=generator, dtype=torch.float64)
    return Anchor(loc, 0.1 + torch.rand(loc.shape, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("spec", FLOWS, ids=str)
def test_an_anchored_path_is_the_anchor_and_then_the_flow(spec):
    prior, anchor = built(TVNF, **spec), example_start(spec["source_dim"], 3)
    path = prior.path(6, anchor=anchor)
    noise = path.noise((20,))
    s = path.roll_out(noise)
    torch.testing.assert_close(s[:, :, 0], anchor.loc + anchor.variance.sqrt() * noise[:, :, 0])
    torch.testing.assert_close(path.noise_of(s), noise, rtol=0, atol=1e-10)
    start = dist.Normal(anchor.loc, anchor.variance.sqrt()).to_event(1).log_prob(s[:, :, 0])
    own = prior.path(6, batch_shape=torch.Size([3])).log_prob_by_frame(s)
    torch.testing.assert_close(path.log_prob(s), start + own[..., 1:].sum(-1))


@pytest.mark.parametrize("cls, more", [
    (TVNF, {}), (TVNF, {"coupling": "spline"}), (TVGMM, {}), (TVGMM, {"num_components": 3}),
])
def test_frames_of_an_anchored_path_are_drawn_as_they_are_weighed(cls, more):
    """Importance weights of the frames' draws under another start and law average to one."""
    anchor = example_start(2)
    path = built(cls, source_dim=2, **more).path(3, anchor=anchor)
    torch.manual_seed(0)
    law = path.conditionals(path.rsample())
    draws = law.rsample(torch.Size([4000])).detach()
    assert draws.shape == (4000, 3, 2)
    centre, spread = draws.mean(0), draws.std(0)
    other = dist.Normal(centre, 0.7 * spread).to_event(1)
    ratio = (other.log_prob(draws) - law.log_prob(draws)).exp()
    error = ratio.std(0) / math.sqrt(len(draws))
    assert ((ratio.mean(0) - 1).abs() < 5 * error).all()
    assert ((centre[0] - anchor.loc).abs() < 5 * anchor.variance.sqrt() / math.sqrt(4000)).all()


def test_moments_of_an_anchored_flow_are_no_formula():
    law = built(TVNF, source_dim=2).path(3, anchor=example_start(2)).conditionals(
        torch.zeros(3, 2, dtype=torch.float64)
    )
    with pytest.raises(NotImplementedError):
        _ = law.mean


def mixture(requires_grad=False):
    torch.manual_seed(3)
    parts = (torch.randn(3), torch.randn(3, 2), torch.rand(3, 2) + 0.3)
    return [p.double().requires_grad_(requires_grad) for p in parts]


def test_mixture_is_pyros():
    logits, loc, scale = mixture()
    x = torch.randn(50, 2, dtype=torch.float64)
    components = dist.Normal(loc, scale).to_event(1)
    expected = dist.MixtureSameFamily(dist.Categorical(logits=logits), components)
    ours = DiagonalMixture(logits, loc, scale)
    torch.testing.assert_close(ours.log_prob(x), expected.log_prob(x))
    torch.testing.assert_close(ours.mean, expected.mean)
    torch.testing.assert_close(ours.variance, expected.variance)


def test_gradient_through_draws_of_a_mixture_is_that_of_its_moments():
    """E[x_1 x_2] = sum_m w_m mu_m1 mu_m2, and E[x_1^2], by hand: their gradients in closed form."""
    parts = mixture(requires_grad=True)
    weights = parts[0].softmax(-1)
    exact = (weights * (parts[1].prod(-1) + parts[2][:, 0] ** 2 + parts[1][:, 0] ** 2)).sum()
    expected = torch.autograd.grad(exact, parts)
    torch.manual_seed(0)
    num_batches, gradients = 200, []
    for _ in range(num_batches):
        x = DiagonalMixture(*parts).rsample(torch.Size([500]))
        value = (x.prod(-1) + x[:, 0] ** 2).mean()
        gradients.append(torch.autograd.grad(value, parts))
    for drawn, wanted in zip(zip(*gradients, strict=True), expected, strict=True):
        drawn = torch.stack(drawn)
        error = drawn.std(0) / math.sqrt(num_batches)
        assert ((drawn.mean(0) - wanted).abs() < 5 * error + 1e-12).all()


def test_a_trajectory_of_a_mixture_does_not_tell_its_noise():
    path = built(TVGMM, num_components=2).path(3)
    with pytest.raises(NotImplementedError, match="take one component"):
        path.noise_of(path.sample())


def test_one_component_sends_a_message_and_the_others_say_what_to_do():
    anchor = example_start(2)
    s = torch.zeros(1, 3, 2, dtype=torch.float64)
    message = built(TVGMM, source_dim=2).gaussian_message(s, anchor=anchor)
    assert message.offset.shape == (1, 3, 2, 1)
    for prior in (built(TVGMM, source_dim=2, num_components=2), built(TVNF, source_dim=2)):
        assert prior.takes_anchor and not prior.has_gaussian_message
        name = type(prior).__name__
        with pytest.raises(NotImplementedError, match=f"{name}.*'svi' with elbo 'trace_enum'"):
            prior.gaussian_message(s, anchor=anchor)


@pytest.mark.parametrize("spec, words", [
    ({"coupling": "cubic"}, "unknown coupling 'cubic'"),
    ({"memory": "grru"}, "did you mean 'gru'"),
    ({"source_dim": 2, "split": 2}, "split: given 2; expected 1 to 1"),
    ({"num_layers": 0}, "num_layers: given 0"),
    ({"source_dim": 0}, "source_dim: given 0"),
])
def test_what_does_not_fit_is_refused(spec, words):
    with pytest.raises(SpecError, match=words):
        TVNF(**spec)
