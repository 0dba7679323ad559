"""Inference engines by name: they agree where they must, and refuse in one line."""

import copy
import dataclasses
import math

import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch import nn

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.chain import GaussianChain
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.deep_ar import DeepAR
from pyromodels.dynamics.tvgmm import TVGMM
from pyromodels.dynamics.tvnf import TVNF
from pyromodels.emissions.gaussian import Gaussian
from pyromodels.errors import SpecError
from pyromodels.experiments.tracking.setup import walker_prior
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.engines import ENGINES
from pyromodels.inference.engines.ascend import AscentOptions
from pyromodels.inference.engines.engine import Engine, mean_bound
from pyromodels.inference.mixture.bound import closed_form_elbo
from pyromodels.inference.mixture.start import online_start
from pyromodels.inference.mixture.vem import VEM
from pyromodels.inference.training.fit import FitError
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.observations.detector import Detector


def crossing(num_frames=8):
    """Two boxes that pass each other, a detection each, in turn in either slot."""
    x = torch.linspace(0.2, 0.8, num_frames)
    paths = torch.stack((x, 1 - x), -1)
    boxes = torch.stack((paths, torch.full_like(paths, 0.5)), -1)
    boxes = torch.cat((boxes, torch.tensor([0.05, 0.2]).expand_as(boxes)), -1)[None]
    boxes[:, 1::2] = boxes[:, 1::2].flip(2)
    start, unit = boxes[:, 0], 0.2
    anchor = Anchor(
        torch.stack((start, torch.zeros_like(start)), -1).flatten(-2),
        torch.tensor([0.03, 0.1]).square().repeat(4).expand(1, 2, 8) * unit,
    )
    mask = torch.ones(boxes.shape[:3], dtype=torch.bool)
    return MixtureBatch(boxes, mask, torch.full_like(boxes, 1e-4), anchor)


def started(detector=True):
    batch = crossing()
    model = MixDVAE(walker_prior().double(), detector=Detector() if detector else None)
    guide = MeanField(model, batch)
    online_start(model, guide, batch, prior=model.prior, anchor=batch.anchor)
    return model, guide, batch


def run(table, **how):
    model, guide, batch = started(**how)
    engine = ENGINES.build(table, model, guide, batch)
    losses = engine.run(batch).losses
    return closed_form_elbo(model, engine.guide, batch).item(), losses, engine


@pytest.mark.parametrize("detector", [True, False])
def test_a_natural_step_of_size_one_is_a_sweep_of_vem(detector):
    vem = run({"name": "vem", "steps": 4, "keep_first": False}, detector=detector)
    natural = run({"name": "svi_natural", "steps": 4, "rate": 1.0}, detector=detector)
    assert natural[1] == pytest.approx(vem[1], abs=1e-8)


def test_all_engines_reach_one_bound():
    best = run({"name": "vem", "steps": 30, "keep_first": False})[0]
    assert run({"name": "svi_natural", "steps": 60})[0] == pytest.approx(best, abs=1e-5)
    assert run({"name": "svi", "steps": 150})[0] == pytest.approx(best, abs=0.1)


def test_svi_makes_a_mean_field_parametrised_and_leaves_the_given_one():
    model, guide, batch = started()
    before = guide.sources.loc.clone()
    engine = ENGINES.build({"name": "svi", "steps": 2}, model, guide, batch)
    engine.run(batch)
    assert engine.guide is not guide and list(engine.guide.parameters())
    torch.testing.assert_close(guide.sources.loc, before)


def test_svi_with_pyros_estimator_descends():
    table = {"name": "svi", "elbo": "trace_enum", "num_particles": 2, "steps": 3}
    torch.manual_seed(0)
    assert all(map(math.isfinite, run(table)[1]))


def test_tolerance_ends_a_fit_early():
    assert len(run({"name": "vem", "steps": 50, "tolerance": 1e-3})[1]) < 50


