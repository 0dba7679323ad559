"""Temporal NMF: the updates descend to a stationary point, and what a price on steps does."""

import itertools

import pytest
import torch

from pyromodels.experiments.separation.assigner import distortion_db
from pyromodels.experiments.separation.baselines.nmf import NMF, divergence, factorise
from pyromodels.experiments.separation.baselines.temporal_nmf import (
    TemporalNMF,
    go_on,
    objective,
    prices_of,
)


@pytest.fixture
def parts():
    """Return X (F, B, T), W (F, K) and H (K, B, T), all positive."""
    torch.manual_seed(0)
    x, w, h = (torch.rand(*shape, dtype=torch.float64) + 0.05
               for shape in ((12, 2, 9), (12, 4), (4, 2, 9)))
    return x, w / w.sum(0), h


@pytest.mark.parametrize("continuity", [0.1, 3.0, 100.0])
def test_every_update_lowers_the_objective(parts, continuity):
    x, w, h = parts
    prices = prices_of(h, continuity)
    values = [objective(x, w, h, prices)]
    for _ in range(40):
        h = go_on(x, w, h, prices, 1)
        values.append(objective(x, w, h, prices))
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(values)) and values[-1] < values[0]


def test_updates_end_where_the_objective_has_no_slope(parts):
    x, w, h = parts
    prices = prices_of(h, 0.3)
    slopes = []
    for at in (h, go_on(x, w, h, prices, 600)):
        at = at.clone().requires_grad_()
        (slope,) = torch.autograd.grad(objective(x, w, at, prices), at)
        slopes.append((slope * at).abs().max())  # zero at an activation of zero too
    assert slopes[1] < 1e-3 * slopes[0]


def test_the_objective_is_the_divergence_and_the_steps(parts):
    x, w, h = parts
    prices = prices_of(h, 2.0)
    steps = sum(
        prices[k, b, 0] * (h[k, b, t] - h[k, b, t - 1]) ** 2
        for k, b, t in itertools.product(range(4), range(2), range(1, 9))
    )
    model = torch.stack([w @ h[:, b] for b in range(2)], 1)
    torch.testing.assert_close(objective(x, w, h, prices), divergence(x, model) + steps)
    expected = 2.0 * h[1, 0].mean() / h[1, 0].square().mean()
    torch.testing.assert_close(prices[1, 0, 0], expected)


@pytest.mark.parametrize("num_frames", [1, 9])
def test_without_a_price_it_is_plain_factorisation(parts, num_frames):
    x, w, h = parts
    x, h = x[..., :num_frames], h[..., :num_frames]
    plain = factorise(x.flatten(1), w, h.flatten(1), 5, learn_dictionary=False)[1]
    torch.testing.assert_close(go_on(x, w, h, prices_of(h, 0.0), 5).flatten(1), plain)


def test_a_high_price_leaves_no_steps(parts):
    x, w, h = parts
    made = go_on(x, w, h, torch.full((4, 2, 1), 1e3, dtype=torch.float64), 300)
    assert made.std(-1).max() < 2e-2 * made.mean() < 0.1 * h.std(-1).min()


def test_what_lasts_is_taken_apart_better_than_frame_by_frame():
    torch.manual_seed(0)
    shapes = torch.rand(2, 33).add(0.3)  # alike, so that a single frame hardly tells them apart
    level = torch.tensor([[1.0, 0.3], [0.1, 0.3]]).repeat_interleave(30, 1)
    mixed = torch.stack([
        level[n, :, None] * shapes[n] * torch.randn(60, 33, dtype=torch.complex64) for n in range(2)
    ])[None]
    learnt = NMF(
        [shape * torch.randn(400, 33, dtype=torch.complex64) for shape in shapes],
        num_atoms=1, updates=30,
    )
    plain, lasting = (
        distortion_db((masks + 1e-9).log().movedim(1, -1), mixed).item()
        for masks in (method.masks(mixed.sum(1)) for method in (learnt, TemporalNMF(learnt)))
    )
    assert lasting < plain - 0.5


def test_loudness_and_silence():
    torch.manual_seed(0)
    spectra = torch.randn(2, 1, 12, 9, dtype=torch.complex64)
    method = TemporalNMF(NMF([part[0] for part in spectra], num_atoms=3, updates=5))
    mixture = spectra.sum(0)
    torch.testing.assert_close(
        method.masks(mixture), method.masks(50 * mixture), atol=1e-3, rtol=1e-3
    )
    silent = method.masks(torch.zeros_like(mixture))
    assert silent.shape == (1, 2, 12, 9) and silent.isfinite().all()
