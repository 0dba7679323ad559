"""Hidden Markov sources and their EM: enumeration, closed forms, and the figures of the facts."""

import itertools
import math
from pathlib import Path

import numpy as np
import pyro.distributions
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from pyromodels.errors import ShapeError
from pyromodels.experiments.baselines.hmm import (
    Counts,
    em_step,
    fit_hidden_markov,
    maximisation,
    model_log_prob,
    start,
)
from pyromodels.experiments.datasets.labelled.hidden_markov import (
    HiddenMarkovSources,
    bayes_accuracy,
    hidden_markov_problem,
)
from pyromodels.experiments.datasets.labelled.phones import load_hmm5
from pyromodels.experiments.datasets.labelled.problem import LabelledData
from pyromodels.labelled import LabelledSequences

F64 = torch.float64


def random_sources(
    c: int = 2, k: int = 3, d: int = 2, left_right: bool = False
) -> HiddenMarkovSources:
    rng = np.random.default_rng([c, k, d])
    initial, transition = rng.dirichlet(np.ones(k), c), rng.dirichlet(np.ones(k), (c, k))
    if left_right:
        initial, transition = np.eye(k)[:1].repeat(c, 0), np.triu(transition)
        transition /= transition.sum(-1, keepdims=True)
    mean, deviation = 2 * rng.standard_normal((c, k, d)), rng.uniform(0.5, 2, (c, k, d))
    parts = (initial, transition, mean, deviation)
    return HiddenMarkovSources(*(torch.from_numpy(part) for part in parts))


def enumerated(sources: HiddenMarkovSources, x: Tensor) -> Tensor:
    """Return log p(x given c) of one sequence (T, D) as the sum over all K^T paths, shape (C,)."""
    c, k, _ = sources.mean.shape
    paths = []
    for path in itertools.product(range(k), repeat=len(x)):
        z = list(path)
        moves = [sources.initial[:, z[0]].log()]
        moves += [sources.transition[:, i, j].log() for i, j in itertools.pairwise(z)]
        frames = Normal(sources.mean[:, z], sources.deviation[:, z]).log_prob(x).sum((-1, -2))
        paths.append(torch.stack(moves).sum(0) + frames)
    return torch.stack(paths).logsumexp(0)


def by_pyro(sources: HiddenMarkovSources, x: Tensor, mask: Tensor) -> Tensor:
    """Return log p(x given c) by Pyro's products of matrices over time, shape (n, C)."""
    c, k, _ = sources.mean.shape
    # Pyro's chain moves before every frame: the move into the first is the start.
    transition = sources.transition.log().unsqueeze(1).repeat(1, x.shape[1], 1, 1)
    transition[:, 0] = sources.initial.log().unsqueeze(-2)
    frame = pyro.distributions.Normal(sources.mean.unsqueeze(1), sources.deviation.unsqueeze(1))
    frames = frame.to_event(1).expand((len(x), c, x.shape[1], k)).mask(mask[:, None, :, None])
    anywhere = torch.zeros(c, k, dtype=F64)
    return pyro.distributions.DiscreteHMM(anywhere, transition, frames).log_prob(x.unsqueeze(1))


def ragged(sources: HiddenMarkovSources, n: int = 3, longest: int = 5) -> LabelledSequences:
    return sources.sample(n, seed=1, lengths=(1, longest))


