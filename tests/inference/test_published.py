"""The published inference: against a plain loop, its two schedules against each other, by hand."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal

from pyromodels.dynamics.deep_ar import DeepAR
from pyromodels.dynamics.srnn import SRNN
from pyromodels.emissions.gaussian import Gaussian
from pyromodels.errors import ShapeError
from pyromodels.inference.published import schedule as published_run
from pyromodels.inference.published.method import box_variance, published_vem
from pyromodels.inference.published.options import PublishedOptions

EXACT = {"rtol": 1e-10, "atol": 1e-10}
SHORT = PublishedOptions(
    sample_latents=False, num_iterations=4, cascade_piece=3, cascade_iterations=2
)
PRIORS = {
    "srnn": lambda: SRNN(),
    "srnn_bare": lambda: SRNN(
        hidden_dim=3, latent_dim=2, input_dims=(), encoder={"preset": "srnn_filter", "dims": (5,)}
    ),
    "srnn_deep": lambda: SRNN(
        input_dims=(3, 5), encoder={"preset": "srnn_filter", "dims": (4, 3, 5)},
        decoder_dims=(6, 7), emission=Gaussian(std_range=(0.4, 0.9))
    ),
    "deep_ar": lambda: DeepAR(),
    "deep_ar_deep": lambda: DeepAR(
        input_dims=(5,), decoder_dims=(6, 3), emission=Gaussian(std_range=(0.4, 0.9))
    ),
}
CHANGES = {
    "reference": {},
    "paper": {
        "tempering": 1.0,
        "weight_floor": None,
        "decoder_starts_from_anchor": False,
        "sample_sources": True,
        "sample_latents": True,
    },
    "noise": {"sample_latents": True},
    "sources_first": {"order": "sources_first"},
    "sources_first_noise": {"order": "sources_first", "sample_sources": True},
    "no_cascade": {"cascade_piece": None},
}
SIZES = {  # B, T, N, K
    "usual": (2, 7, 3, 4),
    "longer_than_iterations": (1, 11, 2, 2),
    "one_frame": (2, 1, 2, 3),
    "two_frames": (1, 2, 1, 1),
    "one_source": (2, 5, 1, 2),
    "nothing_observed": (2, 5, 2, 0),
    "more_sources": (2, 4, 5, 2),
}


def scene(num_sequences, num_frames, num_sources, num_slots, seed=0):
    """Overlapping clusters in float64, a quarter of the observations missing (NaN)."""
    torch.manual_seed(seed)
    slots = (num_sequences, num_frames, num_slots)
    mask = torch.rand(slots) < 0.75
    observations = torch.rand(*slots, 4, dtype=torch.float64)
    observations[~mask] = torch.nan
    return {
        "observations": observations,
        "mask": mask,
        "observation_variance": 0.05 + torch.rand(*slots, 4, dtype=torch.float64),
        "anchor_loc": torch.rand(num_sequences, num_sources, 4, dtype=torch.float64),
    }


def make_prior(name):
    torch.manual_seed(1)
    return PRIORS[name]().double()


class Table:
    """Noise that depends on the cell and not on the order of the draws."""

    def __init__(self, size, like, generator):
        self.size, self.width = size, like.shape[0] * like.shape[1]

    def cell(self, iteration, frame):
        generator = torch.Generator().manual_seed(1000 * iteration + 10 * frame + self.size % 2)
        shape = (self.size, self.width)
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def __call__(self, diagonal, first, last):
        return torch.cat([self.cell(diagonal - t, t) for t in range(first, last)], 1)


@pytest.fixture
def table_noise(monkeypatch):
    monkeypatch.setattr(published_run, "_noise", Table)


def assert_same(one, other):
    for ours, theirs in zip(one[:3], other[:3], strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


# ---- a plain loop, as the thesis writes it (Algorithms 1 and 2)


def plain_weights(data, loc, variance, options):
    """eta_tkn, shape (B, T, K, N): densities in the linear domain, or logs."""
    o, phi = (data[name].unsqueeze(3) for name in ("observations", "observation_variance"))
    m, v = (x.transpose(1, 2).unsqueeze(2) for x in (loc, variance))
    log_weight = -0.5 * options.tempering * ((o - m).square() / phi + v / phi).sum(-1)
    if options.weight_floor is None:
        eta = log_weight.softmax(-1)
    else:
        weight = log_weight.exp() / phi.prod(-1).sqrt() + options.weight_floor
        eta = weight / weight.sum(-1, keepdim=True)
    return torch.where(data["mask"].unsqueeze(-1), eta, 0.0)


def plain_sources(prior, data, eta, loc, s, anchor, options, iteration):
    """One E-Z / E-S sweep; returns m, V, s."""
    shape, srnn = loc.shape[:2], isinstance(prior, SRNN)
    zeros = torch.zeros_like(anchor).flatten(0, 1)
    x = anchor.flatten(0, 1) if options.decoder_starts_from_anchor else zeros
    state = prior.recurrence.initial_state(zeros)
    h_past = prior.recurrence(s) if srnn else None
    z = anchor.new_zeros(*shape, prior.latent_dim if srnn else 0)
    locs, variances, sources = [], [], []
    for t in range(loc.shape[2]):
        state = prior.recurrence.step(x, state)
        h = state[0].unflatten(0, shape)
        if srnn:
            mean, log_variance = prior.encoder.head(torch.cat((h_past[:, :, t], s[:, :, t]), -1), z)
            z = mean
            if options.sample_latents:
                z = z + (0.5 * log_variance).exp() * by_row(z, iteration, t)
        mean, log_variance = prior.decoder(h, z) if srnn else prior.decoder(h)
        variance = prior.emission.scale_of(log_variance).square()
        if t == 0:
            mean, variance = anchor, torch.full_like(anchor, options.pinned_variance)
        precision, information = 1 / variance, mean / variance
        for k in range(eta.shape[2]):
            seen = data["mask"][:, t, k, None, None]
            weight = eta[:, t, k, :, None] / data["observation_variance"][:, t, k, None]
            precision = precision + torch.where(seen, weight, 0.0)
            term = weight * data["observations"][:, t, k, None]
            information = information + torch.where(seen, term, 0.0)
        m, v = information / precision, 1 / precision
        locs.append(m), variances.append(v)
        noise = v.sqrt() * by_row(m, iteration, t) if options.sample_sources else 0.0
        sources.append(m + noise)
        x = sources[-1].flatten(0, 1)
    return tuple(torch.stack(path, 2) for path in (locs, variances, sources))


def by_row(like, iteration, frame):
    """The table's noise, (size, N B) -> (B, N, size), for z (size L) and s (size D) alike."""
    draw = Table(like.shape[-1], like, None).cell(iteration, frame)
    return draw.unflatten(1, (like.shape[1], like.shape[0])).permute(2, 1, 0)


