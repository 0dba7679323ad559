"""Numbers about draws, against closed forms and cases whose answer is known."""

import sys
import types

import arviz
import numpy as np
import pytest
import torch
from scipy import stats

from pyromodels.errors import ShapeError
from pyromodels.inference.adequacy.statistics import (
    align_sources,
    compare_moments,
    crps,
    importance_gap,
    interval_coverage,
    mixture_pit,
    pareto_k,
    pareto_k_threshold,
    rhat,
    uniform_ranks,
    uniformity,
)
from pyromodels.inference.posterior import arviz_io

RNG = np.random.default_rng


def gaussian_log_weights(ratio, num_draws=20_000, seed=0):
    """log N(x; 0, 1) - log N(x; 0, ratio^2) at draws of the latter."""
    x = ratio * RNG(seed).normal(size=num_draws)
    return stats.norm.logpdf(x) - stats.norm.logpdf(x, scale=ratio)


@pytest.mark.parametrize("variance_ratio", [0.5, 0.7, 0.9])
def test_pareto_k_of_a_gaussian_too_narrow_is_one_minus_the_variance_ratio(variance_ratio):
    # w ~ exp(a x^2 / 2) with a = 1 / r - 1: P(w > c) ~ c^(-1 / (1 - r)) up to logarithms
    k = np.mean([pareto_k(gaussian_log_weights(variance_ratio**0.5, seed=s)) for s in range(5)])
    assert abs(k - (1 - variance_ratio)) < 0.12


def test_pareto_k_of_equal_weights_is_zero_and_of_each_sequence_its_own():
    weights = np.stack((np.full(500, 3.0), gaussian_log_weights(0.4, 500)), -1)
    k = pareto_k(torch.from_numpy(weights))
    assert k.shape == (2,) and k[0] == 0 and k[1] > 0.6


def test_pareto_k_of_a_tail_of_ties():
    mild = np.where(np.arange(1000) < 3, 0.5, 0.0)
    heavy = np.where(np.arange(1000) < 1, 20.0, 0.0)
    assert pareto_k(mild) == 0 and pareto_k(heavy) == np.inf


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pareto_k_refuses_what_is_no_weight(value):
    with pytest.raises(ValueError, match="NaN or"):
        pareto_k(np.array([value] + [0.0] * 50))


def test_weights_of_zero_have_no_part_in_the_tail_but_make_the_gap_infinite():
    weights = np.stack((gaussian_log_weights(0.4, 500), np.zeros(500), np.zeros(500)), -1)
    expected = pareto_k(weights)
    weights[np.argsort(weights[:, 0])[:50]] = -np.inf
    weights[:, 2] = -np.inf
    np.testing.assert_allclose(pareto_k(weights), [expected[0], 0, np.inf], atol=1e-6)
    gap = importance_gap(np.stack((weights[:, 1], np.zeros(500)), -1))
    np.testing.assert_array_equal(gap.value, [np.inf, 0])
    np.testing.assert_array_equal(gap.error, 0)


def test_thresholds_of_vehtari_and_others():
    assert pareto_k_threshold(100) == pytest.approx(0.5)
    assert pareto_k_threshold(10**6) == 0.7


def test_arviz_1_takes_log_likelihoods(monkeypatch):
    """Its `psislw` negates what it is given; the sign is ours to turn."""
    seen = {}

    def psislw(values):
        seen["given"] = values
        return values, np.zeros(len(values))

    base = types.ModuleType("arviz_stats.base")
    base.array_stats = types.SimpleNamespace(psislw=psislw)
    monkeypatch.setitem(sys.modules, "arviz_stats", types.ModuleType("arviz_stats"))
    monkeypatch.setitem(sys.modules, "arviz_stats.base", base)
    one = types.SimpleNamespace(__version__="1.0.0")
    monkeypatch.setattr(arviz_io, "import_arviz", lambda: one)
    weights = np.arange(6.0).reshape(2, 3)
    assert arviz_io.pareto_shape(weights).shape == (2,)
    np.testing.assert_array_equal(seen["given"], -weights)


def test_importance_gap_tends_to_the_divergence():
    ratio = 0.8
    gap = importance_gap(gaussian_log_weights(ratio, 200_000), num_particles=2000)
    divergence = 0.5 * (ratio**2 - 1) - np.log(ratio)  # KL(q || p)
    assert abs(gap.value - divergence) < 5 * gap.error + 2e-3
    few = importance_gap(gaussian_log_weights(ratio, 200_000), num_particles=2)
    assert 0 < few.value < gap.value


def test_importance_gap_of_equal_weights_is_zero():
    gap = importance_gap(np.full((100, 3), -7.0))
    np.testing.assert_allclose(gap.value, 0, atol=1e-12)