@pytest.mark.parametrize("left_right", [False, True])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_likelihood_is_the_sum_over_all_paths(k: int, left_right: bool) -> None:
    sources = random_sources(k=k, left_right=left_right)
    data = ragged(sources, n=6)
    assert data.lengths.min() == 1 and data.lengths.max() == 5
    by_hand = torch.stack([
        enumerated(sources, x[:length].double())
        for x, length in zip(data.x, data.lengths, strict=True)
    ])
    log_prob = sources.log_prob(data.x, data.mask)
    torch.testing.assert_close(log_prob, by_hand, rtol=0, atol=1e-10)
    both = torch.tensor([[0, 1]]).expand(len(data), -1)
    of_models = model_log_prob(sources, data, both)
    torch.testing.assert_close(of_models, by_hand.sum(0), rtol=0, atol=1e-10)
    own = data.labels.unsqueeze(-1)
    of_models = model_log_prob(sources, data, own)
    expected = torch.stack([by_hand[data.labels == c, c].sum() for c in range(2)])
    torch.testing.assert_close(of_models, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("left_right", [False, True])
@pytest.mark.parametrize(("k", "longest"), [(1, 30), (4, 1), (4, 30), (6, 100)])
def test_the_likelihood_is_pyros(k: int, longest: int, left_right: bool) -> None:
    sources = random_sources(c=3, k=k, d=5, left_right=left_right)
    data = ragged(sources, n=10, longest=longest)
    expected = by_pyro(sources, data.x.double(), data.mask)
    log_prob = sources.log_prob(data.x, data.mask)
    torch.testing.assert_close(log_prob, expected, rtol=1e-12, atol=1e-10)


def test_what_stands_behind_the_end_has_no_influence() -> None:
    sources = random_sources()
    data = ragged(sources, n=8, longest=7)
    log_prob = sources.log_prob(data.x, data.mask)
    noise = data.x.masked_fill(~data.mask.unsqueeze(-1), math.nan)
    assert torch.equal(sources.log_prob(noise, data.mask), log_prob)
    for i, length in enumerate(data.lengths):
        alone = sources.log_prob(data.x[i:i + 1, :length], data.mask[i:i + 1, :length])
        torch.testing.assert_close(alone[0], log_prob[i], rtol=0, atol=1e-10)
    assert (sources.log_prob(data.x, torch.zeros_like(data.mask)).abs() < 1e-12).all()


def test_paths_so_unlikely_that_pyro_loses_them_still_count() -> None:
    one = torch.tensor([1.0], dtype=F64)
    sources = HiddenMarkovSources(
        torch.tensor([[1.0, 0.0]], dtype=F64),
        torch.tensor([[[0.5, 0.5], [0.0, 1.0]]], dtype=F64),
        torch.stack([0 * one, 40 * one]).unsqueeze(0), torch.ones(1, 2, 1, dtype=F64),
    )
    x = torch.tensor([[[0.0], [40.0], [0.0], [0.0]]])                      # 800 nats from any path
    data = LabelledSequences(x, torch.tensor([4]), torch.tensor([0]))
    # three moves of 1/2 that stay, and x_2 at 40 deviations: any other path is 800 nats below
    by_hand = 3 * math.log(0.5) - 2 * math.log(2 * math.pi) - 0.5 * 40**2
    assert by_pyro(sources, x.double(), data.mask).item() == -math.inf
    assert enumerated(sources, x[0].double()).item() == pytest.approx(by_hand, rel=1e-14)
    assert sources.log_prob(x, data.mask).item() == pytest.approx(by_hand, rel=1e-14)
    assert model_log_prob(sources, data, torch.zeros(1, 1, dtype=torch.int64)).item() == (
        pytest.approx(by_hand, rel=1e-14)
    )


def test_the_likelihood_is_float64_whatever_the_sources() -> None:
    sources = random_sources()
    data = ragged(sources)
    single = HiddenMarkovSources(*(
        getattr(sources, name).float() for name in ("initial", "transition", "mean", "deviation")
    ))
    log_prob = single.log_prob(data.x, data.mask)
    assert log_prob.dtype == F64
    torch.testing.assert_close(log_prob, sources.log_prob(data.x, data.mask), rtol=0, atol=1e-4)


def test_samples_have_the_moments_of_the_chain() -> None:
    sources, n, frames = random_sources(), 40_000, 4
    data = sources.sample(n, seed=0, lengths=(frames, frames))
    x = data.x.double().view(2, n, frames, 2)
    before = state = sources.initial                                       # p(z_t), (C, K)
    for t in range(frames):
        mean = (state.unsqueeze(-1) * sources.mean).sum(1)
        square = (state.unsqueeze(-1) * (sources.mean**2 + sources.deviation**2)).sum(1)
        within_five_errors(x[:, :, t], mean)
        within_five_errors(x[:, :, t] ** 2, square)
        if t:
            # E[x_t x_{t-1}] = sum_jk p(z_{t-1} = j) A_jk mu_j mu_k tells whether the states move
            joint = before.unsqueeze(-1) * sources.transition
            product = torch.einsum("cjk,cjd,ckd->cd", joint, sources.mean, sources.mean)
            within_five_errors(x[:, :, t] * x[:, :, t - 1], product)
        before = state
        state = (state.unsqueeze(-1) * sources.transition).sum(1)


def within_five_errors(samples: Tensor, expected: Tensor) -> None:         # (C, n, D), (C, D)
    error = samples.std(1) / samples.shape[1] ** 0.5
    assert ((samples.mean(1) - expected).abs() < 5 * error).all()


def test_lengths_are_uniform_and_labels_balanced() -> None:
    data = random_sources().sample(6_000, seed=0)
    assert data.labels.bincount().tolist() == [6_000, 6_000]
    counts = data.lengths.bincount(minlength=15)
    assert counts[:3].sum() == 0 and len(counts) == 15
    share, n = 1 / 12, len(data)
    assert ((counts[3:] / n - share).abs() < 5 * (share * (1 - share) / n) ** 0.5).all()


def test_a_state_that_cannot_be_is_never_drawn() -> None:
    apart = torch.tensor([[[-100.0], [0.0], [100.0]]], dtype=F64)
    never = torch.tensor([0.0, 1.0, 0.0], dtype=F64)
    sources = HiddenMarkovSources(
        never.unsqueeze(0), never.expand(1, 3, -1), apart, torch.ones_like(apart)
    )
    assert sources.sample(2_000, seed=0).x.abs().max() < 50


def test_the_problem_is_neither_trivial_nor_hopeless() -> None:
    data, sources = hidden_markov_problem()
    assert [len(split) for split in (data.train, data.valid, data.test)] == [3000, 1000, 2000]
    assert data.dim == 2 and len(data.classes) == 5
    assert (data.test.lengths.min(), data.test.lengths.max()) == (3, 14)
    for split in (data.train, data.valid, data.test):
        assert 95 < bayes_accuracy(sources, split).accuracy < 99.9


def test_the_problem_depends_on_its_seed_and_splits_on_their_own_size_only() -> None:
    data, sources = hidden_markov_problem(num_train=5, num_valid=5, num_test=5)
    again, same = hidden_markov_problem(num_train=50, num_valid=5, num_test=5)
    other, _ = hidden_markov_problem(num_train=5, num_valid=5, num_test=5, seed=1)
    assert torch.equal(sources.mean, same.mean) and torch.equal(data.test.x, again.test.x)
    assert not torch.equal(data.test.x, data.valid.x)
    assert data.test.x.shape != other.test.x.shape or not torch.equal(data.test.x, other.test.x)


def test_bayes_figures_by_hand() -> None:
    unit = torch.ones(2, 1, 1, dtype=F64)
    sources = HiddenMarkovSources(
        unit[:, 0], unit, torch.tensor([[[-1.0]], [[1.0]]], dtype=F64), unit
    )
    x = torch.tensor([[[-1.0], [-1.0]], [[-1.0], [0.0]]])                  # the second is mistaken
    figures = bayes_accuracy(
        sources, LabelledSequences(x, torch.tensor([2, 1]), torch.tensor([0, 1]))
    )
    assert figures.accuracy == 50
    assert figures.nats_per_frame == pytest.approx(-0.5 * math.log(2 * math.pi) - 4 / 2 / 3)


@pytest.mark.parametrize(("k", "left_right", "floor"), [
    (1, False, 1e-6), (3, False, 1e-6), (5, False, 1e-6), (3, True, 1e-6), (3, False, 1.0),
])
def test_em_never_lowers_the_likelihood(k: int, left_right: bool, floor: float) -> None:
    data = hidden_markov_problem(num_train=40)[0].train
    rows = 3 * data.labels.unsqueeze(-1) + torch.arange(3)
    least = torch.full((2,), floor, dtype=F64)
    sources = start(data, rows, k, left_right=left_right, floor=least,
                    generator=torch.Generator().manual_seed(0))
    trace = []
    for _ in range(40):
        sources, log_prob = em_step(sources, data, rows, least)
        trace.append(log_prob)
    trace.append(model_log_prob(sources, data, rows))
    trace = torch.stack(trace)                                             # (iterations, M)
    assert (trace.diff(dim=0) > -1e-8 * trace[0].abs()).all()
    assert (trace[-1] > trace[0] + 1).all() or k == 1
    assert (sources.deviation**2 >= floor * (1 - 1e-12)).all()
    if left_right:
        assert (sources.transition.tril(-1) == 0).all() and (sources.initial[:, 0] == 1).all()
        assert (sources.transition.triu(2) == 0).all()


def test_em_agrees_with_hmmlearn() -> None:
    """Ten iterations of hmmlearn 0.3.3 from the same start, its priors switched off."""
    k = torch.arange(30, dtype=F64)
    frames = torch.stack([2 * (1.3 * k).sin() + 0.3 * (5 * k).cos(),
                          (0.7 * k).cos() + 0.5 * (3 * k).sin()], 1)
    lengths = torch.tensor([6, 9, 4, 11])
    x = torch.nn.utils.rnn.pad_sequence(frames.split(lengths.tolist()), batch_first=True)
    data = LabelledSequences(x, lengths, torch.zeros(4, dtype=torch.int64))
    sources = HiddenMarkovSources(
        torch.tensor([[0.6, 0.4]], dtype=F64),
        torch.tensor([[[0.7, 0.3], [0.2, 0.8]]], dtype=F64),
        torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]], dtype=F64), torch.ones(1, 2, 2, dtype=F64),
    )
    rows, floor = data.labels.unsqueeze(-1), torch.full((2,), 1e-12, dtype=F64)
    assert model_log_prob(sources, data, rows).item() == pytest.approx(-88.65727194066187)
    for _ in range(10):
        sources, _ = em_step(sources, data, rows, floor)
    assert model_log_prob(sources, data, rows).item() == pytest.approx(-81.49598850853913)
    mean = torch.tensor([[1.0609619236570735, 0.13423401090434695],
                         [-1.467918061166123, -0.04999844459044412]], dtype=F64)
    moves = torch.tensor([[0.6140304369768507, 0.38596956302314933],
                          [0.3819137900688382, 0.6180862099311619]], dtype=F64)
    torch.testing.assert_close(sources.mean[0], mean)
    torch.testing.assert_close(sources.transition[0], moves)