def test_noises_can_be_learned():
    learn = ["process_noise", "observation_noise"]
    still, learned = (run({"name": "vem", "steps": 6, "learn": names}) for names in ([], learn))
    assert learned[0] > still[0] + 1
    assert learned[2].stepper.model.observation.log_noise_scale != 0


def test_the_start_knows_the_sources_and_every_factor_is_set():
    model, guide, batch = started()
    owner = guide.responsibilities.argmax(-1)[0]
    assert owner[0].tolist() == [0, 1] and owner[1].tolist() == [1, 0]
    assert not torch.equal(guide.gain, torch.zeros_like(guide.gain))


def test_the_start_of_a_deep_prior_sees_what_the_linear_one_smooths():
    batch = crossing()
    position = Anchor(*(part[..., ::2] for part in batch.anchor))
    data = MixtureBatch(batch.observations, batch.mask, batch.variance, position)
    model = MixDVAE(DeepAR(emission=Gaussian("increment", scale="centre_box")), detector=Detector())
    guide = MeanField(model, data)
    online_start(model, guide, data, prior=walker_prior().double(), anchor=batch.anchor)
    last = guide.sources.loc[0, :, -1, 0]
    assert last.tolist() == pytest.approx([0.8, 0.2], abs=0.1)  # they start at 0.2, 0.8


SILENT = [TVNF(past_dim=8, hidden_dim=8), TVGMM(num_components=3, past_dim=8)]
"""Priors that send no Gaussian message."""


def silent(prior, **keywords):
    """A model of the crossing boxes with such a prior, its guide where an online pass ends."""
    batch = crossing()
    position = Anchor(*(part[..., ::2] for part in batch.anchor))
    data = MixtureBatch(batch.observations, batch.mask, batch.variance, position)
    model = MixDVAE(copy.deepcopy(prior), **keywords).double()
    guide = MeanField(model, data)
    online_start(model, guide, data, prior=walker_prior().double(), anchor=batch.anchor)
    return model, guide, data


def test_the_start_of_a_prior_without_message_is_where_the_linear_one_stands():
    model, guide, batch = started()
    _, positions, _ = silent(SILENT[0], detector=Detector())
    linear, chain = guide.sources, positions.sources
    torch.testing.assert_close(chain.loc_blocks, linear.loc_blocks[..., :1])
    torch.testing.assert_close(chain.covariance, linear.covariance[..., :1, :1])
    torch.testing.assert_close(chain.cross_covariance, linear.cross_covariance[..., :1, :1])
    alone = GaussianChain(chain.loc_blocks, chain.innovation, chain.gain)
    torch.testing.assert_close(alone.covariance, chain.covariance)


@pytest.mark.parametrize("assignment", ["mean_field", "marginal"])
@pytest.mark.parametrize("prior", SILENT, ids=lambda prior: type(prior).__name__)
def test_svi_climbs_with_a_prior_without_message(prior, assignment):
    torch.manual_seed(0)
    model, guide, batch = silent(prior)
    table = {"name": "svi", "steps": 60, "train_model": True}
    engine = ENGINES.build(table, model, guide.parametrised(assignment), batch)
    before = mean_bound(model, engine, batch)
    assert all(map(math.isfinite, engine.run(batch).losses))
    assert mean_bound(model, engine, batch) > before + 20


