"""HiT-DVAE and LigHT-DVAE: what depends on what, one statement of the law against another."""

import math
from unittest import mock

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch.distributions import Normal

from pyromodels.batch import MixtureBatch, SequenceBatch
from pyromodels.distributions.message import Anchor
from pyromodels.distributions.spectral import PowerSpectrum
from pyromodels.dynamics.cell import frames_of_its_own
from pyromodels.dynamics.hit import HiT
from pyromodels.dynamics.latent_paths import feed_back
from pyromodels.guides.amortised import Amortised
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.objectives.path_elbo import PathELBO
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.models.dvae import DynamicalVAE
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.networks.attention import Decoder, positional_encoding
from pyromodels.networks.hierarchical_encoder import FIRST_LOG_VARIANCE
from pyromodels.registry import DYNAMICS
from pyromodels.testing import check_guide, check_joint_draw

T, D, L, L_W = 5, 2, 3, 2
EXACT = {"atol": 1e-10, "rtol": 0.0}
NAMES = ["hit", "light"]
VARIANTS = [
    {"name": name, "inverted": inverted, "residual": residual}
    for name in NAMES
    for inverted in (False, True)
    for residual in (True, False)
] + [{"name": name, "positions": "relative", "num_heads": 2} for name in NAMES]
TINY = {
    "source_dim": D, "latent_dim": L, "global_dim": L_W, "model_dim": 6, "num_layers": 2,
    "ff_dim": 8, "feature_dims": (5,), "summary_dim": 4, "summary_layers": 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()
    torch.set_default_dtype(before)


def label(spec):
    return "-".join(str(value) for value in spec.values()) if isinstance(spec, dict) else str(spec)


def build(name="hit", **more):
    prior = DYNAMICS.build({"name": name, **TINY, **more})
    with torch.no_grad():
        for parameter in prior.parameters():  # away from zero biases and unit norms
            parameter.add_(0.2 * torch.randn_like(parameter))
    return prior


@pytest.fixture(params=VARIANTS, ids=label)
def prior(request):
    return build(**request.param)


def example(*batch):
    """z, x and w."""
    return torch.randn(*batch, T, L), torch.randn(*batch, T, D), torch.randn(*batch, L_W)


def problem(name, lengths=(T, 3, 1)):
    """A model of power spectra, its guide and sequences of mixed lengths."""
    model = DynamicalVAE(build(name, emission="spectral"))
    x = torch.randn(len(lengths), max(lengths), D).square()
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return model, Amortised(model), SequenceBatch(x, mask)


def reads(function, given):
    """True at (t, j) where frame t of the outputs depends on frame j of what is given.

    A softmax of one logit does not depend on it, but its gradient is the difference of two products
    that are rounded apart.
    """
    jacobian = torch.autograd.functional.jacobian(lambda v: torch.cat(function(v), -1), given)
    return (jacobian.abs() > 1e-14).any(-1).any(1)


def walk(prior, z, x, w, *, latent=lambda t: True, source=lambda t: True):
    """Laws of z and s frame by frame, of those frames where they are asked for."""
    cell = prior.cell.given(w)
    state, laws = cell.start(w.shape[:-1], w), {}
    for t in range(z.shape[-2]):
        if latent(t):
            laws["z", t] = cell.latent(state)
        if source(t):
            laws["s", t] = cell.outputs(state, z[:, t])
        state = cell.advance(state, z[:, t], x[:, t])
    return laws


# ---- the factorisation


UNTIL = torch.ones(T, T).tril().bool()
BEFORE = torch.ones(T, T).tril(-1).bool()
ALWAYS = torch.ones(T).bool()
LATER = torch.arange(T) > 0
"""Where queries count, if all they do is weigh the memory: at its first frame there is no choice"""


def test_frames_depend_on_what_the_factorisation_says_and_on_all_of_it(prior):
    z, x, w = example()
    queries_of_s = queries_of_z = ALWAYS
    if not prior.source_decoder.layers[0].residual:
        queries_of_s = LATER
        queries_of_z = LATER if prior.cell.decoder_of_z is prior.source_decoder else ALWAYS
    latents_of_s = ALWAYS if prior.cell.inverted else queries_of_s

    def p_s(z, x, w):
        return prior.cell.given(w).all_outputs(z, x)

    def p_z(z, x, w):
        return prior.cell.given(w).all_latents(z, x)

    # s_t | s_<t, z_<=t, w
    assert torch.equal(reads(lambda z: p_s(z, x, w), z), UNTIL & latents_of_s[:, None])
    assert torch.equal(reads(lambda x: p_s(z, x, w), x), BEFORE)
    assert torch.equal(reads(lambda w: p_s(z, x, w), w), latents_of_s)
    # z_t | s_<t, z_<t, w
    assert torch.equal(reads(lambda z: p_z(z, x, w), z), BEFORE)
    assert torch.equal(reads(lambda x: p_z(z, x, w), x), BEFORE)
    assert torch.equal(reads(lambda w: p_z(z, x, w), w), queries_of_z)


def test_encoder_reads_every_frame_and_w(prior):
    z, x, w = example()
    everything = torch.ones(T, T).bool()

    def q_w(x):
        return [part.unsqueeze(0) for part in prior.encoder.global_parameters(x)]

    def q_z(x, w):
        return prior.encoder.parameters_of(prior.cell.given(w), z, x)

    assert torch.equal(reads(q_w, x), everything[:1])  # w | s_1:T
    assert torch.equal(reads(lambda x: q_z(x, w), x), everything)  # z_t | s_1:T, w
    assert torch.equal(reads(lambda w: q_z(x, w), w), ALWAYS)


def test_encoder_reads_no_padding_and_each_row_to_its_own_end(prior):
    _, x, w = example(3)
    lengths = (T, 3, 1)
    mask = torch.arange(T) < torch.tensor(lengths)[:, None]
    junk = torch.where(mask[..., None], x, 1e3)
    q_w = prior.encoder.global_parameters(junk, mask)
    q_z = prior.encoder.infer(prior.cell.given(w), junk, noise=None, mask=mask)
    for row, length in enumerate(lengths):
        alone = x[row, :length]
        for got, expected in zip(q_w, prior.encoder.global_parameters(alone), strict=True):
            torch.testing.assert_close(got[row], expected, **EXACT)
        expected = prior.encoder.infer(prior.cell.given(w[row]), alone, noise=None)
        torch.testing.assert_close(q_z.mean[row, :length], expected.mean, **EXACT)


# ---- two statements of one law


def test_frame_by_frame_is_the_pass_over_all_frames(prior):
    z, x, w = example(2)
    full = {"z": prior.cell.given(w).all_latents(z, x), "s": prior.cell.given(w).all_outputs(z, x)}
    asked = {
        "both": {},
        "s alone": {"latent": lambda t: False},
        "z alone": {"source": lambda t: False},
        "seldom": {"latent": lambda t: t in (1, 4), "source": lambda t: t == 3},
    }
    for order, when in asked.items():
        laws = walk(prior, z, x, w, **when)
        for (which, t), law in laws.items():
            for got, expected in zip(law, full[which], strict=True):
                torch.testing.assert_close(got, expected[:, t], **EXACT, msg=f"{which}, {order}")
    assert len(walk(prior, z, x, w)) == 2 * T


def test_a_state_may_be_asked_for_more_than_one_continuation(prior):
    z, x, w = example(2)
    cell = prior.cell.given(w)
    state = cell.advance(cell.start(w.shape[:-1], w), z[:, 0], x[:, 0])
    cell.outputs(state, z[:, 1])
    cell.outputs(state, z[:, 1] + 1.0)
    following = cell.advance(state, z[:, 1], x[:, 1])
    other = cell.advance(state, z[:, 1] + 1.0, x[:, 1])
    expected = prior.cell.given(w).all_outputs(z, x)
    for got, wanted in zip(cell.outputs(following, z[:, 2]), expected, strict=True):
        torch.testing.assert_close(got, wanted[:, 2], **EXACT)
    changed = cell.outputs(other, z[:, 2])
    assert not torch.allclose(changed[0], expected[0][:, 2])


@pytest.mark.parametrize("name", NAMES)
def test_a_decoder_reads_every_frame_once_and_only_where_it_is_asked(name):
    prior = build(name, emission="spectral")
    s, z, w = torch.rand(2, T, D), torch.randn(2, T, L), torch.randn(2, L_W)
    given = prior.given(w)
    with mock.patch.object(Decoder, "step", autospec=True, side_effect=Decoder.step) as step:
        given.sample_sources("s", T)
        assert step.call_count == 2 * T  # z_t and s_t
        step.reset_mock()
        given.own_history(s, z)
        assert step.call_count == T  # s_t


@pytest.mark.parametrize("name", NAMES)
def test_generation_is_that_of_the_full_pass_given_the_same_noise(name):
    prior = build(name, emission={"name": "gaussian"})
    given, noise = prior.given(torch.randn(2, L_W)), (torch.randn(2, T, L), torch.randn(2, T, D))
    z, s = given.pair(T).roll_out(*noise, z_is_known=False)
    for value, (mean, log_variance), wanted in (
        (z, given.cell.all_latents(z, s), noise[0]),
        (s, given.cell.all_outputs(z, s), noise[1]),
    ):
        torch.testing.assert_close((value - mean) / (0.5 * log_variance).exp(), wanted, **EXACT)


# ---- the joint density


def encoded(stream):
    return stream + positional_encoding(torch.arange(len(stream)), stream.shape[-1])


def streams_by_hand(prior, name, z, x, w, t):
    """What the decoders read up to frame t (from 0): lists of frames, written out."""
    z_before, x_before = [torch.zeros(L), *z[:t]], [torch.zeros(D), *x[:t]]
    embedded = [prior.source_embedding(frame) for frame in x_before]
    latents = [prior.latent_embedding(torch.cat((frame, w))) for frame in z[: t + 1]]
    if name == "hit":
        queries = [prior.query_embedding(torch.cat((frame, w))) for frame in embedded]
        memory = [prior.memory_embedding(frame) for frame in z_before]
    else:
        queries = [prior.latent_embedding(torch.cat((frame, w))) for frame in z_before]
        memory = embedded
    for_s, for_z = (latents, embedded), (queries, memory)
    if prior.cell.inverted:
        for_s = for_s[::-1]
    place = (lambda stream: stream) if prior.cell.relative else encoded
    return [[place(torch.stack(stream)) for stream in pair] for pair in (for_s, for_z)]


@pytest.mark.parametrize("spec", VARIANTS, ids=label)
@pytest.mark.parametrize("emission", ["gaussian", "spectral"])
def test_joint_density_is_that_of_a_loop_over_time(spec, emission):
    prior = build(**spec, emission=emission)
    z, x, w = example()
    s = x.square() if emission == "spectral" else x
    log_p = Normal(0.0, 1.0).log_prob(w).sum()
    for t in range(T):
        for_s, for_z = streams_by_hand(prior, spec["name"], z, s, w, t)
        last = prior.cell.decoder_of_z(*for_z)[-1]
        deviation = (0.5 * prior.latent_head.log_variance(last)).exp()
        log_p += Normal(prior.latent_head.mean(last), deviation).log_prob(z[t]).sum()
        last = prior.source_decoder(*for_s)[-1]
        log_variance = prior.source_head.log_variance(last)
        if emission == "spectral":
            law = PowerSpectrum(log_variance)
        else:
            law = Normal(prior.source_head.mean(last), (0.5 * log_variance).exp())
        log_p += law.log_prob(s[t]).sum()
    data = {"x": s[None, None, None], "x_z": z[None, None, None], "x_w": w[None, None, None]}
    model = pyro.condition(DynamicalVAE(prior), data)
    batch = SequenceBatch(s[None], torch.ones(1, T).bool())
    trace = pyro.poutine.trace(model).get_trace(batch)
    torch.testing.assert_close(trace.log_prob_sum(), log_p, **EXACT)
    assert {n for n in trace.nodes if n.startswith("x")} == {"x", "x_z", "x_w"}
    plates = {frame.name for frame in trace.nodes["x_w"]["cond_indep_stack"]}
    assert plates == {"batch", "source"}


# ---- bounds


@pytest.mark.parametrize("name", NAMES)
def test_bounds_agree_in_the_mean(name):
    model, guide, batch = problem(name)
    num_draws, means, errors = 1500, [], []
    with torch.no_grad():
        x, _, mask = model.trajectories(batch)
        many = torch.stack([
            model.prior.elbo(part, mask=mask).sum((1, 2, 3))
            for part in x.expand(num_draws, *x.shape).split(500)
        ]).flatten()
        draws = {"own": many}
        for elbo in (PathELBO, Trace_ELBO):
            draws[elbo.__name__] = torch.tensor([
                -elbo(num_particles=30, vectorize_particles=True, max_plate_nesting=3).loss(
                    model, guide, batch
                )
                for _ in range(num_draws // 30)
            ])
    for value in draws.values():
        means.append(value.mean())
        errors.append(value.std() / math.sqrt(len(value)))
    for mean, error in zip(means[1:], errors[1:], strict=True):
        assert (mean - means[0]).abs() < 5 * math.hypot(error, errors[0])


@pytest.mark.parametrize("name", NAMES)
def test_bound_is_the_closed_form_at_given_noise(name):
    model, _, batch = problem(name)
    prior, (x, _, mask) = model.prior, model.trajectories(batch)
    z_noise, w_noise = torch.randn(*x.shape[:-1], L), torch.randn(*x.shape[:-2], L_W)
    q = prior.infer(x, noise=z_noise, w_noise=w_noise, mask=mask)
    variance = q.w_log_variance.exp()
    kl = 0.5 * (variance + q.w_mean.square() - 1 - q.w_log_variance).sum(-1)
    torch.testing.assert_close(q.w, q.w_mean + variance.sqrt() * w_noise)
    for weight in (1.0, 0.3):
        keywords = {"mask": mask, "kl_weight": weight, "z_noise": z_noise}
        expected = prior.given(q.w).elbo(x, **keywords) - weight * kl
        torch.testing.assert_close(prior.elbo(x, w_noise=w_noise, **keywords), expected)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_the_bound_of_the_program_reaches_every_parameter(name):
    model, guide, batch = problem(name)
    PathELBO().per_sequence(model, guide, batch).sum().backward()
    for parameter_name, parameter in model.named_parameters():
        if not parameter_name.endswith("key.bias"):
            assert parameter.grad is not None and parameter.grad.any(), parameter_name


# ---- use


@pytest.mark.parametrize("name", NAMES)
def test_its_posterior_is_labelled_and_its_guide_keeps_the_contract(name):
    model, guide, batch = problem(name)
    data = Posterior(model, guide, batch).to_inference_data(4)
    assert data.posterior["x_w"].dims == ("chain", "draw", "batch", "source", "global_latent")
    assert data.posterior["x_z"].dims == ("chain", "draw", "batch", "source", "frame", "latent")
    assert data.posterior_predictive["x"][0, 0, 1, 0, 3:].isnull().all()
    check_guide(guide, model, batch)


@pytest.mark.parametrize("name", NAMES)
def test_another_encoder_of_z_leaves_that_of_w(name):
    model, _, batch = problem(name)
    guide = Amortised(model, encoder="rvae")
    PathELBO().per_sequence(model, guide, batch).sum().backward()
    assert guide.own_encoder.head.mean.weight.grad.any()
    assert model.prior.encoder.global_head.mean.weight.grad.any()
    assert model.prior.encoder.latent_head.mean.weight.grad is None


@pytest.mark.parametrize("name", NAMES)
def test_w_of_one_sequence_resynthesises_another(name):
    prior = build(name, emission="spectral")
    s = torch.randn(2, T, D).square()
    q = prior.infer(s, noise=None)
    own, swapped = (prior.given(w).own_history(s, q.z) for w in (q.w, q.w.flip(0)))
    assert own.shape == swapped.shape == s.shape and not torch.allclose(own, swapped)
    # a history of predictions only is a fixed point: fed with it, the decoder predicts it
    (log_variance,) = prior.cell.given(q.w).all_outputs(q.z, own)
    torch.testing.assert_close(log_variance.exp(), own, **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_batch_shapes_of_w_and_of_sequences_broadcast(name):
    prior = build(name)
    given, s = prior.given(torch.randn(4, 1, L_W)), torch.randn(3, T, D)
    q = given.posterior(s)
    z = q.rsample()
    assert q.batch_shape == (4, 3) and z.shape == (4, 3, T, L)
    assert given.elbo(s).shape == (4, 3)
    assert given.pair(T, batch_shape=torch.Size([3])).source(z).rsample().shape == (4, 3, T, D)
    one = prior.given(given.cell.w[1, 0])
    torch.testing.assert_close(q.log_prob(z)[1], one.posterior(s).log_prob(z[1]))


@pytest.mark.parametrize("name", NAMES)
def test_prediction_goes_on_from_the_means(name):
    prior = build(name)
    s = torch.randn(2, T, D)
    predicted = prior.predict(s, 3)
    q = prior.infer(s, noise=None)
    longer = torch.cat((s, torch.zeros(2, 1, D)), 1)
    z = torch.cat((q.z, torch.zeros(2, 1, L)), 1)
    mean, _ = prior.cell.given(q.w).all_latents(z, longer)
    z = torch.cat((q.z, mean[:, -1:]), 1)
    mean, _ = prior.cell.given(q.w).all_outputs(z, longer)
    torch.testing.assert_close(predicted[:, 0], mean[:, -1], **EXACT)
    torch.testing.assert_close(prior.predict(s, 1), predicted[:, :1], **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_scheduled_sampling_changes_the_density_and_generation_needs_no_data(name):
    model, _, batch = problem(name)
    data = {"x_z": torch.randn(3, 1, 1, T, L), "x_w": torch.randn(3, 1, 1, L_W)}
    scores = []
    for model.use_prediction in (0.0, 1e-300, 1.0):
        program = pyro.condition(model, data)
        scores.append(pyro.poutine.trace(program).get_trace(batch).log_prob_sum())
    torch.testing.assert_close(scores[1], scores[0])
    assert not torch.allclose(scores[2], scores[0])
    drawn = model(batch, generate=True)
    assert drawn.shape == (3, 1, 1, T, D) and (drawn > 0).all()


def test_draws_from_its_own_predictions_have_the_density_of_them(prior):
    _, _, w = example(3)
    pair = prior.given(w).pair(T, batch_shape=torch.Size([3]), use_prediction=1.0)
    z = pair.latent.rsample()
    s = pair.source(z).rsample()
    z_noise, s_noise = check_joint_draw(pair, z, s)
    others = pair.roll_out(z_noise, s_noise.flip(-2), z_is_known=False)
    torch.testing.assert_close(others.latent, z)  # what was drawn reaches no later frame


def test_gradients_through_all_predictions_are_those_of_as_many_passes(prior):
    z, x, w = example(3)
    s, z = x.square(), z.requires_grad_()
    own, gradients = frames_of_its_own(s, 1.0, None), {}
    for hops in (0, T - 1, None):
        fed = feed_back(prior.given(w), s, z, own, hops=hops)
        (gradients[hops],) = torch.autograd.grad(sum(part.sum() for part in fed.outputs), z)
    torch.testing.assert_close(gradients[T - 1], gradients[None])
    assert not torch.allclose(gradients[0], gradients[None], rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_the_dynamics_of_every_source_of_a_mixture(name):
    prior = build(name, emission={"name": "gaussian", "predicts": "increment", "scale": "unit"})
    observations, loc = torch.rand(2, 3, 2, D), torch.rand(2, 2, D)
    batch = MixtureBatch(
        observations,
        torch.ones(2, 3, 2).bool(),
        torch.full_like(observations, 0.1),
        Anchor(loc, torch.full_like(loc, 0.1)),
    )
    model = MixDVAE(prior)
    check_guide(MeanField(model, batch), model, batch)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_posterior_is_narrow(name):
    prior = DYNAMICS.build({"name": name, **TINY})
    q = prior.infer(torch.randn(9, T, D), noise=None)
    for log_variance in (q.log_variance, q.w_log_variance):
        assert log_variance.mean().item() == pytest.approx(FIRST_LOG_VARIANCE, abs=1.0)


# ---- positions


@pytest.mark.parametrize("name", NAMES)
def test_relative_positions_know_no_beginning(name):
    """Frames that hardly see back to the first say what they say in the middle of a longer path."""
    prior = build(name, positions="relative")  # one head: e^-1 a frame
    z, x, w = torch.randn(80, L), torch.randn(80, D), torch.randn(L_W)
    full = prior.cell.given(w).all_outputs(z, x)
    for got, expected in zip(prior.cell.given(w).all_outputs(z[10:], x[10:]), full, strict=True):
        torch.testing.assert_close(got[40:], expected[50:], atol=1e-6, rtol=0.0)


def test_unknown_positions_are_named():
    with pytest.raises(ValueError, match="positions: given 'learned'; expected absolute or rela"):
        HiT(positions="learned")


# ---- sizes


@pytest.mark.parametrize(("name", "expected"), [("hit", 21_747_841), ("light", 17_455_745)])
def test_the_published_size_has_the_published_number_of_parameters(name, expected):
    kind, sizes = DYNAMICS[name], DYNAMICS[name].sizes

    def count(size):
        with torch.device("meta"):
            prior = kind(source_dim=513, emission="spectral", **sizes[size])
        return sum(parameter.numel() for parameter in prior.parameters())

    assert count("paper") == expected
    assert 0.5e6 < count("small") < 1.5e6
