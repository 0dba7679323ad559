"""Coordinate ascent knows no model: two Gaussian factors of a program of the test's own."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyromodels.guides.free_form import FreeForm
from pyromodels.inference.engines.coordinate_ascent import CoordinateAscent, Update

NOISE = 0.5
X = torch.tensor([1.0, -2.0, 0.3])


class Sum(nn.Module):
    """a ~ N(0, 1), b ~ N(0, 2^2), x | a, b ~ N(a + b, NOISE), one of each for each sequence."""

    def forward(self, x):
        with pyro.plate("batch", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(0.0, 2.0))
            pyro.sample("x", dist.Normal(a + b, NOISE**0.5), obs=x)


class Independent(FreeForm):
    """q(a) q(b): each a mean and a variance, (B, 2)."""

    factors = {"a": "_a", "b": "_b"}

    def __init__(self, num_sequences):
        super().__init__()
        start = torch.tensor([0.0, 1.0], dtype=torch.float64).repeat(num_sequences, 1)
        self.register_buffer("_a", start)
        self.register_buffer("_b", start.clone())

    a = property(lambda self: self._a, lambda self, value: setattr(self, "_a", value))
    b = property(lambda self: self._b, lambda self, value: setattr(self, "_b", value))

    def between(self, factor, old, new, rate):
        precision = torch.lerp(1 / old[:, 1], 1 / new[:, 1], rate)
        information = torch.lerp(old[:, 0] / old[:, 1], new[:, 0] / new[:, 1], rate)
        return torch.stack((information / precision, 1 / precision), -1)


def update_a(model, guide, x):
    precision = 1 + 1 / NOISE
    mean = (x - guide.b[:, 0]) / NOISE / precision
    guide.a = torch.stack((mean, torch.full_like(mean, 1 / precision)), -1)


def update_b(model, guide, x):
    precision = 1 / 4 + 1 / NOISE
    mean = (x - guide.a[:, 0]) / NOISE / precision
    guide.b = torch.stack((mean, torch.full_like(mean, 1 / precision)), -1)


def prior_part(factor, variance):
    """E_q[log p - log q] of one factor."""
    q = dist.Normal(factor[:, 0], factor[:, 1].sqrt())
    return -torch.distributions.kl_divergence(q, dist.Normal(0.0, variance**0.5))


def bound(model, guide, x, *, known=None):
    known = known or {}
    square = (x - guide.a[:, 0] - guide.b[:, 0]).square() + guide.a[:, 1] + guide.b[:, 1]
    normalised = -0.5 * torch.log(torch.tensor(2 * torch.pi * NOISE, dtype=torch.float64))
    likelihood = normalised - 0.5 * square / NOISE
    first = known["a"] if "a" in known else prior_part(guide.a, 1.0)
    return likelihood + first + prior_part(guide.b, 4.0)


def ascent(x=X, updates=(update_a, update_b), **options):
    return CoordinateAscent(Sum(), Independent(len(x)), updates, bound=bound, **options)


def exact_mean(x):
    """E[a | x], E[b | x]: shares of x by variance."""
    return x * 1 / (1 + 4 + NOISE), x * 4 / (1 + 4 + NOISE)


@pytest.mark.parametrize("damping", [1.0, 0.5])
def test_it_ends_at_the_exact_means_and_the_conditional_variances(damping):
    engine, x = ascent(damping=damping), X.double()
    made = engine.run(x, 500, tolerance=1e-13)
    assert 10 < made < 500
    for factor, mean, precision in zip(
        (engine.guide.a, engine.guide.b), exact_mean(x), (1 + 1 / NOISE, 1 / 4 + 1 / NOISE),
        strict=True,
    ):
        torch.testing.assert_close(factor[:, 0], mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(factor[:, 1], torch.full_like(x, 1 / precision))


def test_the_first_sweeps_are_those_by_hand():
    engine, x = ascent(), X.double()
    a = b = torch.zeros_like(x)
    for _ in range(3):
        engine.step(x)
        a = (x - b) / (1 + NOISE)
        b = (x - a) / (1 + NOISE / 4)
        torch.testing.assert_close(engine.guide.a[:, 0], a)
        torch.testing.assert_close(engine.guide.b[:, 0], b)


def test_the_bound_rises_to_the_evidence_less_the_divergence():
    engine, x = ascent(), X.double()
    trace = [engine.elbo(x)]
    for _ in range(200):
        loss = engine.step(x)
        trace.append(engine.elbo(x))
        assert loss == pytest.approx(-trace[-1].sum().item())
    assert (torch.stack(trace).diff(dim=0) > -1e-12).all()
    evidence = dist.Normal(0.0, (1 + 4 + NOISE) ** 0.5).log_prob(x)
    precision = torch.tensor([[1 + 1 / NOISE, 1 / NOISE], [1 / NOISE, 1 / 4 + 1 / NOISE]]).double()
    gap = 0.5 * (precision.diagonal().log().sum() - precision.logdet())  # KL of the best product
    torch.testing.assert_close(trace[-1], evidence - gap, rtol=1e-9, atol=1e-9)


def test_half_a_step_is_half_way_in_natural_parameters():
    whole, half = ascent(updates=[update_a]), ascent(updates=[update_a], damping=0.5)
    x = X.double()
    for engine in (whole, half):
        engine.sweep(x)
    start = torch.tensor([0.0, 1.0]).double()
    for moment in (lambda q: 1 / q[..., 1], lambda q: q[..., 0] / q[..., 1]):
        middle = (moment(start) + moment(whole.guide.a)) / 2
        torch.testing.assert_close(moment(half.guide.a), middle)




class Settled(Update):
    """An update that leaves the model as it is."""

    changes_model = False

    def __init__(self, update, parts=None):
        self.update, self.parts = update, parts

    def __call__(self, model, guide, batch):
        self.update(model, guide, batch)
        return self.parts


def test_a_known_part_is_kept_while_what_it_depends_on_stays():
    x, part = X.double(), {"a": torch.ones(3)}
    keeping = [Settled(update_a, part), Settled(update_b)]
    assert ascent(updates=keeping, depends_on={"a": ["a"]}).sweep(x) == part
    assert ascent(updates=keeping).sweep(x) == {}  # it might depend on b
    undone = [*keeping, Settled(update_a)]
    assert ascent(updates=undone, depends_on={"a": ["a"]}).sweep(x) == {}
    moved = [Settled(update_a, part), update_b]  # which may change the model
    assert ascent(updates=moved, depends_on={"a": ["a"]}).sweep(x) == {}
    assert ascent(updates=keeping, depends_on={"a": ["a"]}, damping=0.5).sweep(x) == {}


def test_a_state_dict_goes_on_to_the_same_bits():
    x = X.double()
    whole, first, second = ascent(), ascent(), ascent()
    for engine, steps in ((whole, 5), (first, 2)):
        for _ in range(steps):
            engine.step(x)
    second.load_state_dict(first.state_dict())
    for _ in range(3):
        second.step(x)
    assert torch.equal(second.guide.a, whole.guide.a)
    assert torch.equal(second.guide.b, whole.guide.b)
