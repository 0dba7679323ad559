"""Importance ratios of blocks, against enumeration, dense Gaussians and the joint."""

import itertools
import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.guides.enumerated import Enumerated
from pyromodels.inference.adequacy.importance import log_weights
from pyromodels.inference.mixture.adequacy import owner_evidence
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.observations.detector import Detector

CLOSE = {"atol": 1e-8, "rtol": 1e-8}


@pytest.fixture
def walk():
    """Two random walks on a line, three frames of two observations, one of them missing."""
    model = MixDVAE(LinearGaussian(num_coordinates=1, order=1, process_std=(0.5,)))
    torch.manual_seed(0)
    o, mask = torch.randn(1, 3, 2, 1), torch.ones(1, 3, 2, dtype=torch.bool)
    mask[0, 1, 1] = False
    anchor = Anchor(torch.tensor([[[-0.5], [0.5]]]), torch.full((1, 2, 1), 0.3))
    return model, MixtureBatch(o, mask, torch.full_like(o, 0.2), anchor)


def choices(batch):
    shape = batch.mask.shape[1:]
    every = itertools.product(range(batch.num_sources), repeat=shape.numel())
    return torch.tensor(list(every)).reshape(-1, 1, *shape).masked_fill(~batch.mask, -1)


def dense_evidence(batch, w):
    """log p(o, w) of the random walk of `walk`, w (T, K)."""
    time = torch.arange(3.0)
    covariance = 0.3 + 0.25 * torch.minimum(time[:, None], time)
    total = -math.log(2.0) * int(batch.mask.sum())
    for n in range(2):
        t, k = ((w == n) & batch.mask[0]).nonzero(as_tuple=True)
        if len(t):
            law = MultivariateNormal(
                batch.anchor.loc[0, n].expand(len(t)), covariance[t][:, t] + 0.2 * torch.eye(len(t))
            )
            total = total + law.log_prob(batch.observations[0, t, k, 0])
    return total


def test_owner_evidence_is_that_of_dense_gaussians(walk):
    model, batch = walk
    w = choices(batch)
    expected = torch.stack([dense_evidence(batch, part[0]) for part in w])
    found = owner_evidence(model, batch, w)
    torch.testing.assert_close(found.log_evidence[:, 0], expected, **CLOSE)
    assert found.guide.loc.shape[0] == 2**5  # the masked slot makes no further assignment


@pytest.mark.parametrize("detector", [None, Detector(0.9, 0.1, 0.4)], ids=["plain", "detector"])
def test_owner_evidence_is_the_joint_over_the_posterior_of_the_rest(mixture, randomised, detector):
    model, batch = mixture(detector=detector)
    posterior = Posterior(model, randomised(model, batch), batch)
    draws = posterior.sample(6)
    found = owner_evidence(model, batch, draws["w"])
    rest = found.guide.rows(found.rows.flatten())
    conditional = rest.sources.log_prob(draws["s"].flatten(0, 1)).sum(-1)
    if detector is not None:
        conditional = conditional + rest.visibility.log_prob(draws["v"].flatten(0, 1)).sum(-1)
    expected = posterior.log_joint(draws) - conditional.unflatten(0, (6, -1))
    torch.testing.assert_close(found.log_evidence, expected, **CLOSE)


def test_the_block_s_sums_over_all_owners(walk, randomised):
    model, batch = walk
    posterior = Posterior(model, randomised(model, batch), batch)
    draws, w = posterior.sample(3), choices(batch)
    w = w[w.masked_fill(~batch.mask, 0)[:, 0, 1, 1] == 0].unique(dim=0)
    joint = torch.stack(
        [posterior.log_joint({"s": draws["s"], "w": part.expand(3, -1, -1, -1)}) for part in w]
    )
    expected = joint.logsumexp(0) - posterior.guide.sources.log_prob(draws["s"]).sum(-1)
    weights = log_weights(posterior, draws)
    torch.testing.assert_close(weights[("s",)], expected, **CLOSE)
    assert list(weights) == [("s", "w"), ("s",), ("w",)]