def test_rhat_is_one_for_one_law_and_sees_a_fit_that_is_elsewhere():
    draws = RNG(0).normal(size=(4, 500, 2))
    draws[3, :, 1] += 1.0
    good, bad = rhat(draws)
    assert good < 1.02 and bad > 1.1
    assert good == pytest.approx(float(arviz.rhat(draws[..., 0])))
    assert np.isnan(rhat(np.zeros((2, 10))))
    assert rhat(np.repeat([[0.0], [1.0]], 10, axis=1)) == np.inf
    coin = RNG(1).integers(0, 2, (4, 500))
    assert rhat(coin) < 1.02


def test_align_sources_undoes_a_permutation():
    loc = RNG(0).normal(size=(1, 4, 5, 2))
    order = np.array([2, 0, 3, 1])
    found = align_sources(np.concatenate((loc, loc[:, order])))
    np.testing.assert_array_equal(found[0], range(4))
    np.testing.assert_array_equal(order[found[1]], range(4))


@pytest.mark.parametrize("discrete", [False, True])
def test_ranks_of_an_exact_posterior_are_uniform(discrete):
    rng = RNG(1)
    truth, draws = rng.normal(size=2000), rng.normal(size=(99, 2000))
    if discrete:
        truth, draws = truth > 0.7, draws > 0.7
    ranks = uniform_ranks(truth, draws)
    assert (ranks > 0).all() and (ranks < 1).all()
    assert uniformity(ranks).p_value > 0.01


@pytest.mark.parametrize(
    ("shift", "scale", "bias", "dispersion"),
    [(0, 1, 0, 0), (0.5, 1, 1, 0), (-0.5, 1, -1, 0), (0, 1.5, 0, 1), (0, 0.7, 0, -1)],
)
def test_asymmetry_and_u_shape_are_told_apart(shift, scale, bias, dispersion):
    """Truth N(shift, scale^2), posterior N(0, 1)."""
    ranks = stats.norm.cdf(shift + scale * RNG(2).normal(size=400))
    test = uniformity(ranks)
    assert np.sign(test.bias) * (abs(test.bias) > 4) == bias
    assert np.sign(test.dispersion) * (abs(test.dispersion) > 4) == dispersion
    assert (test.p_value < 0.01) == bool(bias or dispersion)
    assert (test.chi_square_p < 0.01) == bool(bias or dispersion)


def test_uniformity_has_its_level():
    p = np.array([uniformity(RNG(s).uniform(size=100)).p_value for s in range(1000)])
    assert (p < 0.05).mean() < 0.05 + 5 * np.sqrt(0.05 * 0.95 / 1000)


def test_coverage_counts_central_intervals():
    ranks = np.array([0.5, 0.3, 0.2, 0.96, 0.999])
    found = interval_coverage(ranks)
    assert [found[level].value for level in (0.5, 0.8, 0.95)] == [0.4, 0.6, 0.8]
    assert found[0.5].error == pytest.approx(np.sqrt(0.25 / 5))


def test_pit_of_a_mixture_and_crps_of_a_gaussian_are_the_closed_forms():
    loc = torch.tensor([[-1.0], [1.0]])
    pit = mixture_pit(torch.tensor([0.3]), loc, torch.tensor(0.5))
    np.testing.assert_allclose(pit, [stats.norm.cdf([2.6, -1.4]).mean()])
    draws, observed = RNG(3).normal(size=(20_000, 1)), np.array([0.7])
    expected = 0.7 * (2 * stats.norm.cdf(0.7) - 1) + 2 * stats.norm.pdf(0.7) - 1 / np.sqrt(np.pi)
    np.testing.assert_allclose(crps(draws, observed), expected, atol=0.02)


def test_moments_are_in_units_of_the_reference():
    rng = RNG(4)
    found = compare_moments(1 + rng.normal(size=(50_000, 1)), 2 * rng.normal(size=(50_000, 1)))
    np.testing.assert_allclose([found.shift[0], found.ratio[0]], [0.5, 0.5], atol=0.03)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pareto_k(np.zeros(5)), "log_weights: given shape"),
        (lambda: rhat(np.zeros((1, 50))), "2 or more fits"),
        (lambda: align_sources(np.zeros((2, 3, 4))), "fits, N, T, D"),
        (lambda: uniform_ranks(np.zeros(3), np.zeros((9, 4))), "truth: given shape"),
        (lambda: crps(np.zeros((1, 2)), np.zeros(2)), "2 or more draws"),
        (lambda: compare_moments(np.zeros((5, 2)), np.zeros((5, 3))), "reference: given shape"),
    ],
)
def test_shapes_that_do_not_fit_are_named(call, words):
    with pytest.raises(ShapeError, match=words):
        call()


@pytest.mark.parametrize("ranks", [np.full(5, 0.5), np.full(50, 1.5)])
def test_uniformity_refuses_too_few_and_what_is_no_rank(ranks):
    with pytest.raises(ValueError, match="ranks: given"):
        uniformity(ranks)
