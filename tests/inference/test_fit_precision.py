"""Mixed precision: bf16 against float32, the scale of fp16, guards, resumption."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from pyromodels.batch import SequenceBatch
from pyromodels.dynamics.srnn import SRNN
from pyromodels.dynamics.vae import VAE
from pyromodels.guides.amortised import Amortised
from pyromodels.inference.objectives.path_elbo import PathELBO
from pyromodels.inference.training import precision
from pyromodels.inference.training.checkpoint import Checkpoint
from pyromodels.inference.training.epochs import EpochTraining
from pyromodels.inference.training.fit import FitError, fit
from pyromodels.inference.training.options import FitOptions, Weights
from pyromodels.inference.training.precision import Precision, has_bf16
from pyromodels.models.dvae import DynamicalVAE

OPTIONS = FitOptions(epochs=3, batch_size=4, learning_rate=0.01, autocast="bf16", seed=2)
CPU = torch.device("cpu")
NATIVE = pytest.mark.skipif(not has_bf16("cpu"), reason="no bf16 LSTM on this processor")
"""For what runs an LSTM in bf16; without one, bf16 is but emulated products, on any processor."""


@pytest.fixture(autouse=True)
def single_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def any_processor(monkeypatch):
    """Take this processor for one that has bf16, whatever it has."""
    monkeypatch.setattr(precision, "has_bf16", lambda kind: True)


def problem(prior=SRNN, *, collapsed=False, **parts):
    """A spectral prior, its loss in nats a frame, and power spectrograms; `collapsed`: q near p."""
    torch.manual_seed(0)
    model = DynamicalVAE(prior(source_dim=6, latent_dim=3, emission="spectral", **parts))
    guide, elbo = Amortised(model), PathELBO()
    if collapsed:
        heads = (model.prior.encoder.head, model.prior.prior)
        with torch.no_grad():
            for head in (layer for h in heads for layer in h.heads()):
                head.weight.mul_(0.1)
                head.bias.mul_(0.1)

    def loss(batch, weights):
        elbo.kl_weight, model.use_prediction = weights.kl, weights.use_prediction
        (x,) = batch
        parts = elbo.per_sequence(model, guide, SequenceBatch(x, torch.ones(x.shape[:2]).bool()))
        return parts / x.shape[1]

    return model, loss, (torch.randn(8, 30, 6).square(),)


def loss_and_gradient(autocast, *, kl_weight=1.0, use_prediction=0.0, **keywords):
    model, loss, data = problem(**keywords)
    torch.manual_seed(1)
    with Precision(autocast, CPU).context():
        value = loss(data, Weights(kl_weight, use_prediction)).mean()
    value.backward()
    return value.item(), torch.cat([p.grad.flatten() for p in model.parameters()]), model


@pytest.mark.parametrize(
    "parts",
    [
        {"prior": VAE},
        *(
            pytest.param({"encoder": name}, marks=NATIVE)
            for name in ("srnn_filter", "srnn", "rvae")
        ),
    ],
    ids=str,
)
def test_path_elbo_in_bf16_is_that_of_float32(parts, any_processor):
    (single, expected, _), (half, gradient, _) = (
        loss_and_gradient(autocast, **parts) for autocast in ("none", "bf16")
    )
    assert half != single
    assert half == pytest.approx(single, rel=0.01)
    assert torch.isfinite(gradient).all()
    assert (gradient - expected).norm() < 0.02 * expected.norm()


@NATIVE
def test_a_small_kl_survives_bf16():
    """Its terms cancel: from means and variances in half precision it would be noise."""
    kl = {}
    for autocast in ("none", "bf16"):
        bound, rest = (
            loss_and_gradient(autocast, kl_weight=weight, collapsed=True)[0] for weight in (1, 0)
        )
        kl[autocast] = 30 * (bound - rest)
    assert 0 < kl["none"] < 0.2
    assert kl["bf16"] == pytest.approx(kl["none"], rel=0.02)


@NATIVE
def test_predictions_fed_back_take_no_gradient_from_the_weights():
    """They are computed without gradients; a cache of cast weights may then hand that on."""
    (_, expected, _), (_, gradient, model) = (
        loss_and_gradient(autocast, use_prediction=0.5) for autocast in ("none", "bf16")
    )
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
    assert (gradient - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("prior", [VAE, pytest.param(SRNN, marks=NATIVE)])
def test_training_in_bf16_follows_float32_and_resumes_to_the_same_bits(
    tmp_path, prior, any_processor
):
    results, states = [], []
    for autocast in ("bf16", "none"):
        model, loss, data = problem(prior)
        options = dataclasses.replace(OPTIONS, autocast=autocast)
        results.append(fit(model, loss, data, data, options=options))
        states.append(model.state_dict())
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    for half, single in zip(results[0].history, results[1].history, strict=True):
        assert half["valid_loss"] == pytest.approx(single["valid_loss"], rel=0.01)
        assert half["grad_norm"] == pytest.approx(single["grad_norm"], rel=0.05)
    assert results[0].best_loss < results[0].history[0]["valid_loss"]

    class Killed(Exception):
        pass

    def kill(record):
        if record["epoch"] == 2:
            raise Killed

    model, loss, data = problem(prior)
    with pytest.raises(Killed):
        fit(model, loss, data, data, options=OPTIONS, folder=tmp_path, on_epoch=kill)
    model, loss, data = problem(prior)
    resumed = fit(model, loss, data, data, options=OPTIONS, folder=tmp_path, resume=True)
    assert resumed.best_loss == results[0].best_loss
    assert all(torch.equal(states[0][name], t) for name, t in model.state_dict().items())
    with pytest.raises(ValueError, match="autocast=bf16, now none"):
        other = dataclasses.replace(OPTIONS, autocast="none")
        fit(model, loss, data, data, options=other, folder=tmp_path, resume=True)


def test_a_checkpoint_from_before_there_was_autocast_goes_on():
    model, loss, _ = problem()
    training = EpochTraining(model, loss, (torch.ones(4, 1),), (torch.ones(4, 1),), FitOptions())
    meta = training.meta()
    del meta["options"]["autocast"], meta["scaler"]
    training.restore(Checkpoint(0, training.tensors(), meta))
    assert training.precision.state() == {}


def test_what_is_not_finite_in_bf16_is_refused_by_name(any_processor):
    model, loss, (x,) = problem(VAE)
    with torch.no_grad():
        model.prior.decoder.log_variance.bias[0] = math.nan
    with pytest.raises(FitError, match="at step 1 .epoch 1, batch 0.*decoder.log_variance.bias"):
        fit(model, loss, (x,), (x,), options=OPTIONS)


def test_fp16_asks_for_a_gpu_and_unknown_names_are_refused():
    model, loss, data = problem()
    with pytest.raises(ValueError, match='"fp16" and parameters on cpu.*GPU.*"bf16"'):
        fit(model, loss, data, data, options=dataclasses.replace(OPTIONS, autocast="fp16"))
    with pytest.raises(ValueError, match="autocast: given 'half'; expected none, bf16 or fp16"):
        FitOptions(autocast="half")


def test_a_processor_without_bf16_is_asked_once_and_refused_in_one_line(monkeypatch):
    def absent(self, x):
        asked.append(x.device.type)
        raise RuntimeError("could not create a primitive descriptor")

    asked, before = [], torch.get_rng_state()
    monkeypatch.setattr(nn.LSTM, "forward", absent)
    has_bf16.cache_clear()
    try:
        for _ in range(2):
            with pytest.raises(ValueError, match='"bf16".*this processor .cpu.*"none"') as caught:
                Precision("bf16", CPU)
            assert "\n" not in str(caught.value)
    finally:
        has_bf16.cache_clear()
    assert asked == ["cpu"]
    assert torch.equal(torch.get_rng_state(), before)  # a seeded training is the same either way


# ---- the scale of fp16, whose arithmetic is the same on any device


def scaled(factor=1.0):
    """Training of one weight with a scaled gradient, on the CPU; factor: of the loss."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 1.0)

    def loss(batch, weights):
        # to half precision and back, as after a matrix product: overflows, forth or back
        return factor * module(batch[0])[:, 0].half().float()

    options = dataclasses.replace(OPTIONS, autocast="none")
    data = (torch.ones(4, 1),)
    training = EpochTraining(module, loss, data, data, options)
    training.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    return module, training


def test_an_overflow_under_the_scale_is_left_out_and_halves_it():
    module, training = scaled(factor=4.0)
    record = training.advance()  # 2^16 * 4 / 4 = 2^16 overflows in half precision
    assert module.weight.item() == 1.0 and record["grad_norm"] == 0.0
    assert training.precision.scaler.get_scale() == 2.0**15
    record = training.advance()
    assert module.weight.item() == pytest.approx(1.0 - OPTIONS.learning_rate)
    assert record["grad_norm"] == pytest.approx(4.0)


def test_an_overflow_without_a_scale_is_refused():
    module, training = scaled(factor=1e9)
    with pytest.raises(FitError, match="the gradient is not finite at step 17.*'weight'"):
        for _ in range(20):
            training.advance()
    assert module.weight.item() == 1.0


def test_the_scale_is_in_the_checkpoint():
    _, training = scaled(factor=4.0)
    training.advance(), training.advance()
    _, other = scaled()
    other.restore(Checkpoint(2, training.tensors(), training.meta()))
    assert other.precision.state() == training.precision.state()
    assert other.precision.state()["scale"] == 2.0**15
    assert other.precision.state()["_growth_tracker"] == 1
