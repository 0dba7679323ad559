"""Variational EM as a whole: bound, exact limits, the stepper."""

import dataclasses
import itertools
import math

import pyro
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch.distributions import MultivariateNormal

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.srnn import SRNN
from pyromodels.emissions.gaussian import Gaussian
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.mixture.bound import closed_form_elbo
from pyromodels.inference.mixture.restarts import keep_best
from pyromodels.inference.mixture.updates import (
    AssignmentUpdate,
    FineTuneUpdate,
    ObservationNoiseUpdate,
    ProcessNoiseUpdate,
    SourceUpdate,
    VisibilityUpdate,
)
from pyromodels.inference.mixture.vem import VEM
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.observations.detector import Detector

CLOSE = {"atol": 1e-9, "rtol": 1e-9}
DETECTOR = Detector(0.9, 0.1, 0.4, hide=0.2, reappear=0.3)
DETECTORS = [pytest.param(None, id="thesis"), pytest.param(DETECTOR, id="detector")]
STEPS = [SourceUpdate(), AssignmentUpdate(), VisibilityUpdate()]


def dense_prior(prior, anchor, num_frames):
    """Mean (T D) and covariance of one source's trajectory, the anchor that of this source."""
    transition = torch.block_diag(*prior.transition)
    noise = torch.diag((prior.process_std * prior.unit(anchor)).square().flatten()).detach()
    dim = len(transition)
    loc, covariance = [anchor.loc], torch.zeros(num_frames * dim, num_frames * dim)
    last = slice(0, dim)
    covariance[last, last] = torch.diag(anchor.variance)
    for t in range(1, num_frames):
        at, past = slice(t * dim, (t + 1) * dim), slice(0, t * dim)
        loc.append(transition @ loc[-1])
        covariance[at, past] = transition @ covariance[last, past]
        covariance[past, at] = covariance[at, past].T
        covariance[at, at] = transition @ covariance[last, last] @ transition.T + noise
        last = at
    return torch.cat(loc), covariance


def log_evidence(model, batch):
    """log p(o, K) of one sequence, by enumeration of assignments and visibilities."""
    (num_frames, num_slots), num_sources = batch.mask.shape[1:], batch.num_sources
    places = [(t, k) for t in range(num_frames) for k in range(num_slots) if batch.mask[0, t, k]]
    sources = [
        dense_prior(model.prior, Anchor(*(part[0, n] for part in batch.anchor)), num_frames)
        for n in range(num_sources)
    ]
    dim, projection = model.prior.source_dim, model.observation.projection[0]
    observation = batch.observations[0]

    def likelihood(choice):
        total = torch.zeros(())
        for n, (loc, covariance) in enumerate(sources):
            own = [place for place, w in zip(places, choice, strict=True) if w == n]
            if not own:
                continue
            reader = torch.zeros(len(own), len(projection), num_frames * dim)
            for row, (t, _) in enumerate(own):
                reader[row, :, t * dim : (t + 1) * dim] = projection
            reader = reader.flatten(0, 1)
            noise = torch.cat([batch.variance[0, t, k] for t, k in own])
            law = MultivariateNormal(
                reader @ loc, reader @ covariance @ reader.T + torch.diag(noise)
            )
            total = total + law.log_prob(torch.cat([observation[t, k] for t, k in own]))
        for (t, k), w in zip(places, choice, strict=True):
            if w == num_sources:
                total = total - observation[t, k, 2:].log().sum()  # uniform in log size
        return total

    detector = model.detector
    if detector is None:
        choices = itertools.product(range(num_sources), repeat=len(places))
        scores = [likelihood(c) - len(places) * math.log(num_sources) for c in choices]
        return torch.stack(scores).logsumexp(0)
    scores = []
    choices = list(itertools.product(range(num_sources + 1), repeat=len(places)))
    likelihoods = [likelihood(choice) for choice in choices]
    for flags in itertools.product((0, 1), repeat=num_sources * (num_frames - 1)):
        visible = torch.ones(num_sources, num_frames, dtype=torch.long)
        visible[:, 1:] = torch.tensor(flags).reshape(num_sources, num_frames - 1)
        log_v = 0.0
        for n, t in itertools.product(range(num_sources), range(1, num_frames)):
            up = 1 - detector.hide if visible[n, t - 1] else detector.reappear
            up = up if visible[n, t] else 1 - up
            log_v += math.log(up) if up > 0 else -math.inf
        rates = torch.full((num_sources + 1, num_frames), detector.clutter_rate)
        rates[:-1] = torch.tensor([detector.hidden_rate, detector.visible_rate])[visible]
        count = batch.mask[0].sum(-1).double()
        total_rate = rates.sum(0)
        log_count = (count * total_rate.log() - total_rate - torch.lgamma(count + 1)).sum()
        for choice, seen in zip(choices, likelihoods, strict=True):
            log_w = sum(
                (rates[w, t] / total_rate[t]).log()
                for (t, _), w in zip(places, choice, strict=True)
            )
            scores.append(log_v + log_count + log_w + seen)
    return torch.stack(scores).logsumexp(0)


