"""Langevin dynamics: stationary laws in closed form, mixtures, limits, chains that get lost."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyromodels.densities.base import SmoothedDensity
from pyromodels.densities.gaussian import GaussianDensity
from pyromodels.densities.independent import IndependentSources
from pyromodels.errors import ShapeError
from pyromodels.inference.engines.langevin import Langevin, Schedule, anneal, draw
from pyromodels.inference.engines.langevin_program import ProgramDensity, sample_langevin
from pyromodels.inference.engines.mixing import ExactMixing, PrintedMixing, SoftMixing
from pyromodels.inference.posterior import arviz_io
from pyromodels.inference.posterior.posterior import Posterior

STD = 1.5
MEANS, STDS, WEIGHTS = (0.3, -0.2), (1.0, 0.5), torch.tensor([0.5, 0.8], dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float64)


def after(kernel, position, num_steps, seed=0):
    state, generator = kernel.init(position), seeded(seed)
    for _ in range(num_steps):
        state, info = kernel.step(state, generator)
    return state, info


def check_variance(x, expected):
    """Within five standard errors of a variance."""
    assert abs(x.var() / expected - 1) < 5 * math.sqrt(2 / x.numel())
    assert abs(x.mean() - 0.4) < 5 * math.sqrt(expected / x.numel())


# ---- one level, one Gaussian


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("share", [0.1, 0.8])
def test_unadjusted_has_its_known_bias_and_adjusted_none(share, temperature):
    """Of N(0.4, s^2), x' = x (1 - eta / s^2) + ...: variance tau s^2 / (1 - eta / 2 s^2)."""
    density, step = GaussianDensity(mean=0.4, std=STD), share * STD**2
    kernel = Langevin(density, step, temperature=temperature)
    state, _ = after(kernel, zeros(20000, 1), 80)
    check_variance(state.position, temperature * STD**2 / (1 - share / 2))
    adjusted = Langevin(density, step, temperature=temperature, adjusted=True)
    state, info = after(adjusted, zeros(20000, 1), 80)
    check_variance(state.position, temperature * STD**2)
    assert 0.5 < info.acceptance.mean() <= 1


def test_noise_of_the_level_widens_the_law():
    kernel = Langevin(GaussianDensity(mean=0.4, std=STD), 1.0, noise_std=2.0, adjusted=True)
    state, _ = after(kernel, zeros(20000, 1), 60)
    check_variance(state.position, STD**2 + 4)


def test_adjusted_keeps_a_law_that_is_no_gaussian():
    class Quartic(SmoothedDensity):
        def log_prob(self, x, noise_std=0.0):
            return -x.pow(4).sum(-1)

    state, _ = after(Langevin(Quartic(), 0.2, adjusted=True), zeros(20000, 2), 60)
    expected = math.gamma(0.75) / math.gamma(0.25)  # E x^2
    spread = math.sqrt((0.25 - expected**2) / 40000)  # E x^4 is 1 / 4
    assert abs(state.position.square().mean() - expected) < 5 * spread


def test_zero_temperature_is_gradient_ascent():
    density, x = GaussianDensity(mean=0.4, std=STD), torch.randn(3, 4, generator=seeded())
    state, _ = after(Langevin(density, 0.1, temperature=0.0), x, 5)
    for _ in range(5):
        x = x + 0.1 * (0.4 - x) / STD**2
    torch.testing.assert_close(state.position, x)


@pytest.mark.parametrize("adjusted", [False, True])
def test_steps_are_pure_and_come_again(adjusted):
    kernel = Langevin(GaussianDensity(), 0.3, adjusted=adjusted)
    state = kernel.init(torch.ones(5, 2, 3))
    first, _ = kernel.step(state, seeded())
    again, _ = kernel.step(state, seeded())
    assert torch.equal(state.position, torch.ones(5, 2, 3))
    assert torch.equal(first.position, again.position)
    other, _ = kernel.step(state, seeded(1))
    assert not torch.equal(first.position, other.position)


# ---- sources that add up


def sources() -> IndependentSources:
    return IndependentSources([GaussianDensity(mean=m, std=s)
                               for m, s in zip(MEANS, STDS, strict=True)])