def test_em_recovers_the_parameters() -> None:
    mean = torch.tensor([[[-4.0, 0.0], [0.0, 3.0], [4.0, -2.0]],
                         [[3.0, 3.0], [-3.0, -3.0], [0.0, 6.0]]], dtype=F64)
    drawn = random_sources()
    truth = HiddenMarkovSources(drawn.initial, drawn.transition, mean, drawn.deviation)
    data = truth.sample(3_000, seed=0)
    fit = fit_hidden_markov(data, 3, restarts=2, iterations=30)
    for c in range(2):
        order = torch.cdist(mean[c], fit.mean[c]).argmin(-1)               # its name of each state
        assert sorted(order.tolist()) == [0, 1, 2]
        assert (fit.mean[c, order] - mean[c]).abs().max() < 0.15
        assert (fit.deviation[c, order] / drawn.deviation[c] - 1).abs().max() < 0.06
        assert (fit.transition[c][order][:, order] - drawn.transition[c]).abs().max() < 0.05
        assert (fit.initial[c, order] - drawn.initial[c]).abs().max() < 0.06
    # the likeliest parameters are likelier than the true ones, by about half a nat for each
    # of the 20 free ones of both classes
    own = data.labels.unsqueeze(-1)
    gain = (fit.log_prob(data.x, data.mask) - truth.log_prob(data.x, data.mask)).gather(1, own)
    assert 0 < gain.sum() < 60