def test_with_a_detector_the_block_is_s_and_v(mixture, randomised):
    """The joint ratio is that of the block plus that of w given it, whatever was drawn."""
    model, batch = mixture(detector=Detector(0.9, 0.1, 0.4))
    posterior = Posterior(model, randomised(model, batch), batch)
    draws = posterior.sample(4)
    weights = log_weights(posterior, draws)
    prior = posterior.log_likelihood(draws, weights="prior")["o"].sum((-1, -2))
    path = model.prior.path(batch.num_frames, batch.anchor).log_prob(draws["s"]).sum(-1)
    visible = model.detector.visibility(batch.num_frames, draws["s"]).log_prob(draws["v"]).sum(-1)
    rate = model.detector.rates(draws["v"]).sum(2) + model.detector.clutter_rate
    counts = torch.distributions.Poisson(rate).log_prob(batch.mask.sum(-1).double()).sum(-1)
    q = posterior.guide.sources.log_prob(draws["s"]).sum(-1)
    q = q + posterior.guide.visibility.log_prob(draws["v"]).sum(-1)
    expected = prior + path + visible + counts - q
    torch.testing.assert_close(weights[tuple(n for n in draws if n != "w")], expected, **CLOSE)


def test_weights_of_the_exact_posterior_average_to_the_evidence(walk, randomised):
    """E_q[p / q] = p(o) for every block: independent of which q it is."""
    model, batch = walk
    evidence = torch.stack([dense_evidence(batch, p[0]) for p in choices(batch).unique(dim=0)])
    drawn = Posterior(model, Enumerated(model, batch), batch).sample(1)["w"]
    guide = owner_evidence(model, batch, drawn).guide
    guide.responsibilities = 0.5 * batch.mask[..., None].double().expand(-1, -1, -1, 2)
    posterior = Posterior(model, guide, batch)
    torch.manual_seed(2)
    weights = log_weights(posterior, posterior.sample(40_000))
    ratio = (weights[("w",)][:, 0] - evidence.logsumexp(0)).exp()
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / 200



class Pair:
    """a ~ N(0, 1), b ~ N(0, 1) under p; q(a) too narrow, q(b) exact, or a and b correlated."""

    def __init__(self, correlation=0.0):
        self.correlation = correlation

    def sample(self, num_samples):
        noise = torch.randn(2, num_samples, 1)
        return {"a": 0.6 * noise[0], "b": self.correlation * noise[0] + noise[1]}

    def log_prob(self, draws):
        mean = self.correlation * draws["a"] / 0.6
        return Normal(0.0, 0.6).log_prob(draws["a"]) + Normal(mean, 1.0).log_prob(draws["b"])

    def log_joint(self, draws):
        return Normal(0.0, 1.0).log_prob(draws["a"]) + Normal(0.0, 1.0).log_prob(draws["b"])


def test_sites_of_any_program_have_a_ratio_of_their_own():
    torch.manual_seed(0)
    posterior = Pair()
    draws = posterior.sample(4000)
    weights = log_weights(posterior, draws, num_inner=400)
    expected = Normal(0.0, 1.0).log_prob(draws["a"]) - Normal(0.0, 0.6).log_prob(draws["a"])
    torch.testing.assert_close(weights[("a",)], expected, **CLOSE)  # b's ratio is 1
    assert weights[("b",)].std() < 0.2 < weights[("a",)].std()


def test_sites_that_depend_on_each_other_have_only_the_joint():
    assert list(log_weights(Pair(0.5), Pair(0.5).sample(100))) == [("a", "b")]


def test_weights_of_a_minibatch_are_those_of_its_sequences(mixture, randomised):
    model, batch = mixture(num_sequences=3)
    guide = randomised(model, batch)
    draws, some = Posterior(model, guide, batch).sample(5), torch.tensor([2, 0])
    expected = log_weights(Posterior(model, guide, batch), draws)
    part = {name: value[:, some] for name, value in draws.items()}
    found = log_weights(Posterior(model, guide, batch.subset(some)), part)
    assert list(found) == list(expected) and len(found) == 3
    for block, weights in found.items():
        torch.testing.assert_close(weights, expected[block][:, some], **CLOSE)


def test_take_repeats_sequences_and_forgets_where_they_were(mixture):
    _, batch = mixture(num_sequences=3)
    taken = batch.take(torch.tensor([2, 2, 0]))
    assert taken.index is None
    torch.testing.assert_close(taken.observations[1], batch.observations[2])
