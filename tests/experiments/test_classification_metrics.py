"""Metrics of a classifier: by hand, by plain loops, by scipy, in the limits, and in error."""

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import Tensor

from pyromodels.errors import ShapeError
from pyromodels.experiments.metrics.classification import (
    accuracy,
    brier_score,
    calibration_error,
    classification_metrics,
    confusion,
    cross_entropy,
    reliability,
    separation,
)

F64 = torch.float64


def drawn(n: int = 500, c: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return logits and labels that agree a little better than by chance."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, c, n)
    logits = 2 * rng.standard_normal((n, c)) + np.eye(c)[labels]
    return torch.from_numpy(logits), torch.from_numpy(labels)


def by_hand() -> tuple[Tensor, Tensor]:
    """Return three posteriors, each in a bin of its own, and labels; the last is mistaken."""
    posterior = torch.tensor([[0.82, 0.18], [0.33, 0.67], [0.75, 0.25]], dtype=F64)
    return posterior.log(), torch.tensor([0, 1, 1])


def test_figures_by_hand() -> None:
    logits, labels = by_hand()
    figures = classification_metrics(logits, labels)
    assert list(figures) == ["accuracy", "cross_entropy", "brier", "calibration_error"]
    assert figures == pytest.approx({
        "accuracy": 200 / 3,
        "cross_entropy": -(math.log(0.82) + math.log(0.67) + math.log(0.25)) / 3,
        "brier": 2 * (0.18**2 + 0.33**2 + 0.75**2) / 3,
        "calibration_error": (18 + 33 + 75) / 3,
    })
    one_bin = 100 * abs(2 - (0.82 + 0.67 + 0.75)) / 3
    assert calibration_error(logits, labels, num_bins=1) == pytest.approx(one_bin)
    assert confusion(logits.argmax(-1), labels, num_classes=2).tolist() == [[1, 0], [1, 1]]


def test_bins_by_hand() -> None:
    confidence = torch.tensor([0.55, 0.59, 0.85, 0.95, 0.97], dtype=F64)
    logits = torch.stack([confidence, 1 - confidence], -1).log()
    labels = torch.tensor([0, 1, 1, 0, 0])
    bins = reliability(logits, labels)                                     # .5-.6, .8-.9, .9-1
    torch.testing.assert_close(bins.confidence, torch.tensor([57.0, 85.0, 96.0], dtype=F64))
    torch.testing.assert_close(bins.accuracy, torch.tensor([50.0, 0.0, 100.0], dtype=F64))
    assert bins.count.tolist() == [2, 1, 2]
    expected = (2 * 7 + 1 * 85 + 2 * 4) / 5
    assert calibration_error(logits, labels) == pytest.approx(expected)


def test_a_bin_holds_its_upper_edge() -> None:
    below = torch.tensor([0.4, 0.3, 0.3], dtype=F64).log()
    edge = torch.tensor([0.0, 0.0, -math.inf], dtype=F64)                  # exactly 1/2
    above = torch.tensor([1e-9, 0.0, -math.inf], dtype=F64)
    bins = reliability(
        torch.stack([below, edge, above]), torch.zeros(3, dtype=torch.int64), num_bins=2
    )
    assert bins.count.tolist() == [2, 1]


@pytest.mark.parametrize("num_bins", [1, 7, 10, 15])
def test_figures_by_plain_loops(num_bins: int) -> None:
    logits, labels = drawn()
    posterior = softmax(logits.numpy(), -1)
    n, c = posterior.shape
    right, nats, brier = 0, 0.0, 0.0
    bins = [[] for _ in range(num_bins)]
    counts = [[0] * c for _ in range(c)]
    for p, label in zip(posterior.tolist(), labels.tolist(), strict=True):
        said = max(range(c), key=p.__getitem__)
        counts[label][said] += 1
        right += said == label
        nats -= math.log(p[label])
        brier += sum((p[k] - (k == label)) ** 2 for k in range(c))
        bins[math.ceil(p[said] * num_bins) - 1].append((p[said], said == label))
    error = sum(
        abs(sum(hit for _, hit in held) - sum(claimed for claimed, _ in held)) for held in bins
    )
    said = logits.argmax(-1)
    assert accuracy(said, labels) == pytest.approx(100 * right / n)
    assert cross_entropy(logits, labels) == pytest.approx(nats / n)
    assert brier_score(logits, labels) == pytest.approx(brier / n)
    assert calibration_error(logits, labels, num_bins=num_bins) == pytest.approx(100 * error / n)
    assert reliability(logits, labels, num_bins=num_bins).count.tolist() == [
        len(held) for held in bins if held
    ]
    assert confusion(said, labels, num_classes=c).tolist() == counts


def test_a_constant_of_the_sequence_and_the_dtype_change_nothing() -> None:
    logits, labels = drawn()
    figures = classification_metrics(logits, labels)
    moved = logits - 3_000 * torch.arange(len(logits)).unsqueeze(-1)
    assert classification_metrics(moved, labels) == pytest.approx(figures, abs=1e-6)
    assert classification_metrics(logits.float(), labels) == pytest.approx(figures, rel=1e-5)


@pytest.mark.parametrize("n", [1, 20])
def test_all_right_and_all_wrong(n: int) -> None:
    labels = torch.arange(n) % 3
    sure = torch.eye(3)[labels].log()                                      # 0 and -inf
    assert list(classification_metrics(sure, labels).values()) == [100, 0, 0, 0]
    said = (labels + 1) % 3
    assert list(classification_metrics(torch.eye(3)[said].log(), labels).values()) == [
        0, math.inf, 2, 100
    ]
    confused = confusion(said, labels, num_classes=3)
    assert confused.diagonal().sum() == 0 and confused.sum() == n
    diagonal = labels.bincount(minlength=3).diag()
    assert torch.equal(confusion(labels, labels, num_classes=3), diagonal)


@pytest.mark.parametrize("c", [1, 2, 5])
def test_a_posterior_that_knows_nothing(c: int) -> None:
    labels = torch.arange(c)
    assert classification_metrics(torch.zeros(c, c), labels) == pytest.approx({
        "accuracy": 100 / c, "cross_entropy": math.log(c), "brier": 1 - 1 / c,
        "calibration_error": 0,
    }, abs=1e-12)


def simulated(n: int = 40_000) -> tuple[Tensor, Tensor]:
    """Return posteriors and labels drawn from them: perfectly calibrated."""
    rng = np.random.default_rng(0)
    posterior = torch.from_numpy(rng.dirichlet(np.full(4, 0.7), n))
    labels = torch.from_numpy((rng.random((n, 1)) > posterior.cumsum(-1).numpy()).sum(-1))
    return posterior, labels.clamp(max=3)


def test_an_honest_posterior_scores_what_it_expects() -> None:
    posterior, labels = simulated()
    n = len(labels)
    figures = classification_metrics(posterior.log(), labels)
    # Given x every score is a discrete random number; its mean and variance under p(c given x):
    said = torch.eye(4, dtype=F64)[posterior.argmax(-1)]
    score = {
        "accuracy": 100 * said,
        "cross_entropy": -posterior.clamp_min(1e-300).log(),
        "brier": posterior.square().sum(-1, keepdim=True) - 2 * posterior + 1,
    }
    for name, of_class in score.items():
        mean = (posterior * of_class).sum(-1)
        variance = (posterior * of_class.square()).sum(-1) - mean.square()
        error = variance.sum().sqrt() / n
        assert abs(figures[name] - mean.mean()) < 5 * error, name


def test_an_honest_posterior_is_calibrated_within_its_bins() -> None:
    posterior, labels = simulated()
    bins = reliability(posterior.log(), labels)
    assert bins.count.sum() == len(labels) and len(bins.count) == 8        # from 1/4 to 1
    # p (1 - p) at the mean bounds the variance within a bin from above
    share = bins.confidence / 100
    error = 100 * (share * (1 - share) / bins.count).sqrt()
    assert ((bins.accuracy - bins.confidence).abs() < 5 * error).all()
    # the mean of |normal| is (2 / pi)^(1/2) of its deviation, the variance 1 - 2 / pi of its own
    weight = bins.count / len(labels)
    expected = (weight * error).sum() * (2 / math.pi) ** 0.5
    spread = (weight * error).square().sum().sqrt() * (1 - 2 / math.pi) ** 0.5
    assert abs(calibration_error(posterior.log(), labels) - expected) < 5 * spread
    # and one that exaggerates is found out
    assert calibration_error(3 * posterior.log(), labels) > expected + 20 * spread


def test_separation_by_hand_and_by_plain_loops() -> None:
    inside, outside = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 3.0])
    assert separation(inside, outside) == pytest.approx((1.5 + 3) / 6)     # one tie, counted half
    rng = np.random.default_rng(0)
    inside, outside = rng.integers(0, 12, 70), rng.integers(3, 15, 50)     # many ties
    above = sum((b > a) + (b == a) / 2 for a in inside for b in outside) / (70 * 50)
    assert separation(torch.from_numpy(inside), torch.from_numpy(outside)) == pytest.approx(above)