def test_one_state_is_one_gaussian_a_class() -> None:
    data = hidden_markov_problem(num_train=30)[0].train
    fit = fit_hidden_markov(data, 1, restarts=1, iterations=1)
    for c in range(5):
        own = data.of_class(c)
        frames = own.x[own.mask].double()
        torch.testing.assert_close(fit.mean[c, 0], frames.mean(0))
        torch.testing.assert_close(fit.deviation[c, 0], frames.std(0, correction=0))


def test_more_restarts_are_never_worse() -> None:
    data = hidden_markov_problem(num_train=30)[0].train
    rows = data.labels.unsqueeze(-1)
    likelihood = [
        model_log_prob(fit_hidden_markov(data, 3, left_right=True, restarts=r, iterations=15),
                       data, rows) for r in (1, 4)
    ]
    assert (likelihood[1] >= likelihood[0] - 1e-6).all()                   # the first is the same
    assert (likelihood[1] > likelihood[0] + 1e-3).any()


def test_a_state_without_frames_keeps_its_place() -> None:
    sources = random_sources(c=1, k=2, d=1)
    counts = Counts(*(torch.tensor(v, dtype=F64) for v in (
        [[4.0, 0.0]], [[[6.0, 0.0], [0.0, 0.0]]], [[10.0, 0.0]], [[[20.0], [0.0]]],
        [[[50.0], [0.0]]],
    )))
    new = maximisation(sources, counts, torch.tensor([1e-6], dtype=F64))
    assert new.mean[0, 0] == 2 and new.deviation[0, 0] == 1                # 50/10 - 2^2
    for name in ("mean", "deviation", "transition"):
        assert torch.equal(getattr(new, name)[0, 1], getattr(sources, name)[0, 1])
    assert new.initial.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("left_right", [False, True])
