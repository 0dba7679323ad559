"""The single-source model and its amortised guide, over every registered prior."""

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive

from pyromodels.batch import SequenceBatch
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.deep_ar import DeepAR
from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.dynamics.srnn import SRNN
from pyromodels.emissions.gaussian import Gaussian
from pyromodels.errors import ShapeError, SpecError
from pyromodels.experiments.demonstrations.site_a_frame import StepwiseGuide, StepwiseModel
from pyromodels.guides.amortised import Amortised
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.models.dvae import DynamicalVAE
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.registry import DYNAMICS, GUIDES, MODELS
from pyromodels.testing import build_source_prior, example_anchor, source_prior_specs
from pyromodels.testing.guide import check_guide
from pyromodels.testing.runs import of_frames

LENGTHS = (6, 3, 1)


@pytest.fixture(autouse=True)
def empty_param_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def label(spec):
    return "-".join(str(value) for value in spec.values())


SPECS = [spec for spec in source_prior_specs() if DYNAMICS[spec["name"]].takes_mask]


@pytest.fixture(params=SPECS, ids=label)
def prior(request):
    return build_source_prior(request.param)


def make_batch(prior, lengths=LENGTHS):
    anchor = example_anchor(prior, (len(lengths),))
    shape = (len(lengths), max(lengths), prior.source_dim)
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    if anchor is None:
        return SequenceBatch(noise.square().clamp(max=1.0), mask)  # powers, or sound
    steps = 0.02 * noise.to(anchor.loc.dtype)
    return SequenceBatch(anchor.loc[:, None] + steps.cumsum(1), mask, anchor)


def traced(program, batch, data=None, **keywords):
    program = poutine.condition(program, data=data or {})
    return poutine.trace(program).get_trace(batch, **keywords)


def latents(trace):
    return {
        name: site["value"]
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and name not in ("x", "batch", "source")
    }


def test_sites_have_the_shapes_of_the_table(prior):
    model = MODELS.build({"name": "dvae"}, prior)
    batch = make_batch(prior)
    trace = traced(model, batch)
    assert trace.nodes["x"]["is_observed"]
    assert torch.equal(trace.nodes["x"]["value"][:, 0, 0], batch.x)
    expected = {"x_z": (3, 1, 1, 6, prior.latent_dim)} if prior.latent_dim else {}
    if prior.global_dim:
        expected["x_w"] = (3, 1, 1, prior.global_dim)
    assert {name: tuple(value.shape) for name, value in latents(trace).items()} == expected
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"].shape == (3, 1, 1)
    if expected:
        guide = traced(GUIDES.build({"name": "amortised"}, model), batch)
        assert {name: tuple(value.shape) for name, value in latents(guide).items()} == expected


def test_generate_draws_x_which_starts_at_the_anchor_if_any(prior):
    model = DynamicalVAE(prior)
    batch = make_batch(prior, (4,) * 500)
    torch.manual_seed(0)
    trace = traced(model, batch, generate=True)
    x, anchor = trace.nodes["_RETURN"]["value"], batch.anchor
    assert not trace.nodes["x"]["is_observed"]
    assert x.shape == (500, 1, 1, 4, prior.source_dim)
    if anchor is None:
        return
    error = (x[:, 0, 0, 0] - anchor.loc) / anchor.variance.sqrt()
    assert error.mean(0).abs().max() < 5 / 500**0.5
    assert (error.var(0) - 1).abs().max() < 5 * (2 / 500) ** 0.5


def test_log_joint_knows_nothing_of_the_padding(prior):
    model, batch = DynamicalVAE(prior), make_batch(prior)
    drawn = latents(traced(model, batch))
    x = torch.where(batch.mask[..., None], batch.x, torch.nan)
    junk = SequenceBatch(x, batch.mask, batch.anchor)
    total = 0.0
    for row, length in enumerate(LENGTHS):
        rows = slice(row, row + 1)
        anchor = batch.anchor and Anchor(*(part[rows] for part in batch.anchor))
        one = SequenceBatch(batch.x[rows, :length], batch.mask[rows, :length], anchor)
        cut = {
            name: value[rows, ..., :length, :] if of_frames(value) else value[rows]
            for name, value in drawn.items()
        }
        total = total + traced(model, one, cut).log_prob_sum()
    torch.testing.assert_close(traced(model, junk, drawn).log_prob_sum(), total)


def test_densities_are_those_of_one_site_a_frame(prior):
    if not isinstance(prior, DynamicalPrior):
        return
    model, batch = DynamicalVAE(prior), make_batch(prior)
    drawn = latents(traced(Amortised(model), batch))
    frames = {f"z_{t + 1}": drawn["x_z"][..., t, :] for t in range(batch.num_frames)}
    if prior.global_dim:
        frames["w"] = drawn["x_w"]
    for at_once, stepwise in ((model, StepwiseModel), (Amortised(model), StepwiseGuide)):
        expected = traced(stepwise(model), batch, frames).log_prob_sum()
        actual = traced(at_once, batch, drawn).log_prob_sum()
        torch.testing.assert_close(actual, expected)


def test_without_latents_it_is_the_exact_density():
    prior = build_source_prior({"name": "deep_ar"})
    batch = make_batch(prior)
    expected = prior.elbo(batch.x, anchor=batch.anchor, mask=batch.mask)
    trace = traced(DynamicalVAE(prior), batch)
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["x"]["log_prob"].flatten(), expected)