def test_separation_of_normal_scores() -> None:
    """P(outside > inside) = Phi(shift / 2^(1/2)), within five standard errors."""
    n, shift = 20_000, 1.0
    generator = torch.Generator().manual_seed(0)
    inside, outside = torch.randn(2, n, generator=generator, dtype=F64)
    expected = 0.5 * (1 + math.erf(shift / 2))
    # the variance of a Mann-Whitney statistic is at most area (1 - area) / min(n, m)
    error = (expected * (1 - expected) / n) ** 0.5
    assert abs(separation(inside, outside + shift) - expected) < 5 * error


def test_limits_of_separation() -> None:
    low, high = torch.tensor([-math.inf, 1.0]), torch.tensor([2.0, math.inf, math.inf])
    assert separation(low, high) == 1 and separation(high, low) == 0
    assert separation(low, low) == 0.5 and separation(low[:1], low[:1]) == 0.5
    score = torch.rand(200, generator=torch.Generator().manual_seed(0))
    area = separation(score[:90], score[90:])
    assert separation(score[90:], score[:90]) == pytest.approx(1 - area)
    assert separation(score[:90].exp(), score[90:].exp()) == pytest.approx(area)


BAD = [                                                                    # logits, labels, words
    (torch.zeros(3), torch.zeros(3, dtype=torch.int64), ShapeError, r"logits.*\(n, C\)"),
    (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), ShapeError, "logits.*at least 1"),
    (torch.zeros(3, 0), torch.zeros(3, dtype=torch.int64), ShapeError, "logits.*at least 1"),
    (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), ShapeError, r"labels.*\(3,\)"),
    (torch.zeros(3, 2), torch.tensor(0), ShapeError, r"labels.*\(3,\)"),
    (torch.zeros(3, 2), torch.zeros(3), ValueError, "labels.*float32.*int64"),
    (torch.zeros(3, 2), torch.tensor([0, 1, 2]), ValueError, "labels.*0 to 2.*0 to 1"),
    (torch.zeros(3, 2), torch.tensor([0, 1, -1]), ValueError, "labels.*-1 to 1"),
    (torch.tensor([[0.0, 0.0], [math.nan, 0.0]]), torch.tensor([0, 1]), ValueError,
     "sequence 1.*nan.*NaN"),
    (torch.tensor([[0.0, math.inf]]), torch.tensor([0]), ValueError, "sequence 0.*inf"),
    (torch.full((1, 2), -math.inf), torch.tensor([0]), ValueError, "sequence 0.*possible"),
]