def test_more_states_than_frames_or_than_different_frames(left_right: bool) -> None:
    x = torch.tensor([[[0.0], [1.0]], [[1.0], [0.0]]])
    data = LabelledSequences(x, torch.tensor([2, 1]), torch.tensor([0, 0]))
    fit = fit_hidden_markov(data, 4, left_right=left_right, iterations=30)
    assert torch.isfinite(fit.log_prob(data.x, data.mask)).all()
    assert fit.deviation.min() ** 2 >= 1e-3 * data.x[data.mask].double().var(correction=0) - 1e-12


def test_errors_say_what_to_do() -> None:
    good = random_sources()
    parts = good.initial, good.transition, good.mean, good.deviation
    with pytest.raises(ShapeError, match="transition"):
        HiddenMarkovSources(parts[0], parts[1][:, :2], *parts[2:])
    with pytest.raises(ShapeError, match="mean.*C, K, D"):
        HiddenMarkovSources(*parts[:2], good.mean[0], good.deviation)
    with pytest.raises(ValueError, match="initial.*sum to one"):
        HiddenMarkovSources(2 * parts[0], *parts[1:])
    with pytest.raises(ValueError, match="deviation.*above 0"):
        HiddenMarkovSources(*parts[:3], 0 * good.deviation)
    with pytest.raises(ValueError, match="mean.*NaN"):
        HiddenMarkovSources(*parts[:2], math.nan * good.mean, good.deviation)
    with pytest.raises(ShapeError, match=r"x.*\(n, T, 2\)"):
        good.log_prob(torch.zeros(1, 4, 3), torch.ones(1, 4, dtype=torch.bool))
    with pytest.raises(ShapeError, match="x.*at least 1"):
        good.log_prob(torch.zeros(1, 0, 2), torch.ones(1, 0, dtype=torch.bool))
    with pytest.raises(ShapeError, match="mask"):
        good.log_prob(torch.zeros(1, 4, 2), torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="lengths"):
        good.sample(1, seed=0, lengths=(4, 3))
    with pytest.raises(ValueError, match="num_sequences"):
        good.sample(0, seed=0)
    data = good.sample(5, seed=0)
    for name in ("restarts", "iterations"):
        with pytest.raises(ValueError, match=name):
            fit_hidden_markov(data, 2, **{name: 0})
    with pytest.raises(ValueError, match="num_states"):
        fit_hidden_markov(data, 0)
    with pytest.raises(ValueError, match="variance_floor"):
        fit_hidden_markov(data, 2, variance_floor=0.0)
    with pytest.raises(ValueError, match="class 0 has no sequence"):
        fit_hidden_markov(data.of_class(1), 2)
    still = LabelledSequences(torch.ones(2, 3, 1), torch.tensor([3, 3]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="coordinate 0 never varies"):
        fit_hidden_markov(still, 2)


@pytest.fixture(scope="module")
def stored(tvnf_data: Path) -> tuple[LabelledData, HiddenMarkovSources, Tensor]:
    """Return the published splits, sources fitted to them elsewhere, and their likelihoods."""
    data = load_hmm5(tvnf_data / "hmm5.npz")
    with np.load(tvnf_data / "hmm5_est_params.npz") as file:
        initial, transition, mean, variance, log_prob = (
            torch.from_numpy(file[name]) for name in ("pi", "A", "mean", "var", "test_ll")
        )
    return data, HiddenMarkovSources(initial, transition, mean, variance.sqrt()), log_prob


def test_the_stored_likelihoods_are_reproduced(stored) -> None:
    data, sources, expected = stored
    test = data.test
    log_prob = sources.log_prob(test.x, test.mask)
    assert log_prob.shape == (10_000, 5)
    torch.testing.assert_close(log_prob, expected, rtol=0, atol=1e-9)
    figures = bayes_accuracy(sources, test)
    assert figures.accuracy == pytest.approx(99.46, abs=1e-9)              # 54 errors of 10000
    # the facts sheet has -3.6066; the stored likelihoods themselves give -3.60666
    assert figures.nats_per_frame == pytest.approx(-3.6066, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("k", "restarts", "iterations", "accuracy", "nats"), [
    (1, 1, 1, 92.36, -4.3208), (2, 3, 40, 98.90, -3.6932), (3, 3, 60, 99.46, -3.6066),
])
def test_the_fits_of_the_facts_sheet(stored, k, restarts, iterations, accuracy, nats) -> None:
    data, _, _ = stored
    fit = fit_hidden_markov(data.train, k, restarts=restarts, iterations=iterations)
    figures = bayes_accuracy(fit, data.test)
    assert figures.accuracy == pytest.approx(accuracy, abs=0.021)          # two sequences
    assert figures.nats_per_frame == pytest.approx(nats, abs=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("k", "accuracy", "nats"), [(3, 98.7, -51.73), (6, 98.0, -49.47)])
def test_the_left_right_fits_of_the_spoken_digits(tvnf_data: Path, k, accuracy, nats) -> None:
    """Digits 0 to 4, official split, cut at 120 frames, 12 iterations of EM."""
    with np.load(tvnf_data / "fsdd_mfcc40.npz") as file:
        x, length, digit, split = (file[name] for name in ("x", "len", "digit", "split"))

    def part(number: int) -> LabelledSequences:
        rows = (digit < 5) & (split == number)
        return LabelledSequences(torch.from_numpy(x[rows, :120]),
                                 torch.from_numpy(length[rows].clip(max=120)).long(),
                                 torch.from_numpy(digit[rows]).long())

    data = LabelledData("digits", tuple("01234"), part(0), part(1), part(2)).standardised()
    fit = fit_hidden_markov(data.train, k, left_right=True, restarts=1, iterations=12)
    figures = bayes_accuracy(fit, data.test)
    assert figures.accuracy == pytest.approx(accuracy, abs=0.7)            # one of 150
    assert figures.nats_per_frame == pytest.approx(nats, abs=0.02)