def fit(model, batch, updates=tuple(STEPS), sweeps=40):
    vem = VEM(model, MeanField(model, batch), updates)
    bounds = [vem.elbo(batch)]
    for _ in range(sweeps):
        vem.sweep(batch)
        bounds.append(vem.elbo(batch))
    return vem.guide, torch.stack(bounds)


# the bound


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    "steps",
    list(itertools.permutations(range(3))),
    ids=lambda steps: "".join("SWV"[i] for i in steps),
)
def test_bound_never_falls_in_any_order_of_the_steps(mixture, detector, order, steps):
    model, batch = mixture(3, 8, 4, 3, detector=detector, order=order, seed=3)
    _, bounds = fit(model, batch, [STEPS[i] for i in steps], 30)
    assert bounds.diff(dim=0).min() > -1e-9
    assert (bounds[-1] > bounds[0] + 0.1).all()


@pytest.mark.parametrize("detector", DETECTORS)
def test_bound_never_falls_after_any_single_update_noises_included(mixture, detector):
    model, batch = mixture(3, 8, 4, 3, detector=detector, seed=4)
    process = ProcessNoiseUpdate(model.prior.process_std.detach().clone(), strength=0.0)
    updates = [
        SourceUpdate(),
        process,
        VisibilityUpdate(),
        AssignmentUpdate(),
        ObservationNoiseUpdate(),
    ]
    vem = VEM(model, MeanField(model, batch), updates)
    bounds = [vem.elbo(batch).sum()]
    for update in updates * 20:
        with torch.no_grad():
            update(model, vem.guide, batch)
        bounds.append(vem.elbo(batch).sum())
    assert torch.stack(bounds).diff().min() > -1e-9