def plain_iterations(prior, data, loc, variance, anchor, options, num_iterations):
    s, num_sources = loc, loc.shape[1]
    eta = data["mask"].unsqueeze(-1) * torch.full((num_sources,), 1 / num_sources).to(loc)
    first = options.order == "assignment_first"
    for iteration in range(num_iterations):
        if first:
            eta = plain_weights(data, loc, variance, options)
        loc, variance, s = plain_sources(prior, data, eta, loc, s, anchor, options, iteration)
        if not first:
            eta = plain_weights(data, loc, variance, options)
    return eta, loc, variance


@torch.no_grad()
def plain(prior, data, variance, options):
    data, anchor = dict(data), data["anchor_loc"]
    data["observations"] = data["observations"].nan_to_num(0.0)
    num_frames, pieces = data["mask"].shape[1], []
    piece, begin = options.cascade_piece or num_frames, anchor
    for t in range(0, num_frames, piece):
        part = {n: v[:, t : t + piece] for n, v in data.items() if n != "anchor_loc"}
        start = begin.unsqueeze(2).expand(-1, -1, part["mask"].shape[1], -1)
        pieces.append(start)
        v = variance.unsqueeze(2).expand_as(start)
        arguments = (start, v, begin, options, options.cascade_iterations)
        begin = plain_iterations(prior, part, *arguments)[1][:, :, -1]
    loc = torch.cat(pieces, 2)
    v = variance.unsqueeze(2).expand_as(loc)
    return plain_iterations(prior, data, loc, v, anchor, options, options.num_iterations)


