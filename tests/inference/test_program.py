"""The Pyro program and its guide: stock Pyro runs them, and they say what the equations say."""

import io
import itertools
import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO, infer_discrete
from torch.distributions import Categorical, Normal, Poisson

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.message import Anchor
from pyromodels.errors import ShapeError
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.mixture.updates import AssignmentUpdate, SourceUpdate, VisibilityUpdate
from pyromodels.inference.mixture.vem import VEM
from pyromodels.observations.detector import Detector

DETECTOR = Detector(0.9, 0.1, 0.4, hide=0.2, reappear=0.3)
DETECTORS = [pytest.param(None, id="thesis"), pytest.param(DETECTOR, id="detector")]


def identical(batch, times):
    """Many copies of the first sequence, everything seen."""
    one = MixtureBatch(
        batch.observations[:1],
        torch.ones_like(batch.mask[:1]),
        batch.variance[:1],
        Anchor(*(part[:1] for part in batch.anchor)),
    )
    return one.repeat(times)


def padded(batch, frames):
    """The batch with empty frames at its end."""
    def pad(value):
        return torch.cat(
            (value, torch.zeros_like(value[:, :1]).expand(-1, frames, *value.shape[2:])), 1
        )

    return MixtureBatch(
        pad(batch.observations), pad(batch.mask), pad(batch.variance), batch.anchor
    )


@pytest.mark.parametrize("detector", DETECTORS)
def test_sites_have_the_shapes_of_the_table(mixture, detector):
    model, batch = mixture(2, 5, 3, 2, detector=detector)
    trace = poutine.trace(model).get_trace(batch, generate=True)
    dim = model.prior.source_dim
    shapes = {"s": (2, 1, 2, 5, dim), "w": (2, 5, 3), "o": (2, 5, 3, batch.observations.shape[-1])}
    if detector is not None:
        shapes |= {"v": (2, 1, 2, 5), "count": (2, 5, 1)}
    assert {name: tuple(trace.nodes[name]["value"].shape) for name in shapes} == shapes
    sampled = {name for name, site in trace.iter_stochastic_nodes()}
    assert sampled - {"batch", "source", "frame", "observation"} == set(shapes)
    assert torch.equal(trace.nodes["_RETURN"]["value"], trace.nodes["s"]["value"])


def test_prior_predictive_has_the_moments_of_the_dense_gaussian(mixture):
    model, batch = mixture(1, 4, 1, 1)
    many = identical(batch, 20_000)
    pyro.set_rng_seed(0)
    observed = poutine.trace(model).get_trace(many, generate=True).nodes["o"]["value"][:, :, 0]
    assert not torch.equal(observed, many.observations[:, :, 0])
    loc, covariance = batch.anchor.loc[0, 0], torch.diag(batch.anchor.variance[0, 0])
    transition = torch.block_diag(*model.prior.transition)
    noise = torch.diag(model.prior.process_std.square().flatten()).detach()
    for t in range(4):
        if t:
            loc, covariance = transition @ loc, transition @ covariance @ transition.T + noise
        projection = model.observation.projection[0]
        mean = projection @ loc
        variance = (projection @ covariance @ projection.T).diagonal()
        variance = variance + many.variance[0, t, 0]
        error = (observed[:, t].mean(0) - mean) / (variance / len(observed)).sqrt()
        assert error.abs().max() < 5
        error = (observed[:, t].var(0) / variance - 1) / math.sqrt(2 / len(observed))
        assert error.abs().max() < 5