@pytest.mark.parametrize("order", [1, 2])
def test_one_source_and_all_its_own_the_posterior_and_evidence_are_exact(mixture, order):
    model, batch = mixture(1, 6, 2, 1, order=order, seed=1)
    guide, bounds = fit(model, batch, [AssignmentUpdate(), SourceUpdate()], 1)
    torch.testing.assert_close(bounds[-1, 0], log_evidence(model, batch), **CLOSE)
    loc, covariance = dense_prior(model.prior, Anchor(*(p[0, 0] for p in batch.anchor)), 6)
    precision, information = torch.linalg.inv(covariance), torch.linalg.solve(covariance, loc)
    dim = model.prior.source_dim
    for t, k in itertools.product(range(6), range(2)):
        if batch.mask[0, t, k]:
            at = slice(t * dim, (t + 1) * dim)
            weight = model.observation.projection[0].T / batch.variance[0, t, k]
            precision[at, at] += weight @ model.observation.projection[0]
            information[at] += weight @ batch.observations[0, t, k]
    covariance = torch.linalg.inv(precision)
    torch.testing.assert_close(guide.sources.loc[0, 0].flatten(), covariance @ information, **CLOSE)
    torch.testing.assert_close(
        guide.sources.variance[0, 0].flatten(), covariance.diagonal(), **CLOSE
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("detector", DETECTORS)
def test_bound_stays_below_the_exact_evidence(mixture, detector, seed):
    num_frames = 3 if detector is None else 2
    model, batch = mixture(1, num_frames, 2, 2, detector=detector, num_coordinates=1, seed=seed)
    evidence = log_evidence(model, batch)
    _, bounds = fit(model, batch)
    assert bounds.max() <= evidence + 1e-9
    assert bounds[-1, 0] > evidence - 5  # nats: a bound, and not any number below


@pytest.mark.parametrize("detector", DETECTORS)
def test_bound_meets_the_evidence_where_the_assignment_is_clear(mixture, detector):
    model, batch = mixture(1, 2, 2, 2, detector=detector, missing=0.0)
    step = model.prior.block_dim
    loc = batch.anchor.loc.clone()
    loc[0, 0, ::step], loc[0, 1, ::step] = 0.5, 30.0
    observations = torch.full_like(batch.observations, 0.5)
    observations[:, :, 1] = 30.0
    batch = dataclasses.replace(
        batch, observations=observations, anchor=batch.anchor._replace(loc=loc)
    )
    if detector is not None:
        detector = dataclasses.replace(detector, hide=0.0, clutter_rate=1e-12)
        model.detector = detector
    _, bounds = fit(model, batch)
    torch.testing.assert_close(bounds[-1, 0], log_evidence(model, batch), atol=1e-6, rtol=0)


@pytest.mark.parametrize("particles", ["vectorised", "one by one"])
@pytest.mark.parametrize("detector", DETECTORS)
def test_closed_form_bound_equals_monte_carlo_of_the_program(
    mixture, randomised, detector, particles
):
    model, batch = mixture(2, 4, 3, 2, detector=detector)
    guide = randomised(model, batch)
    exact = closed_form_elbo(model, guide, batch).sum()
    together = particles == "vectorised"
    elbo = TraceEnum_ELBO(
        num_particles=200 if together else 1,
        vectorize_particles=together,
        max_plate_nesting=model.max_plate_nesting,
    )
    pyro.set_rng_seed(0)
    estimates = -torch.tensor(
        [elbo.loss(model, guide, batch) for _ in range(40 if together else 400)]
    )
    error = (estimates.mean() - exact) / (estimates.std() / len(estimates) ** 0.5)
    assert error.abs() < 5


def test_no_slot_at_all_leaves_the_prior(mixture):
    model, batch = mixture(2, 5, 0, 2)
    guide, bounds = fit(model, batch, STEPS, 2)
    for b, n in itertools.product(range(2), range(2)):
        loc, covariance = dense_prior(model.prior, Anchor(*(p[b, n] for p in batch.anchor)), 5)
        torch.testing.assert_close(guide.sources.loc[b, n].flatten(), loc, **CLOSE)
        torch.testing.assert_close(
            guide.sources.variance[b, n].flatten(), covariance.diagonal(), **CLOSE
        )
    torch.testing.assert_close(bounds[-1], torch.zeros(2), atol=1e-9, rtol=0)


@pytest.mark.parametrize("scale", [1e-5, 1e5])
def test_answers_are_equivariant_under_a_change_of_units(mixture, scale):
    model, batch = mixture(2, 6, 3, 2)
    guide, bounds = fit(model, batch)
    model.prior.process_std = model.prior.process_std * scale
    other = MixtureBatch(
        batch.observations * scale,
        batch.mask,
        batch.variance * scale**2,
        Anchor(batch.anchor.loc * scale, batch.anchor.variance * scale**2),
    )
    scaled, scaled_bounds = fit(model, other)
    torch.testing.assert_close(scaled.loc / scale, guide.loc, **CLOSE)
    torch.testing.assert_close(scaled.covariance / scale**2, guide.covariance, **CLOSE)
    torch.testing.assert_close(scaled.responsibilities, guide.responsibilities, **CLOSE)
    # densities have units: one log(scale) for each observed number
    shift = batch.mask.sum((1, 2)) * batch.observations.shape[-1] * math.log(scale)
    torch.testing.assert_close(scaled_bounds[-1] + shift, bounds[-1], **CLOSE)


# the stepper


@pytest.mark.parametrize("detector", DETECTORS)
def test_step_returns_the_loss_that_evaluate_loss_and_the_bound_give(mixture, detector):
    model, batch = mixture(detector=detector)
    vem = VEM(model, MeanField(model, batch), STEPS)
    loss = vem.step(batch)
    assert loss == pytest.approx(vem.evaluate_loss(batch), rel=1e-12)
    assert loss == pytest.approx(-closed_form_elbo(model, vem.guide, batch).sum().item())


def test_run_stops_once_no_responsibility_moves(mixture):
    model, batch = mixture(detector=DETECTOR)
    whole = VEM(model, MeanField(model, batch), STEPS)
    assert whole.run(batch, 60) == 60
    stopped = VEM(model, MeanField(model, batch), STEPS)
    seen = []
    made = stopped.run(batch, 60, tolerance=1e-8, callback=seen.append)
    assert made < 60 and seen == list(range(made))
    torch.testing.assert_close(stopped.guide.loc, whole.guide.loc, rtol=1e-6, atol=1e-8)


def test_state_dict_resumes_a_fit(mixture):
    def stepper():
        model, batch = mixture(detector=DETECTOR)
        process = ProcessNoiseUpdate(torch.ones(4, 2))
        return VEM(model, MeanField(model, batch), [*STEPS, process]), batch

    vem, batch = stepper()
    vem.step(batch)
    other, _ = stepper()
    other.load_state_dict({name: value.clone() for name, value in vem.state_dict().items()})
    assert other.evaluate_loss(batch) == pytest.approx(vem.evaluate_loss(batch))
    assert [other.step(batch) for _ in range(3)] == [vem.step(batch) for _ in range(3)]


def test_the_best_start_is_kept_and_never_one_without_a_bound(mixture):
    model, batch = mixture(2)
    guide = MeanField(model, batch.repeat(3))
    guide.loc = torch.arange(6.0).reshape(6, 1, 1, 1, 1).expand_as(guide.loc).clone()
    nan = float("nan")
    best = keep_best(torch.tensor([1.0, nan, 3.0, -4.0, nan, -5.0]), guide, 3).best
    assert best.tolist() == [1, 1]
    assert guide.loc[:, 0, 0, 0, 0].tolist() == [2.0, 3.0]
    with pytest.raises(FloatingPointError, match="no start of sequence 1"):
        keep_best(torch.tensor([1.0, nan, 2.0, nan]), MeanField(model, batch.repeat(2)), 2)


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("order", ["SWV", "VWS", "SVWS", "WV", "SPWV", "SWP"])
def test_the_loss_from_known_parts_is_the_loss(mixture, detector, order):
    model, batch = mixture(detector=detector)
    process = ProcessNoiseUpdate(model.prior.process_std.detach().clone())
    steps = [dict(zip("SWVP", [*STEPS, process], strict=True))[letter] for letter in order]
    vem = VEM(model, MeanField(model, batch), steps)
    for _ in range(3):
        loss = vem.step(batch)
        assert loss == pytest.approx(vem.evaluate_loss(batch), rel=1e-11)


def test_a_state_dict_does_not_change_under_its_holder(mixture):
    model, batch = mixture()
    process = ProcessNoiseUpdate(model.prior.process_std.detach().clone())
    vem = VEM(model, MeanField(model, batch), [*STEPS, process])
    vem.step(batch)
    state, loss = vem.state_dict(), vem.evaluate_loss(batch)
    vem.step(batch)
    vem.load_state_dict(state)
    assert vem.evaluate_loss(batch) == pytest.approx(loss, rel=1e-12)


def test_updates_with_a_state_of_their_own_resume(mixture):
    _, batch = mixture(2, 5, 2, 2)
    anchor = Anchor(*(part[..., ::2] for part in batch.anchor))
    batch = MixtureBatch(batch.observations, batch.mask, batch.variance, anchor)

    def stepper():
        torch.manual_seed(0)
        prior = SRNN(
            source_dim=2, latent_dim=2, hidden_dim=3, emission=Gaussian("increment", scale="unit")
        )
        model = MixDVAE(prior)
        noisy = SourceUpdate(generator=torch.Generator().manual_seed(1))
        return VEM(model, MeanField(model, batch), [noisy, FineTuneUpdate(prior)])

    cut = stepper()
    torch.manual_seed(2)
    cut.step(batch)
    state, random = cut.state_dict(), torch.get_rng_state()
    whole = stepper()
    torch.manual_seed(2)
    whole.step(batch)
    expected = [whole.step(batch) for _ in range(2)]
    resumed = stepper()
    resumed.load_state_dict(state)
    torch.set_rng_state(random)
    assert [resumed.step(batch) for _ in range(2)] == expected


def test_process_noise_of_a_minibatch_is_refused(mixture):
    model, batch = mixture(3)
    vem = VEM(model, MeanField(model, batch), [ProcessNoiseUpdate(torch.ones(4, 2))])
    with pytest.raises(ValueError, match="minibatch"):
        vem.sweep(batch.subset(torch.tensor([0, 2])))