def closed_form(mixture, noise_std):
    """Mean (N, d) and covariance (N, N) of the sources given m, coordinate by coordinate."""
    prior = torch.diag(torch.tensor(STDS, dtype=torch.float64).square())
    mean = torch.tensor(MEANS, dtype=torch.float64)
    gain = prior @ WEIGHTS / (WEIGHTS @ prior @ WEIGHTS + noise_std**2)
    covariance = prior - torch.outer(gain, WEIGHTS @ prior)
    return mean[:, None] + torch.outer(gain, torch.ones(len(mixture)).double()) * (
        mixture - WEIGHTS @ mean), covariance


def mixture_of_gaussians():
    return torch.linspace(-1, 1.5, 8, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["soft", "exact"])
def test_one_level_of_a_mixture_has_the_posterior_in_closed_form(kind):
    m = mixture_of_gaussians()
    noise = 0.3 if kind == "soft" else 0.0
    mixing = (SoftMixing(m, WEIGHTS, noise_std=noise) if kind == "soft"
              else ExactMixing(m, WEIGHTS))
    kernel = Langevin(sources(), 0.03, adjusted=True, mixing=mixing)
    position = torch.randn(2000, 2, 8, generator=seeded(3), dtype=torch.float64)
    state, info = after(kernel, position, 150)
    mean, covariance = closed_form(m, noise)
    error = (covariance.diagonal()[:, None] / 2000).sqrt()
    assert ((state.position.mean(0) - mean).abs() < 5 * error).all()
    centred = state.position - mean
    found = torch.einsum("cid,cjd->ij", centred, centred) / (2000 * 8)
    bound = 5 * covariance.diagonal().max() * math.sqrt(2 / 16000)
    assert (found - covariance).abs().max() < bound
    assert info.acceptance.mean() > 0.5
    if kind == "exact":
        assert mixing.residual(state.position).abs().max() < 1e-12


@pytest.mark.parametrize("kind", [SoftMixing, ExactMixing])
def test_annealing_finds_the_posterior_of_a_linear_mixture(kind):
    """Signs and factors of the update: the longer the levels, the nearer to the closed form."""
    m = mixture_of_gaussians()
    mean, covariance = closed_form(m, 0.0)
    kernel = Langevin(sources(), 1.0, mixing=kind(m, WEIGHTS))
    schedule = Schedule.geometric(1.0, 0.01, 8, steps=200)
    state = anneal(kernel, schedule, zeros(600, 2, 8), seeded(1))
    assert (state.position.mean(0) - mean).abs().mean() < 0.03
    ratio = state.position.var(0).mean(-1) / covariance.diagonal()
    assert (abs(ratio - 1) < 0.1).all()  # of it 0.03 is noise that is left
    assert not state.diverged.any()


def test_residual_is_as_wide_as_the_noise_of_the_level():
    """At a level sigma the mixture of noisy sources is off by about sigma |alpha|."""
    m, flat = mixture_of_gaussians(), IndependentSources([GaussianDensity(std=100.0)] * 2)
    kernel = Langevin(flat, 0.001, noise_std=0.1, mixing=SoftMixing(m, WEIGHTS))
    state, _ = after(kernel, zeros(2000, 2, 8), 300)
    wide = kernel.mixing.residual(state.position).square().mean().sqrt() / 0.1
    power = WEIGHTS.square().sum()
    bias = 1 / (1 - 0.001 / (2 * 0.1**2))  # of a step without adjustment
    assert wide == pytest.approx((power * bias).sqrt().item(), rel=0.03)


@pytest.mark.parametrize("event", [(6,), (1, 3, 2)])
def test_mixings_agree_with_autograd_and_project(event):
    x = torch.randn(4, 2, *event, generator=seeded(), dtype=torch.float64, requires_grad=True)
    m = torch.randn(event, generator=seeded(1), dtype=torch.float64)
    soft = SoftMixing(m, WEIGHTS, noise_std=0.2, event_dim=len(event))
    sigma = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    (expected,) = torch.autograd.grad(soft.log_prob(x, sigma).sum(), x)
    torch.testing.assert_close(soft.score(x, sigma), expected)
    law = dist.Normal(soft.added(x), ((0.04 + sigma**2 * soft.power) ** 0.5).reshape(
        4, *[1] * len(event))).to_event(len(event))
    torch.testing.assert_close(soft.log_prob(x, sigma), law.log_prob(m))
    exact = ExactMixing(m, WEIGHTS, event_dim=len(event))
    on, v = exact.onto(x), torch.randn(x.shape, generator=seeded(2), dtype=torch.float64)
    assert exact.residual(on).abs().max() < 1e-12
    along = exact.along(v)
    assert exact.added(along).abs().max() < 1e-12
    torch.testing.assert_close(((v - along) * along).sum(), zeros().squeeze(), atol=1e-10, rtol=0)