@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize("name", PRIORS)
def test_equals_the_plain_loop(name, changes, table_noise):
    prior, data = make_prior(name), scene(2, 7, 3, 4)
    variance = 0.1 + torch.rand(2, 3, 4, dtype=torch.float64)
    options = replace(SHORT, **CHANGES[changes])
    result = published_vem(prior, **data, options=options, initial_variance=variance)
    assert_same(result, plain(prior, data, variance, options))


# ---- schedules, chunks, history


@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", ["srnn", "deep_ar"])
def test_wavefront_equals_sweeps(name, sizes, changes, table_noise):
    prior, data = make_prior(name), scene(*SIZES[sizes])
    options = replace(SHORT, **CHANGES[changes])
    results = [
        published_vem(prior, **data, options=options, history=(1, 3, 4), schedule=schedule)
        for schedule in ("wavefront", "sweeps")
    ]
    assert_same(*results)
    for iteration in (1, 3, 4):
        assert_same(*(result.kept[iteration] for result in results))
    assert_same(results[0], results[0].kept[4])


def test_history_is_what_fewer_iterations_give():
    prior, data = make_prior("srnn"), scene(2, 7, 3, 4)
    kept = published_vem(prior, **data, options=SHORT, history=(3, 1)).kept
    assert list(kept) == [3, 1]
    for iteration, q in kept.items():
        options = replace(SHORT, num_iterations=iteration)
        assert_same(q, published_vem(prior, **data, options=options))


@pytest.mark.parametrize("schedule", ["wavefront", "sweeps"])
def test_an_early_stop_ends_where_more_iterations_would(schedule):
    prior, data = make_prior("srnn"), scene(2, 7, 3, 4)
    options = replace(SHORT, num_iterations=400)
    whole = published_vem(prior, **data, options=options, schedule=schedule)
    rule = replace(options, tolerance=1e-9)
    stopped = published_vem(prior, **data, options=rule, schedule=schedule)
    torch.testing.assert_close(stopped.loc, whole.loc, rtol=1e-6, atol=1e-8)
    loose = replace(options, tolerance=0.05)
    early = published_vem(prior, **data, options=loose, schedule=schedule)
    assert not torch.equal(early.loc, whole.loc)  # it did stop
    torch.testing.assert_close(early.loc, whole.loc, rtol=0, atol=0.05)


def test_an_early_stop_keeps_no_history():
    options = replace(SHORT, tolerance=0.1)
    with pytest.raises(ValueError, match="history.*early stop"):
        published_vem(make_prior("srnn"), **scene(2, 7, 3, 4), options=options, history=(1,))


def test_iterations_can_be_taken_up_again():
    prior, data = make_prior("srnn"), scene(2, 7, 3, 4)
    whole = published_vem(prior, **data, options=SHORT)
    half = published_vem(prior, **data, options=replace(SHORT, num_iterations=2))
    rest = published_vem(
        prior,
        **data,
        options=replace(SHORT, num_iterations=2),
        initial_loc=half.loc,
        initial_variance=half.variance,
    )
    assert_same(rest, whole)


