"""One amortised guide, many encoders: each is a proper guide, and swapping them is one line."""

import pyro
import pytest
import torch
from pyro import poutine

from pyromodels.batch import SequenceBatch
from pyromodels.dynamics.srnn import SRNN
from pyromodels.emissions.gaussian import Gaussian
from pyromodels.errors import SpecError
from pyromodels.guides.amortised import Amortised
from pyromodels.inference.objectives.path_elbo import PathELBO
from pyromodels.models.dvae import DynamicalVAE
from pyromodels.networks.encoders import PRESETS
from pyromodels.registry import GUIDES
from pyromodels.testing.guide import check_guide

SMALL = {"summary_dim": 5, "feedback_dims": (5,), "feedback_dim": 5, "dims": (6,)}


@pytest.fixture(autouse=True)
def double_precision():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    pyro.clear_param_store()
    yield
    torch.set_default_dtype(torch.float32)
    pyro.clear_param_store()


def problem(emission="spectral", lengths=(6, 4)):
    model = DynamicalVAE(SRNN(source_dim=3, latent_dim=2, hidden_dim=4, emission=emission))
    x = torch.randn(len(lengths), max(lengths), 3)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return model, SequenceBatch(x.square() if emission == "spectral" else x, mask)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("emission", ["spectral", "gaussian"])
def test_every_preset_keeps_the_contract_of_a_guide(preset, emission):
    model, batch = problem(emission)
    guide = GUIDES.build({"name": "amortised", "encoder": {"preset": preset, **SMALL}}, model)
    check_guide(guide, model, batch)


def test_averaging_needs_a_summary_and_a_feedback_of_its_size():
    model, batch = problem()
    guide = Amortised(model, encoder={"preset": "dkf", "combine": "average", **SMALL})
    check_guide(guide, model, batch)
    with pytest.raises(SpecError, match="summary and a feedback to average"):
        Amortised(model, encoder={"preset": "storn", "combine": "average"})
    with pytest.raises(SpecError, match="size of the feedback: given 2; expected 5"):
        Amortised(model, encoder={"preset": "dkf", "combine": "average", "summary_dim": 5})


def test_a_swapped_encoder_has_parameters_of_its_own_and_they_learn():
    model, batch = problem()
    model.requires_grad_(False)
    guide = Amortised(model, encoder={"preset": "rvae_noncausal", **SMALL})
    assert guide.encoder is not model.prior.encoder
    learned = list(guide.parameters())
    assert len(learned) == len(list(guide.own_encoder.parameters())) > 0
    adam, elbo = torch.optim.Adam(learned, lr=0.02), PathELBO(num_particles=8)
    with pyro.settings.context(module_local_params=True):
        losses = []
        for _ in range(60):
            adam.zero_grad()
            loss = elbo.differentiable_loss(model, guide, batch)
            loss.backward()
            adam.step()
            losses.append(loss.item())
    assert sum(losses[-10:]) < sum(losses[:10])
    assert Amortised(model).encoder is model.prior.encoder


@pytest.mark.parametrize("preset", ["srnn", "rvae_noncausal", "dkf"])
def test_padding_is_not_read_from_either_end(preset):
    model, batch = problem(lengths=(6, 4))
    guide = Amortised(model, encoder={"preset": preset, **SMALL})
    x = torch.where(batch.mask[..., None], batch.x, 7.0)[1:, :, :]
    z = torch.randn(1, 6, 2)
    padded = guide.encoder.parameters_of(model.prior.cell, z, x, batch.mask[1:])
    cut = guide.encoder.parameters_of(model.prior.cell, z[:, :4], x[:, :4], batch.mask[1:, :4])
    for long, short in zip(padded, cut, strict=True):
        torch.testing.assert_close(long[:, :4], short)


def test_names_and_keys_that_do_not_exist_are_named():
    model, _ = problem()
    with pytest.raises(SpecError, match="unknown encoder preset 'srn'; did you mean 'srnn'"):
        Amortised(model, encoder="srn")
    with pytest.raises(SpecError, match="unknown key 'directon'; did you mean 'direction'"):
        Amortised(model, encoder={"directon": "both"})
    with pytest.raises(SpecError, match="direction.*given 'up'"):
        Amortised(model, encoder={"direction": "up"})


def test_what_model_and_guide_share_is_computed_once_an_evaluation(monkeypatch):
    model, batch = problem(Gaussian("position"))
    calls, run = [], model.prior.recurrence.forward
    monkeypatch.setattr(model.prior.recurrence, "forward", lambda x: calls.append(1) or run(x))
    PathELBO().differentiable_loss(model, Amortised(model), batch).backward()
    assert len(calls) == 1
    with poutine.trace() as trace:
        model(batch)
    trace.trace.compute_log_prob()
    assert len(calls) > 1, "outside an evaluation nothing is remembered"