def test_prior_predictive_of_a_detector_has_its_rates(mixture):
    model, batch = mixture(1, 3, 2, 2, detector=DETECTOR)
    many = identical(batch, 5_000)
    pyro.set_rng_seed(0)
    trace = poutine.trace(model).get_trace(many, generate=True)
    visible = trace.nodes["v"]["value"]
    assert (visible[..., 0] == 1).all()
    expected, num = torch.ones(()), 10_000
    for t in range(1, 3):
        expected = expected * (1 - DETECTOR.hide) + (1 - expected) * DETECTOR.reappear
        error = (expected * (1 - expected) / num).sqrt()
        assert (visible[..., t].mean() - expected).abs() < 5 * error
    rates = DETECTOR.rates(visible).sum(2).squeeze(1) + DETECTOR.clutter_rate  # (B, T)
    count = trace.nodes["count"]["value"].squeeze(-1)
    error = ((count - rates).mean() / (rates.mean() / count.numel()).sqrt()).abs()
    assert error < 5
    clutter = (trace.nodes["w"]["value"] == 2).double().mean((0, 2))
    share = (DETECTOR.clutter_rate / rates).mean(0)
    assert (clutter - share).abs().max() < 5 * 0.5 / math.sqrt(10_000)
    is_clutter = trace.nodes["w"]["value"] == 2
    centres = trace.nodes["o"]["value"][is_clutter][:, :2]
    assert centres.min() >= 0
    assert centres.max() <= 1


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("noise_scale", [1.0, 0.5])
def test_log_joint_equals_a_sum_by_hand(mixture, detector, noise_scale):
    model, batch = mixture(2, 4, 3, 2, detector=detector, noise_scale=noise_scale)
    pyro.set_rng_seed(1)
    trace = poutine.trace(model).get_trace(batch)
    s, w = trace.nodes["s"]["value"][:, 0], trace.nodes["w"]["value"]
    transition, std = torch.block_diag(*model.prior.transition), model.prior.process_std.flatten()
    total = torch.zeros(())
    for b, n in itertools.product(range(2), range(2)):
        first = Normal(batch.anchor.loc[b, n], batch.anchor.variance[b, n].sqrt())
        total = total + first.log_prob(s[b, n, 0]).sum()
        for t in range(1, 4):
            total = total + Normal(transition @ s[b, n, t - 1], std).log_prob(s[b, n, t]).sum()
    weights = torch.ones(2, 4, 2)
    if detector is not None:
        v = trace.nodes["v"]["value"][:, 0]
        for b, n, t in itertools.product(range(2), range(2), range(1, 4)):
            up = 1 - detector.hide if v[b, n, t - 1] else detector.reappear
            total = total + math.log(up if v[b, n, t] else 1 - up)
        rates = torch.where(v == 1, detector.visible_rate, detector.hidden_rate).transpose(1, 2)
        weights = torch.cat((rates, torch.full((2, 4, 1), detector.clutter_rate)), -1)
        total = total + Poisson(weights.sum(-1)).log_prob(batch.mask.sum(-1).double()).sum()
    for b, t, k in itertools.product(range(2), range(4), range(3)):
        if not batch.mask[b, t, k]:
            continue
        n, o = int(w[b, t, k]), batch.observations[b, t, k]
        total = total + Categorical(weights[b, t]).log_prob(w[b, t, k])
        if n == 2:
            total = total - o[2:].log().sum()
        else:
            scale = noise_scale * batch.variance[b, t, k].sqrt()
            mean = model.observation.projection[0] @ s[b, n, t]
            total = total + Normal(mean, scale).log_prob(o).sum()
    torch.testing.assert_close(trace.log_prob_sum(), total, atol=1e-10, rtol=1e-12)


@pytest.mark.parametrize("detector", DETECTORS)
def test_assignment_is_enumerated_in_parallel_in_program_and_guide(mixture, randomised, detector):
    model, batch = mixture(2, 5, 3, 2, detector=detector)
    guide = randomised(model, batch)
    components = 2 if detector is None else 3
    for program in (model, guide):
        enumerated = poutine.enum(program, first_available_dim=-1 - model.max_plate_nesting)
        trace = poutine.trace(enumerated).get_trace(batch)
        trace.compute_log_prob()
        assert trace.nodes["w"]["value"].shape == (components, 1, 1, 1)
        assert trace.nodes["w"]["log_prob"].shape == (components, 2, 5, 3)
    guide_trace = poutine.trace(poutine.enum(guide, first_available_dim=-4)).get_trace(batch)
    trace = poutine.trace(poutine.replay(model, guide_trace)).get_trace(batch)
    trace.compute_log_prob()
    assert trace.nodes["o"]["log_prob"].shape == (components, 2, 5, 3)


