"""Binary Markov chains against enumeration of all 2^T paths."""

import itertools

import pytest
import torch

from pyromodels.distributions.visibility import BinaryChain, posterior_chain
from pyromodels.errors import ShapeError

CLOSE = {"atol": 1e-12, "rtol": 1e-10}


def chain(num_steps, *, batch=(2, 3), seed=0):
    torch.manual_seed(seed)
    return BinaryChain(
        torch.rand(batch, dtype=torch.float64),
        torch.rand(*batch, num_steps - 1, 2, dtype=torch.float64),
    )


def paths(num_steps):
    """Every path, shape (2^T, T)."""
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=num_steps)), dtype=torch.float64)


def probability(prior, path):
    """p(v) by multiplying the table entries one at a time, shape (*batch,)."""
    total = torch.ones(prior.batch_shape, dtype=torch.float64)
    for t, value in enumerate(path.tolist()):
        seen = prior.initial if t == 0 else prior.transition[..., t - 1, int(path[t - 1])]
        total = total * (seen if value else 1 - seen)
    return total


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_log_prob_and_mean_equal_enumeration(num_steps):
    prior = chain(num_steps)
    table = torch.stack([probability(prior, path) for path in paths(num_steps)])  # (2^T, *batch)
    value = paths(num_steps)[:, None, None]
    torch.testing.assert_close(prior.log_prob(value).exp(), table, **CLOSE)
    torch.testing.assert_close(table.sum(0), torch.ones(2, 3, dtype=torch.float64), **CLOSE)
    mean = torch.einsum("pij,pt->ijt", table, paths(num_steps))
    torch.testing.assert_close(prior.mean, mean, **CLOSE)


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_posterior_equals_enumeration(num_steps):
    prior = chain(num_steps)
    torch.manual_seed(1)
    evidence = 3 * torch.randn(2, 3, num_steps, 2, dtype=torch.float64)
    posterior = posterior_chain(prior, evidence)
    marginal = posterior.mean
    joint = []
    for path in paths(num_steps):
        seen = evidence.gather(-1, path.long().expand(2, 3, -1)[..., None]).squeeze(-1).sum(-1)
        joint.append(probability(prior, path) * seen.exp())
    table = torch.stack(joint)
    table = table / table.sum(0)
    value = paths(num_steps)[:, None, None]
    torch.testing.assert_close(posterior.log_prob(value).exp(), table, **CLOSE)
    torch.testing.assert_close(
        marginal, torch.einsum("pij,pt->ijt", table, paths(num_steps)), **CLOSE
    )


def test_posterior_keeps_what_the_prior_forbids_impossible():
    prior = BinaryChain(
        torch.tensor(1.0, dtype=torch.float64),
        torch.tensor([0.0, 1.0], dtype=torch.float64).expand(4, 2),  # never hides
    )
    against = torch.tensor([50.0, 0.0], dtype=torch.float64).expand(5, 2)
    posterior = posterior_chain(prior, against)
    marginal = posterior.mean
    torch.testing.assert_close(marginal, torch.ones(5, dtype=torch.float64))
    assert posterior.transition.isfinite().all()


def test_samples_have_the_marginals_and_the_transitions():
    prior = chain(4, batch=())
    torch.manual_seed(2)
    num_samples = 40_000
    samples = prior.sample((num_samples,))
    assert samples.shape == (num_samples, 4)
    assert set(samples.unique().tolist()) == {0.0, 1.0}
    error = (prior.mean * (1 - prior.mean) / num_samples).sqrt()
    assert ((samples.mean(0) - prior.mean).abs() < 5 * error).all()
    for before in (0, 1):
        after = samples[samples[:, 1] == before, 2]
        expected = prior.transition[1, before]
        error = (expected * (1 - expected) / len(after)).sqrt()
        assert (after.mean() - expected).abs() < 5 * error


def test_expand_keeps_the_density():
    prior = chain(4, batch=(3,))
    value = paths(4)[5].expand(3, 4)
    wide = prior.expand((5, 3))
    assert type(wide) is BinaryChain
    assert wide.batch_shape == (5, 3)
    assert wide.sample((2,)).shape == (2, 5, 3, 4)
    torch.testing.assert_close(wide.log_prob(value), prior.log_prob(value).expand(5, 3))


def test_a_transition_without_two_columns_is_refused():
    with pytest.raises(ShapeError, match="transition"):
        BinaryChain(torch.tensor(0.5), torch.rand(4, 3))