def test_predictive_draws_new_data_from_the_latents_of_old():
    model = DynamicalVAE(build_source_prior({"name": "srnn"}))
    batch = make_batch(model.prior)
    drawn = Predictive(Amortised(model), num_samples=5, parallel=True)(batch)
    predicted = Predictive(model, posterior_samples=drawn, parallel=True)(batch, generate=True)["x"]
    assert predicted.shape == (5, 3, 1, 1, 6, 4)
    assert not torch.equal(predicted[0], predicted[1])


@pytest.mark.parametrize("kind", [lambda model: model, Amortised], ids=["model", "guide"])
def test_program_and_guide_each_tell_pyro_of_the_parameters(kind):
    model = DynamicalVAE(SRNN())
    program, batch = kind(model), make_batch(model.prior).to("cpu", torch.float32)
    with pyro.settings.context(module_local_params=True):
        program(batch)
    assert not len(pyro.get_param_store())
    program(batch)
    assert len(pyro.get_param_store()) == len(list(model.parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_keep_their_dtype(prior, dtype):
    model, batch = DynamicalVAE(prior).to(dtype), make_batch(prior).to("cpu", dtype)
    for trace in (traced(model, batch), traced(model, batch, generate=True)):
        assert trace.nodes["x"]["value"].dtype == trace.log_prob_sum().dtype == dtype


def test_batches_the_model_cannot_take_are_refused():
    model = DynamicalVAE(SRNN(source_dim=2, emission=Gaussian("increment", scale="unit")))
    x, mask = torch.zeros(2, 4, 2), torch.ones(2, 4).bool()
    anchor = Anchor(torch.zeros(2, 2), torch.ones(2, 2))
    with pytest.raises(ValueError, match="anchor: SRNN starts"):
        model(SequenceBatch(x, mask))
    gap = mask.clone()
    gap[1, 2] = False
    with pytest.raises(ValueError, match="mask: a gap"):
        model(SequenceBatch(x, gap, anchor))
    with pytest.raises(ShapeError, match=r"x: .*\(B, T, 3\)"):
        DynamicalVAE(SRNN(source_dim=3))(SequenceBatch(x, mask, anchor))


def test_models_the_amortised_guide_cannot_serve_are_refused():
    with pytest.raises(SpecError, match="MixDVAE; expected DynamicalVAE.*q\\(s\\).*mean_field"):
        GUIDES.build({"name": "amortised"}, MixDVAE(SRNN()))
    with pytest.raises(SpecError, match="DeepAR, which has no latents.*srnn"):
        GUIDES.build({"name": "amortised"}, DynamicalVAE(DeepAR()))


def test_sequence_batches_check_and_clean_what_they_are_given():
    x, mask = torch.zeros(2, 4, 3), torch.tensor([[True] * 4, [True, False, False, False]])
    anchor = Anchor(torch.zeros(2, 3), torch.ones(2, 3))
    batch = SequenceBatch(x, mask, anchor)
    assert (batch.num_sequences, batch.num_frames, batch.has_gaps) == (2, 4, False)
    assert SequenceBatch(x, ~mask).has_gaps
    assert SequenceBatch(x, mask).to("cpu", torch.float64).x.dtype == torch.float64
    assert batch.to("cpu", torch.float64).anchor.loc.dtype == torch.float64
    with pytest.raises(ShapeError, match="x: "):
        SequenceBatch(x[0], mask)
    with pytest.raises(ShapeError, match="mask: "):
        SequenceBatch(x, mask[:, 1:])
    with pytest.raises(ShapeError, match="anchor: "):
        SequenceBatch(x, mask, Anchor(x[:1, 0], x[:1, 0]))
    x[0, 1, 0] = float("inf")
    with pytest.raises(ValueError, match="x: NaN or infinite"):
        SequenceBatch(x, mask)


def test_its_posterior_is_labelled_and_its_likelihood_is_by_frame():
    torch.manual_seed(0)
    model = DynamicalVAE(SRNN(source_dim=2))
    x = 0.1 * torch.randn(3, 10, 2).cumsum(1)
    mask = torch.arange(10) < torch.tensor([[10], [7], [10]])
    batch = SequenceBatch(x, mask, Anchor(x[:, 0], torch.ones(3, 2)))
    posterior = Posterior(model, Amortised(model), batch)
    draws = posterior.sample(5)
    by_frame = posterior.log_likelihood(draws)["x"]
    assert by_frame.shape == (5, 3, 1, 10) and not by_frame[:, 1, :, 7:].any()
    latent = posterior.log_joint(draws) - by_frame.sum((-1, -2))
    assert latent.shape == posterior.log_prob(draws).shape == (5, 3)
    assert not posterior.predictive(draws=draws)["x"][:, 1, :, 7:].any()
    data = posterior.to_inference_data(4)
    assert data.posterior["x_z"].dims == ("chain", "draw", "batch", "source", "frame", "latent")
    assert data.log_likelihood["x"].dims == ("chain", "draw", "batch", "source", "frame")
    assert data.posterior_predictive["x"][0, 0, 1, 0, 7:].isnull().all()
    check_guide(Amortised(model), model, batch)