@pytest.mark.parametrize("detector", DETECTORS)
def test_enumeration_in_the_model_equals_the_marginal_by_hand(mixture, detector):
    model, batch = mixture(1, 3, 2, 2, detector=detector, missing=0.0)
    pyro.set_rng_seed(2)
    sites = poutine.trace(model).get_trace(batch)
    known = {name: sites.nodes[name]["value"] for name in ("s", "v") if name in sites.nodes}
    fixed = poutine.condition(model, data=known)
    loss = TraceEnum_ELBO(max_plate_nesting=3).loss(fixed, lambda batch: None, batch)
    scores = []
    for choice in itertools.product(range(2 + model.num_extra), repeat=6):
        program = poutine.condition(
            model, data={**known, "w": torch.tensor(choice).reshape(1, 3, 2)}
        )
        scores.append(poutine.trace(program).get_trace(batch).log_prob_sum())
    assert -loss == pytest.approx(torch.stack(scores).logsumexp(0).item())


@pytest.mark.parametrize("vectorised", [True, False])
@pytest.mark.parametrize("detector", DETECTORS)
def test_stock_svi_trains_the_program(mixture, detector, vectorised):
    pyro.clear_param_store()
    model, batch = mixture(2, 4, 3, 2, detector=detector)
    guide = MeanField(model, batch)
    vem = VEM(model, guide, [SourceUpdate(), AssignmentUpdate(), VisibilityUpdate()])
    for _ in range(3):
        vem.sweep(batch)

    def program(batch):
        pyro.module("mixdvae", model)
        return model(batch)

    elbo = TraceEnum_ELBO(num_particles=2, vectorize_particles=vectorised, max_plate_nesting=3)
    svi = SVI(program, guide, pyro.optim.Adam({"lr": 0.01}), elbo)
    pyro.set_rng_seed(0)
    before = model.observation.log_noise_scale.detach().clone()
    losses = [svi.step(batch) for _ in range(3)] + [svi.evaluate_loss(batch)]
    assert all(map(math.isfinite, losses))
    assert model.observation.log_noise_scale.item() != before.item()
    pyro.clear_param_store()


def test_predicted_assignments_follow_the_nearest_source(mixture):
    """`infer_discrete` decodes w on the program: stock Pyro, and the right answer."""
    model, batch = mixture(1, 3, 2, 2, missing=0.0)
    loc = batch.anchor.loc.clone()
    loc[0, 0], loc[0, 1] = 0.0, 9.0
    s = loc[:, None, :, None, :].expand(1, 1, 2, 3, 4)
    observations = torch.tensor([[0.1], [8.9]]).expand(1, 3, 2, 2)
    batch = MixtureBatch(
        observations, batch.mask, batch.variance, Anchor(loc, batch.anchor.variance)
    )
    decoded = infer_discrete(
        poutine.condition(model, data={"s": s}), first_available_dim=-4, temperature=0
    )
    w = poutine.trace(decoded).get_trace(batch).nodes["w"]["value"]
    assert w.reshape(3, 2).tolist() == [[0, 1]] * 3


@pytest.mark.parametrize("detector", DETECTORS)
def test_masked_observations_contribute_nothing(mixture, detector):
    model, batch = mixture(detector=detector, missing=0.5)
    other = torch.where(batch.mask[..., None], batch.observations, 123.0)
    changed = MixtureBatch(
        other, batch.mask, torch.where(batch.mask[..., None], batch.variance, 9.0), batch.anchor
    )
    pyro.set_rng_seed(0)
    trace = poutine.trace(model).get_trace(batch)
    score = trace.log_prob_sum()
    replayed = poutine.trace(poutine.replay(model, trace)).get_trace(changed)
    assert torch.equal(replayed.log_prob_sum(), score)
    # and none of the slots: w too has no weight where nothing is seen
    trace.compute_log_prob()
    assert not trace.nodes["w"]["log_prob"][~batch.mask].any()
    assert not trace.nodes["o"]["log_prob"][~batch.mask].any()