@pytest.mark.parametrize("prior", SILENT, ids=lambda prior: type(prior).__name__)
def test_the_gradient_of_a_loss_goes_through_such_a_prior(prior):
    """With nothing observed, noise and w summed out, the slope of log q - log p(s) alone."""
    model, guide, batch = silent(prior)
    batch = dataclasses.replace(batch, mask=torch.zeros_like(batch.mask))
    guide, elbo = guide.parametrised("marginal"), TraceEnum_ELBO(max_plate_nesting=3)

    def loss():
        torch.manual_seed(0)
        return elbo.differentiable_loss(model, guide, batch)

    for moved in (guide.loc, guide.log_root, guide.gain):
        torch.manual_seed(1)
        (gradient,) = torch.autograd.grad(loss(), moved)
        along, values, size = torch.randn_like(moved), [], 1e-4
        for steps in (1, -2, 1):  # up, down, and back
            with torch.no_grad():
                moved.add_(steps * size * along)
            values.append(loss().detach())
        numerical = (values[0] - values[1]) / (2 * size)
        torch.testing.assert_close((gradient * along).sum(), numerical, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prior", SILENT, ids=lambda prior: type(prior).__name__)
@pytest.mark.parametrize(
    "table",
    [{"name": "vem"}, {"name": "svi_natural"}, {"name": "svi", "elbo": "closed_form"}],
    ids=lambda table: table["name"],
)
def test_closed_forms_refuse_a_prior_without_message(prior, table):
    words = f"inference '{table['name']}'.*{type(prior).__name__}.*'svi' with elbo 'trace_enum'"
    with pytest.raises(SpecError, match=words) as caught:
        ENGINES.build(table, *silent(prior))
    assert "\n" not in str(caught.value)


def test_a_start_needs_boxes(mixture):
    model, batch = mixture()
    with pytest.raises(ValueError, match="given 2 coordinates; expected centre x"):
        online_start(model, MeanField(model, batch), batch, prior=model.prior, anchor=batch.anchor)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "vem", "steps": 0}, "steps: given 0; expected a positive"),
        ({"name": "vem", "damping": 0.0}, "damping: given 0.0"),
        ({"name": "vem", "learn": ["everything"]}, "learn: given"),
        ({"name": "svi_natural", "rate": 1.5}, "rate: given 1.5"),
        ({"name": "svi", "elbo": "exact"}, "elbo: given 'exact'"),
        (
            {"name": "svi", "num_particles": 3, "elbo": "closed_form"},
            "num_particles.*draws nothing",
        ),
        ({"name": "vme"}, "unknown inference engine 'vme'; did you mean 'vem'"),
    ],
)
def test_wrong_options_are_one_line(table, message):
    with pytest.raises(ValueError, match=message) as caught:
        ENGINES.build(table, *started())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["vem", "svi_natural"])
def test_closed_form_engines_refuse_a_guide_without_free_factors(name):
    model, guide, batch = started()
    with pytest.raises(SpecError, match=f"{name!r}.*ParametrisedMeanField.*use guide 'mean_field'"):
        ENGINES.build({"name": name}, model, guide.parametrised(), batch)


def test_a_model_without_closed_form_is_told_what_to_use():
    with pytest.raises(SpecError, match="closed_form.*Linear has none.*trace_enum"):
        table = {"name": "svi", "elbo": "closed_form"}
        ENGINES.build(table, nn.Linear(1, 1), nn.Linear(1, 1), None)


def test_process_noise_of_deep_dynamics_is_refused():
    batch = crossing()
    position = Anchor(*(part[..., ::2] for part in batch.anchor))
    batch = MixtureBatch(batch.observations, batch.mask, batch.variance, position)
    model = MixDVAE(DeepAR())
    table = {"name": "vem", "learn": ["process_noise"]}
    with pytest.raises(SpecError, match="process_noise.*linear.*DeepAR"):
        ENGINES.build(table, model, MeanField(model, batch), batch)


def test_a_loss_that_is_not_finite_names_the_step():
    model, guide, batch = started()
    vem = VEM(model, guide, [])
    vem.step = lambda batch: float("nan")
    with pytest.raises(FitError, match="step 1: the loss is nan"):
        Engine(vem, AscentOptions(max_steps=3)).run(batch)


def test_a_factor_that_is_no_distribution_names_the_step():
    model, guide, batch = started()

    def broken(model, guide, batch):
        raise torch.linalg.LinAlgError("not positive definite")

    with pytest.raises(FitError, match="step 1: not positive definite; try float64"):
        Engine(VEM(model, guide, [broken]), AscentOptions(max_steps=3)).run(batch)