def test_chunks_change_nothing():
    prior, data = make_prior("srnn"), scene(5, 7, 3, 4)
    whole = published_vem(prior, **data, options=SHORT, cells_at_once=10**6)
    assert_same(published_vem(prior, **data, options=SHORT, cells_at_once=42), whole)
    for index in range(5):
        alone = {name: v[index : index + 1] for name, v in data.items()}
        one = published_vem(prior, **alone, options=SHORT)
        assert_same(one, tuple(v[index : index + 1] for v in whole[:3]))


def test_a_seed_fixes_the_noise_and_the_noise_is_there():
    prior, data = make_prior("srnn"), scene(2, 7, 3, 4)
    options = replace(SHORT, sample_latents=True, sample_sources=True)
    one, two, three = (
        published_vem(prior, **data, options=options, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(one.loc, two.loc)
    assert not torch.equal(one.loc, three.loc)


def test_float32_and_what_autograd_may_read():
    prior = make_prior("srnn").float()
    data = {n: v if v.dtype == torch.bool else v.float() for n, v in scene(2, 7, 3, 4).items()}
    result = published_vem(prior, **data, options=SHORT)
    assert all(v.dtype == torch.float32 for v in result[:3])
    (prior.recurrence(result.loc).sum()).backward()
    assert prior.recurrence.lstm.weight_hh_l0.grad.abs().sum() > 0


# ---- by hand


@pytest.mark.parametrize("num_slots", [0, 1, 3])
def test_updates_by_hand(num_slots):
    """One frame and iteration: eta by enumeration of assignments, q(s) by completing squares."""
    data = scene(1, 1, 2, num_slots, seed=3)
    data["mask"] = torch.ones(1, 1, num_slots, dtype=torch.bool)
    data["observations"] = torch.rand(1, 1, num_slots, 4, dtype=torch.float64)
    variance = 0.1 + torch.rand(1, 2, 4, dtype=torch.float64)
    options = replace(
        SHORT, tempering=1.0, weight_floor=None, num_iterations=1, pinned_variance=0.3
    )
    arguments = {"options": options, "initial_variance": variance}
    eta, loc, scale = published_vem(make_prior("deep_ar"), **data, **arguments)[:3]

    o, phi = data["observations"][0, 0], data["observation_variance"][0, 0]
    anchor = data["anchor_loc"][0]
    expected = torch.zeros(num_slots, 2, dtype=torch.float64)
    total = 0.0
    for assignment in itertools.product(range(2), repeat=num_slots):
        joint = 1.0  # E_q(s) log p(o | w, s), exponentiated
        for k, n in enumerate(assignment):
            density = Normal(anchor[n], phi[k].sqrt()).log_prob(o[k]).sum()
            joint *= (density - 0.5 * (variance[0, n] / phi[k]).sum()).exp()
        total += joint
        for k, n in enumerate(assignment):
            expected[k, n] += joint
    torch.testing.assert_close(eta[0, 0], expected / total, **EXACT)

    for n in range(2):
        mean, spread = anchor[n], torch.full((4,), 0.3, dtype=torch.float64)
        for k in range(num_slots):  # N(s; mean, spread) N(o; s, phi)^eta, one after the other
            gain = spread / (spread + phi[k] / eta[0, 0, k, n])
            mean, spread = mean + gain * (o[k] - mean), (1 - gain) * spread
        torch.testing.assert_close(loc[0, n, 0], mean, **EXACT)
        torch.testing.assert_close(scale[0, n, 0], spread, **EXACT)


def test_the_order_of_detections_does_not_matter_with_their_own_sizes():
    prior, data = make_prior("srnn"), scene(2, 7, 3, 4)
    boxes = data["observations"]
    start = {"options": SHORT, "initial_variance": torch.full_like(data["anchor_loc"], 0.1)}
    order = torch.rand(boxes.shape[:3]).argsort(-1)

    def shuffled(values):
        return values.gather(2, order.unsqueeze(-1).expand_as(values))

    data["observation_variance"] = box_variance(boxes, covariance_from="observation")
    ordered = published_vem(prior, **data, **start)
    other = dict(data, observations=shuffled(boxes))
    other["mask"] = shuffled(data["mask"].unsqueeze(-1)).squeeze(-1)
    other["observation_variance"] = box_variance(
        other["observations"], covariance_from="observation"
    )
    result = published_vem(prior, **other, **start)
    eta = shuffled(ordered.responsibilities)
    assert_same(result, (eta, ordered.loc, ordered.variance))


def test_empty_slots_change_nothing():
    prior, data = make_prior("srnn"), scene(2, 7, 3, 4)
    expected = published_vem(prior, **data, options=SHORT)
    wider = dict(data)
    for name, value in (("observations", torch.nan), ("observation_variance", torch.nan)):
        padding = torch.full_like(data[name][:, :, :2], value)
        wider[name] = torch.cat((data[name], padding), 2)
    wider["mask"] = torch.nn.functional.pad(data["mask"], (0, 2))
    result = published_vem(prior, **wider, options=SHORT)
    assert not result.responsibilities[:, :, 4:].any()
    assert_same((result.responsibilities[:, :, :4], *result[1:3]), expected)


def test_responsibilities_are_probabilities_where_something_is_observed():
    data = scene(2, 7, 3, 4)
    eta = published_vem(make_prior("srnn"), **data, options=SHORT).responsibilities
    assert (eta >= 0).all()
    torch.testing.assert_close(eta.sum(-1), data["mask"].double(), **EXACT)


def test_slot_covariance_is_that_of_the_first_frame():
    boxes = torch.rand(2, 3, 2, 4)
    variance = box_variance(boxes, ratio=0.1)
    expected = (0.1 * (boxes[:, 0, :, 2] - boxes[:, 0, :, 0])).square()
    for t in range(3):
        torch.testing.assert_close(variance[:, t, :, 0], expected)
        torch.testing.assert_close(variance[:, t, :, 2], expected)


# ---- errors

RECURRENT = {"preset": "srnn_filter", "feedback_dim": 4}  # the size of z


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"prior": SRNN(emission=Gaussian("increment"))}, ValueError, "predicts positions"),
        *(
            ({"prior": SRNN(encoder=encoder)}, ValueError, "an SRNN that filters")
            for encoder in ("vae", "vrnn", "srnn", {**RECURRENT, "feedback": "all"})
        ),
        ({"prior": SRNN()}, ValueError, "observations.*float64.*float32"),
        ({"anchor_loc": torch.zeros(2, 3, 2).double()}, ShapeError, r"anchor_loc.*\(2, 3, 4\)"),
        ({"initial_loc": torch.zeros(2, 3, 5, 4)}, ShapeError, r"initial_loc.*\(2, 3, 7, 4\)"),
        ({"mask": torch.ones(2, 7, 5, dtype=torch.bool)}, ShapeError, "observations"),
        ({"history": (0, 5)}, ValueError, "from 1 to 4"),
        ({"mask": torch.ones(2, 7, 4, dtype=torch.bool)}, ValueError, "observations.*NaN"),
        ({"observation_variance": torch.zeros(2, 7, 4, 4).double()}, ValueError, "positive"),
        ({"schedule": "diagonal"}, ValueError, "wavefront or sweeps"),
        ({"anchor_loc": torch.zeros(2, 0, 4).double()}, ShapeError, "0 sources"),
    ],
)
def test_what_does_not_fit_is_named(change, error, words):
    arguments = {"prior": make_prior("srnn"), "options": SHORT, **scene(2, 7, 3, 4)}
    with pytest.raises(error, match=words):
        published_vem(**{**arguments, **change})


@pytest.mark.parametrize(
    "change",
    [{"tempering": 0.0}, {"weight_floor": 0.0}, {"num_iterations": -1}, {"order": "e-w"}],
)
def test_options_that_make_no_sense_are_named(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        PublishedOptions(**change)