@pytest.mark.parametrize("order", [1, 2])
def test_empty_frames_at_the_end_leave_the_posterior_of_the_others(mixture, order):
    model, batch = mixture(2, 5, 3, 2, order=order)
    longer = padded(batch, 4)
    guides = []
    for data in (batch, longer):
        guides.append(MeanField(model, data))
        vem = VEM(model, guides[-1], [SourceUpdate(), AssignmentUpdate()])
        for _ in range(10):
            vem.sweep(data)
    short, long = guides
    for name in ("responsibilities", "loc", "covariance"):
        value, wide = getattr(short, name), getattr(long, name)
        wide = wide[:, :5] if name == "responsibilities" else wide[:, :, :5]
        torch.testing.assert_close(wide, value, atol=1e-11, rtol=1e-9)
    torch.testing.assert_close(vem.elbo(longer), VEM(model, short, []).elbo(batch))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("detector", DETECTORS)
def test_numbers_keep_their_dtype(mixture, detector, dtype):
    model, batch = mixture(detector=detector)
    model, batch = model.to(dtype), batch.to("cpu", dtype)
    guide = MeanField(model, batch)
    vem = VEM(model, guide, [SourceUpdate(), AssignmentUpdate(), VisibilityUpdate()])
    vem.step(batch)
    assert {value.dtype for _, value in guide.named_buffers()} == {dtype}
    assert vem.elbo(batch).dtype == dtype
    torch.set_default_dtype(dtype)
    for program in (model, guide):
        trace = poutine.trace(program).get_trace(batch)
        values = [site["value"] for _, site in trace.iter_stochastic_nodes()]
        assert {value.dtype for value in values if value.is_floating_point()} <= {dtype}
        assert trace.log_prob_sum().dtype == dtype


@pytest.mark.parametrize("detector", DETECTORS)
def test_state_dict_of_the_guide_survives_a_file_without_pickled_code(
    mixture, randomised, detector
):
    model, batch = mixture(detector=detector)
    guide = randomised(model, batch)
    file = io.BytesIO()
    torch.save(guide.state_dict(), file)
    file.seek(0)
    other = MeanField(model, batch)
    other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    s = guide.sources.rsample()
    torch.testing.assert_close(other.sources.log_prob(s), guide.sources.log_prob(s), atol=0, rtol=0)
    for name, value in guide.named_buffers():
        assert torch.equal(value, dict(other.named_buffers())[name])


def test_batches_that_do_not_fit_are_refused(mixture):
    _, batch = mixture()
    parts = batch.observations, batch.mask, batch.variance, batch.anchor
    with pytest.raises(ShapeError, match="observations"):
        MixtureBatch(batch.observations[0], *parts[1:])
    with pytest.raises(ShapeError, match="mask"):
        MixtureBatch(parts[0], batch.mask[:, 1:], *parts[2:])
    with pytest.raises(ShapeError, match="anchor"):
        MixtureBatch(*parts[:3], Anchor(batch.anchor.loc[0], batch.anchor.variance[0]))
    seen = batch.mask.nonzero()[0].tolist()
    for name, value in (
        ("observations", float("nan")),
        ("variance", 0.0),
        ("variance", float("inf")),
    ):
        given = {key: getattr(batch, key).clone() for key in ("observations", "variance")}
        given[name][tuple(seen)] = value
        with pytest.raises(ValueError, match=name):
            MixtureBatch(given["observations"], batch.mask, given["variance"], batch.anchor)


def test_batch_repeats_and_reports_its_sizes(mixture):
    _, batch = mixture(2, 5, 3, 4)
    assert (batch.num_sequences, batch.num_frames, batch.num_sources) == (2, 5, 4)
    twice = batch.repeat(2)
    assert twice.num_sequences == 4
    assert torch.equal(twice.observations[2:], batch.observations)
    assert torch.equal(twice.anchor.loc[2:], batch.anchor.loc)


def test_an_empty_slot_adds_nothing_when_owners_are_summed_out(mixture):
    model, batch = mixture()
    padded = MixtureBatch(
        *(torch.cat((part, part[:, :, :2]), 2) for part in (batch.observations,)),
        torch.cat((batch.mask, torch.zeros_like(batch.mask[:, :, :2])), 2),
        torch.cat((batch.variance, batch.variance[:, :, :2]), 2),
        batch.anchor,
    )
    guide = MeanField(model, batch).parametrised("marginal")
    losses = []
    for data in (batch, padded):
        torch.manual_seed(0)
        losses.append(TraceEnum_ELBO(max_plate_nesting=3).loss(model, guide, data))
    assert losses[1] == pytest.approx(losses[0])
