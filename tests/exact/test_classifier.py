"""The classifier's program, its posterior and what is read off it, against sums by hand."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from scipy.optimize import minimize_scalar

from pyromodels.batch import SequenceBatch
from pyromodels.distributions.mixture import Chosen
from pyromodels.dynamics.tvgmm import TVGMM
from pyromodels.dynamics.tvnf import TVNF
from pyromodels.errors import ShapeError
from pyromodels.inference.classes.calibrate import calibrate, fit_posterior
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.models.class_posterior import ClassPosterior
from pyromodels.models.classifier import NO_CLASS, Classifier


def built(cls=TVNF, **more):
    torch.manual_seed(0)
    small = {"source_dim": 2, "past_dim": 4, "hidden_dim": 4, "num_members": 3}
    classifier = Classifier(cls(**small, **more)).double()
    classifier.class_posterior.log_prior.copy_(torch.tensor([0.5, 0.3, 0.2]).log())
    return classifier


def batch_of(count=4, frames=6):
    torch.manual_seed(1)
    lengths = torch.arange(frames - count + 1, frames + 1).clamp_min(1)
    mask = torch.arange(frames) < lengths.unsqueeze(-1)
    return SequenceBatch(torch.randn(count, frames, 2, dtype=torch.float64), mask)


def no_guide(batch):
    pass


@pytest.mark.parametrize("sharpness", [1.0, 0.3])
@pytest.mark.parametrize("make", [
    built, lambda: built(tied_dim=2), lambda: built(TVGMM, num_components=2)
], ids=["tvnf", "tied", "tvgmm"])
def test_enumeration_sums_the_classes_and_gives_the_posterior(make, sharpness):
    classifier, batch = make(), batch_of()
    classifier.class_posterior.sharpness.fill_(sharpness)
    by_hand = torch.stack([
        classifier.bank.path(int(there.sum())).log_prob(x[there])
        for x, there in zip(batch.x, batch.mask, strict=True)
    ])
    joint = sharpness * by_hand + torch.tensor([0.5, 0.3, 0.2]).double().log()
    elbo = TraceEnum_ELBO(max_plate_nesting=classifier.max_plate_nesting)
    evidence = joint.logsumexp(-1)
    assert elbo.loss(classifier, no_guide, batch) == pytest.approx(-evidence.sum().item())
    marginal = elbo.compute_marginals(classifier, no_guide, batch)["class"]
    expected = (joint - evidence.unsqueeze(-1)).exp()
    torch.testing.assert_close(marginal.probs.squeeze(), expected)
    torch.testing.assert_close(classifier.posterior(batch).probs, expected)
    torch.testing.assert_close(classifier.class_log_prob(batch), by_hand)


def test_draws_of_a_posterior_have_the_posterior_s_frequencies():
    classifier, batch = built(), batch_of()
    with torch.no_grad():
        draws = Posterior(classifier, no_guide, batch).sample(4000)["class"]
        expected = classifier.posterior(batch).probs
    shares = torch.nn.functional.one_hot(draws.reshape(4000, 4), 3).double().mean(0)
    error = (expected * (1 - expected) / 4000).sqrt().clamp_min(1e-6)
    assert ((shares - expected).abs() < 5 * error).all()


def test_generated_sequences_come_from_the_class_that_was_drawn():
    classifier, batch = built(TVGMM), batch_of(count=3000, frames=1)
    classifier.class_posterior.sharpness.fill_(0.1)  # tempers what is said of data, not draws
    with torch.no_grad():
        trace = pyro.poutine.trace(classifier).get_trace(batch, generate=True)
        label = trace.nodes["class"]["value"].flatten()
        x = trace.nodes["x"]["value"].reshape(3000, 2)
        law = classifier.bank.path(1).conditionals(torch.zeros(3, 1, 2, dtype=torch.float64))
    for c, share in enumerate((0.5, 0.3, 0.2)):
        own = x[label == c]
        assert abs(len(own) / 3000 - share) < 5 * math.sqrt(share * (1 - share) / 3000)
        error = law.stddev[c, 0] / math.sqrt(len(own))
        assert ((own.mean(0) - law.mean[c, 0]).abs() < 5 * error).all()


def test_chosen_is_the_member_that_is_chosen():
    laws = dist.Normal(torch.tensor([[-5.0, 0.0, 5.0]]), 1.0)
    choice = torch.tensor([2, 0, 1, 1])
    chosen = Chosen(laws, choice)
    value = torch.tensor([0.3, -1.0, 2.0, 0.0])
    expected = dist.Normal(laws.loc[0, choice], 1.0).log_prob(value)
    torch.testing.assert_close(chosen.log_prob(value), expected)
    enumerated = Chosen(laws, torch.arange(3).unsqueeze(-1)).log_prob(value)
    torch.testing.assert_close(enumerated, dist.Normal(laws.loc.mT, 1.0).log_prob(value))
    torch.manual_seed(0)
    assert (chosen.sample((100,)) - laws.loc[0, choice]).abs().max() < 5
    assert chosen.expand((7, 4)).batch_shape == (7, 4)


def test_decisions_are_withheld_where_they_are_not_probable_or_the_sequence_is_strange():
    classifier, batch = built(), batch_of()
    plain = classifier.decide(batch)
    assert torch.equal(plain.label, plain.probability.argmax(-1)) and plain.strangeness is None
    threshold = plain.probability.amax(-1).median().item()
    careful = classifier.decide(batch, min_probability=threshold)
    expected = plain.label.masked_fill(plain.probability.amax(-1) < threshold, NO_CLASS)
    assert torch.equal(careful.label, expected) and (careful.label == NO_CLASS).any()
    with pytest.raises(ValueError, match="typical"):
        classifier.decide(batch, max_strangeness=0.9)
    quantiles = torch.linspace(1000, 2000, 100, dtype=torch.float64)
    classifier.class_posterior.typical = quantiles.repeat(3, 1)  # all are stranger than those
    strange = classifier.decide(batch, max_strangeness=0.9)
    assert (strange.label == NO_CLASS).all() and (strange.strangeness == 1).all()


def simulated(count, sharpness, log_prior):
    torch.manual_seed(0)
    scores = 40 * torch.randn(count, 3, dtype=torch.float64)
    return scores, dist.Categorical(logits=sharpness * scores + log_prior).sample()


def test_calibration_finds_the_temper_and_the_prior_that_made_the_labels():
    log_prior = torch.tensor([0.6, 0.3, 0.1]).double().log()
    scores, labels = simulated(20000, 0.05, log_prior)
    sharpness, found = fit_posterior(scores, labels, offset_std=100.0)
    assert sharpness.item() == pytest.approx(0.05, rel=0.05)
    torch.testing.assert_close(found, log_prior, atol=0.15, rtol=0)


def test_sharpness_alone_is_the_best_there_is():
    scores, labels = simulated(300, 0.05, torch.zeros(3))
    found, log_prior = fit_posterior(scores, labels)
    others = scores.masked_fill(torch.nn.functional.one_hot(labels, 3).bool(), -math.inf)
    gaps = scores.gather(-1, labels.unsqueeze(-1)).squeeze(-1) - others.max(-1).values
    close = gaps.abs().argmin()  # counts once more, as a mistake
    scores = torch.cat((scores, scores[close : close + 1]))
    labels = torch.cat((labels, others[close].argmax().view(1)))

    def loss(log_sharpness):
        logits = math.exp(log_sharpness) * scores
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()

    best = minimize_scalar(loss, bounds=(-8, 2), method="bounded", options={"xatol": 1e-8})
    assert found.log().item() == pytest.approx(best.x, abs=1e-4)
    torch.testing.assert_close(log_prior.exp(), torch.full((3,), 1 / 3, dtype=torch.float64))


def test_a_held_out_set_without_errors_does_not_make_the_posterior_certain():
    scores = torch.eye(3, dtype=torch.float64).repeat(30, 1) * 500
    sharpness, log_prior = fit_posterior(scores, torch.arange(3).repeat(30))
    wrong = 1 - (sharpness * scores[0] + log_prior).softmax(-1)[0]
    assert wrong.item() == pytest.approx(1 / 91, rel=1e-3)


def test_a_narrow_prior_of_offsets_keeps_them_near_uniform():
    scores, labels = simulated(300, 0.05, torch.tensor([2.0, 0.0, -2.0]))
    spread = [
        fit_posterior(scores, labels, offset_std=width)[1].std().item() for width in (0.01, 1.0)
    ]
    assert spread[0] < 0.1 < 0.5 < spread[1]


def test_strangeness_is_the_share_that_is_likelier_by_the_frame():
    posterior = ClassPosterior(2)
    torch.manual_seed(0)
    labels = torch.arange(2).repeat_interleave(500)
    lengths = torch.randint(1, 9, (1000,))
    scores = torch.randn(1000, 2) * lengths.unsqueeze(-1)
    calibrate(posterior, scores, labels, lengths)
    for value in (-1.0, 0.0, 1.0):
        scores = torch.tensor([[4 * value, -1e6], [-1e6, value]])
        found = posterior.strangeness(scores, torch.tensor([4, 1]))
        expected = 1 - dist.Normal(0.0, 1.0).cdf(torch.tensor(value))
        assert (found - expected).abs().max() < 5 * 0.5 / math.sqrt(500) + 0.01
    assert posterior.strangeness(torch.tensor([[-1e6, -1e6]]), torch.tensor([1])) == 1


def test_a_calibrated_posterior_is_saved_and_loaded():
    posterior = ClassPosterior(2)
    calibrate(posterior, torch.randn(40, 2), torch.arange(40) % 2, torch.ones(40).long())
    again = ClassPosterior(2)
    again.load_state_dict(posterior.state_dict())
    scores = torch.randn(5, 2)
    assert torch.equal(again.of(scores).probs, posterior.of(scores).probs)
    one = torch.tensor(3)
    assert again.strangeness(scores[0], one) == posterior.strangeness(scores[:1], one[None])


def test_bad_input_is_named():
    with pytest.raises(ShapeError, match="num_members"):
        Classifier(TVNF(source_dim=2))
    with pytest.raises(ShapeError, match="num_classes"):
        ClassPosterior(1)
    classifier = built()
    with pytest.raises(ShapeError, match=r"expected \(B, T, 2\)"):
        classifier.posterior(SequenceBatch(torch.zeros(1, 2, 3), torch.ones(1, 2).bool()))
    with pytest.raises(ValueError, match="gap"):
        mask = torch.tensor([[True, False, True]])
        classifier.posterior(SequenceBatch(torch.zeros(1, 3, 2), mask))
    posterior, ones = ClassPosterior(2), torch.ones(3, dtype=torch.long)
    with pytest.raises(ShapeError, match="scores, labels, lengths"):
        calibrate(posterior, torch.zeros(3, 3), ones, ones)
    with pytest.raises(ValueError, match="class 0 has no sequence"):
        calibrate(posterior, torch.zeros(3, 2), ones, ones)
    with pytest.raises(ValueError, match="labels: given 1 to 2"):
        calibrate(posterior, torch.zeros(3, 2), torch.tensor([1, 2, 2]), ones)
    with pytest.raises(ValueError, match="scores: NaN"):
        calibrate(posterior, torch.full((3, 2), math.nan), ones, ones)
    with pytest.raises(ValueError, match="lengths: given 0"):
        calibrate(posterior, torch.zeros(3, 2), ones, 0 * ones)
    with pytest.raises(ValueError, match="without a frame"):
        built().posterior(SequenceBatch(torch.zeros(1, 3, 2), torch.zeros(1, 3).bool()))
    with pytest.raises(ValueError, match="offset_std"):
        calibrate(posterior, torch.zeros(3, 2), ones, ones, offset_std=-1.0)