@pytest.mark.parametrize(
    "metric",
    [classification_metrics, cross_entropy, brier_score, calibration_error, reliability],
)
@pytest.mark.parametrize(("logits", "labels", "error", "words"), BAD)
def test_a_bad_posterior_is_told(metric, logits, labels, error, words) -> None:
    with pytest.raises(error, match=words):
        metric(logits, labels)


def test_other_errors_say_what_to_do() -> None:
    logits, labels = by_hand()
    with pytest.raises(ValueError, match="num_bins.*at least 1"):
        calibration_error(logits, labels, num_bins=0)
    with pytest.raises(ShapeError, match=r"labels_said.*\(3,\)"):
        accuracy(labels[:2], labels)
    with pytest.raises(ShapeError, match="labels.*at least 1"):
        accuracy(labels[:0], labels[:0])
    with pytest.raises(ValueError, match="labels_said.*float64"):
        accuracy(labels.double(), labels)
    with pytest.raises(ValueError, match="labels_said.*0 to 2.*0 to 1"):
        confusion(torch.tensor([0, 1, 2]), labels, num_classes=2)
    with pytest.raises(ValueError, match="labels: given 0 to 1.*0 to 0"):
        confusion(torch.zeros_like(labels), labels, num_classes=1)
    scores = torch.zeros(3)
    with pytest.raises(ShapeError, match="insiders.*one axis"):
        separation(torch.zeros(3, 1), scores)
    with pytest.raises(ShapeError, match="outsiders.*at least one score"):
        separation(scores, scores[:0])
    with pytest.raises(ValueError, match="outsiders.*score 1 is NaN"):
        separation(scores, torch.tensor([0.0, math.nan]))