def test_the_printed_algorithm_diverges_and_says_so():
    m = mixture_of_gaussians()
    kernel = Langevin(sources(), 1.0, temperature=2.0, mixing=PrintedMixing(m, WEIGHTS))
    schedule = Schedule.geometric(1.0, 0.01, 10, steps=100)
    state = anneal(kernel, schedule, zeros(6, 2, 8), seeded())
    assert state.diverged.all() and state.position.isfinite().all()
    with pytest.raises(NotImplementedError, match="Algorithm 1"):
        Langevin(sources(), 1.0, adjusted=True, mixing=kernel.mixing).init(zeros(6, 2, 8))


def test_what_diverges_stands_still_alone():
    """A step above twice the variance: only chains that start away from the mean get lost."""
    kernel = Langevin(GaussianDensity(std=1.0), 3.0, temperature=0.0, max_abs=100.0)
    state, info = after(kernel, torch.tensor([[0.0], [1.0], [math.nan]]), 30)
    assert state.diverged.tolist() == info.diverged.tolist() == [False, True, True]
    assert state.position[0].item() == 0 and 50 < state.position[1].abs().item() < 100


# ---- programs


def model(data):
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("rates", 2, dim=-1):
        rate = pyro.sample("rate", dist.Gamma(3.0, 2.0))
        pyro.sample("count", dist.Poisson(rate), obs=data["count"])
    pyro.sample("x", dist.Normal(mean, 1.0), obs=data["x"])


DATA = {"count": torch.tensor([4.0, 1.0]), "x": torch.tensor(1.5)}


def test_a_program_ends_in_a_posterior_that_arviz_judges():
    guide = sample_langevin(model, DATA, num_samples=60, num_warmup=100, num_chains=32, thinning=4,
                            generator=seeded())
    posterior = Posterior(model, guide, DATA)
    draws = posterior.sample()
    assert draws["rate"].shape == (1920, 2) and (draws["rate"] > 0).all()
    data, arviz = posterior.to_inference_data(), arviz_io.import_arviz()
    effective, r_hat = arviz.ess(data), arviz.rhat(data)
    for name in ("mean", "rate"):
        assert float(r_hat[name].max()) < 1.05 and float(effective[name].min()) > 300
    for value, alpha, n in zip(draws["rate"].T, 3 + DATA["count"],
                               effective["rate"].values, strict=True):
        assert abs(value.mean() - alpha / 3) < 5 * math.sqrt(alpha / 9 / n)
    mean, variance = 1.5 * 4 / 5, 4 / 5
    assert abs(draws["mean"].mean() - mean) < 5 * math.sqrt(variance / float(effective["mean"]))
    assert abs(draws["mean"].var() / variance - 1) < 5 * math.sqrt(2 / float(effective["mean"]))


def test_the_density_of_a_program_is_its_joint_in_unconstrained_coordinates():
    density = ProgramDensity(model, DATA)
    x = torch.randn(5, density.num_coordinates, generator=seeded())
    rate = x[:, 1:].exp()
    expected = (dist.Normal(0.0, 2.0).log_prob(x[:, 0]) + dist.Normal(x[:, 0], 1.0).log_prob(
        DATA["x"]) + (dist.Gamma(3.0, 2.0).log_prob(rate) + dist.Poisson(rate).log_prob(
            DATA["count"]) + x[:, 1:]).sum(-1))
    torch.testing.assert_close(density.log_prob(x), expected)
    with pytest.raises(ValueError, match="noise_std"):
        density.log_prob(x, 0.1)


