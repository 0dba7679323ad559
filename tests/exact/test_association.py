"""Marginal data association against the sum over all one-to-one pairings."""

import itertools

import pytest
import torch

from pyromodels.inference.mixture.belief_propagation import association_marginals

CLOSE = {"atol": 1e-10, "rtol": 1e-9}


def exact_marginals(log_odds, mask):
    """p(w_k = n) by enumeration: every detection takes a source or clutter, no source twice."""
    num_detections, num_sources = log_odds.shape
    total = torch.zeros((), dtype=torch.float64)
    table = torch.zeros(num_detections, num_sources + 1, dtype=torch.float64)
    for choice in itertools.product(range(num_sources + 1), repeat=num_detections):
        taken = [n for n in choice if n < num_sources]
        absent = any(n < num_sources and not seen for n, seen in zip(choice, mask, strict=True))
        if len(set(taken)) < len(taken) or absent:
            continue
        score = sum(log_odds[k, n] for k, n in enumerate(choice) if n < num_sources)
        weight = torch.as_tensor(score, dtype=torch.float64).exp()
        total += weight
        table[range(num_detections), list(choice)] += weight
    return table / total * mask.unsqueeze(-1)


def all_seen(num_detections):
    return torch.ones(num_detections, dtype=torch.bool)


@pytest.mark.parametrize(("num_detections", "num_sources"), [(1, 1), (1, 4), (5, 1)])
def test_exact_where_the_graph_is_a_tree(num_detections, num_sources):
    torch.manual_seed(0)
    log_odds = 4 * torch.randn(num_detections, num_sources, dtype=torch.float64)
    mask = all_seen(num_detections)
    torch.testing.assert_close(
        association_marginals(log_odds, mask), exact_marginals(log_odds, mask), **CLOSE
    )


@pytest.mark.parametrize("seed", range(10))
def test_close_to_exact_in_ambiguous_scenes(seed):
    # loopy: no bound in general. Within 0.05 on these, whose odds are those of crossing people
    torch.manual_seed(seed)
    log_odds = 2 * torch.randn(4, 3, dtype=torch.float64)
    mask = all_seen(4)
    difference = association_marginals(log_odds, mask, 100) - exact_marginals(log_odds, mask)
    assert difference.abs().max() < 0.05


def test_clear_scenes_are_assigned_one_to_one():
    # both detections are nearest to source 0, but together they fit only one way
    log_odds = torch.tensor([[30.0, 5.0], [20.0, 15.0]], dtype=torch.float64)
    marginals = association_marginals(log_odds, all_seen(2))
    torch.testing.assert_close(marginals, exact_marginals(log_odds, all_seen(2)), atol=1e-4, rtol=0)
    assert marginals.argmax(-1).tolist() == [0, 1]


def test_masked_detections_get_nothing_and_change_nothing():
    torch.manual_seed(1)
    log_odds = 3 * torch.randn(4, 3, dtype=torch.float64)
    mask = torch.tensor([True, False, True, False])
    marginals = association_marginals(log_odds, mask)
    assert not marginals[~mask].any()
    torch.testing.assert_close(
        marginals[mask], association_marginals(log_odds[mask], all_seen(2)), **CLOSE
    )


def test_permuting_detections_or_sources_permutes_the_marginals():
    torch.manual_seed(2)
    log_odds = 3 * torch.randn(2, 5, 3, dtype=torch.float64)
    mask = torch.rand(2, 5) < 0.7
    marginals = association_marginals(log_odds, mask)
    slots, sources = torch.randperm(5), torch.randperm(3)
    torch.testing.assert_close(
        association_marginals(log_odds[:, slots], mask[:, slots]), marginals[:, slots], **CLOSE
    )
    columns = torch.cat((sources, torch.tensor([3])))
    torch.testing.assert_close(
        association_marginals(log_odds[..., sources], mask), marginals[..., columns], **CLOSE
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4, 1e30])
def test_rows_are_probabilities_at_any_scale(dtype, scale):
    torch.manual_seed(3)
    log_odds = scale * torch.randn(6, 4, dtype=dtype)
    marginals = association_marginals(log_odds, all_seen(6))
    assert marginals.dtype == dtype
    assert (marginals >= 0).all()
    torch.testing.assert_close(marginals.sum(-1), torch.ones(6, dtype=dtype))


def test_no_detection_and_no_sequence():
    assert association_marginals(
        torch.zeros(2, 0, 3), torch.zeros(2, 0, dtype=torch.bool)
    ).shape == (
        2,
        0,
        4,
    )
    assert association_marginals(
        torch.zeros(0, 5, 3), torch.zeros(0, 5, dtype=torch.bool)
    ).shape == (
        0,
        5,
        4,
    )