def test_discrete_sites_are_summed_out():
    def program(data):
        w = pyro.sample("w", dist.Bernoulli(0.3))
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(mean + 2 * w, 1.0), obs=data)

    x = torch.tensor([[0.5], [-1.0]])
    parts = [math.log(p) + dist.Normal(x[:, 0] + 2 * w, 1.0).log_prob(torch.tensor(2.0))
             for w, p in ((0, 0.7), (1, 0.3))]
    expected = torch.stack(parts).logsumexp(0) + dist.Normal(0.0, 1.0).log_prob(x[:, 0])
    torch.testing.assert_close(ProgramDensity(program, torch.tensor(2.0)).log_prob(x), expected)


def test_r_hat_flags_chains_that_are_stuck():
    def program(data):
        x = pyro.sample("x", dist.Normal(0.0, 3.0))
        pyro.sample("y", dist.Normal(x**2, 0.1), obs=torch.tensor(2.0))  # x near 1.4 or -1.4

    guide = sample_langevin(program, None, num_samples=60, num_warmup=60, num_chains=12,
                            step_size=1e-3, generator=seeded())
    arviz = arviz_io.import_arviz()
    data = Posterior(program, guide, None).to_inference_data()
    assert float(arviz.rhat(data)["x"]) > 1.5
    assert float(arviz.ess(data)["x"]) < 60


def test_chains_that_diverge_are_told_of():
    def program(data):
        pyro.sample("x", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="4 of 4 chains diverged at step_size 5"):
        sample_langevin(program, None, num_samples=5, num_warmup=20, adjusted=False,
                        step_size=5.0, generator=seeded())


# ---- schedules, draws and refusals


def test_a_schedule_goes_down_and_steps_as_it_says():
    schedule = Schedule((1.0, 0.5), steps=(2, 3), rate=0.1)
    assert schedule.levels() == [(1.0, 0.1, 2), (0.5, 0.025, 3)]
    assert Schedule.geometric(0.5, 0.01, 1).noise_std == (0.5,)
    kernel = Langevin(GaussianDensity(), 1.0, temperature=0.0)
    state = anneal(kernel, schedule, torch.ones(1, 1), seeded())
    expected = (1 - 0.1 / 2) ** 2 * (1 - 0.025 / 1.25) ** 3
    assert state.position.item() == pytest.approx(expected)


def test_draws_are_every_so_many_steps():
    kernel = Langevin(GaussianDensity(), 0.1, temperature=0.0)
    drawn = draw(kernel, kernel.init(torch.ones(2, 1)), 3, seeded(), thinning=2)
    assert drawn.positions[:, 0, 0].tolist() == pytest.approx([0.9**2, 0.9**4, 0.9**6])
    assert drawn.acceptance.shape == (3, 2) and (drawn.acceptance == 1).all()


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Langevin(GaussianDensity(), 0.0), ValueError, "step_size"),
        (lambda: Langevin(GaussianDensity(), 1.0, temperature=-1.0), ValueError, "temperature"),
        (lambda: Langevin(GaussianDensity(), 1.0, temperature=0.0, adjusted=True), ValueError,
         "nothing to accept"),
        (lambda: Schedule((0.1, 0.2)), ValueError, "descending"),
        (lambda: Schedule((0.2, 0.1), steps=(1,)), ValueError, "each of 2 levels"),
        (lambda: Schedule.geometric(1.0, 0.1, 0), ValueError, "num_levels"),
        (lambda: SoftMixing(torch.ones(3), torch.zeros(2)), ValueError, "weights"),
        (lambda: SoftMixing(torch.ones(3), torch.ones(2), noise_std=-1.0), ValueError, "noise_std"),
        (lambda: ExactMixing(torch.ones(()), torch.ones(2)), ShapeError, "mixture"),
        (lambda: ExactMixing(torch.ones(3), torch.ones(2, 1)), ShapeError, "weights"),
        (lambda: IndependentSources([]), ShapeError, "densities"),
        (lambda: sources().score(torch.zeros(3, 8)), ShapeError, "x: given shape"),
        (lambda: sample_langevin(model, DATA, num_chains=0), ValueError, "num_chains"),
        (lambda: sample_langevin(model, DATA, initial={"y": torch.ones(1)}), ValueError, "init"),
        (lambda: draw(Langevin(GaussianDensity(), 1.0), None, 0, None), ValueError, "num_draws"),
    ],
)
def test_refusals(make, error, words):
    with pytest.raises(error, match=words):
        make()
