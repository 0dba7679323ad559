"""The training loop: exact resumption, guards, early stopping, checkpoints."""

import dataclasses
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pyromodels.inference.training.checkpoint import (
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from pyromodels.inference.training.fit import FitError, fit
from pyromodels.inference.training.options import FitOptions, ScheduledSampling, Weights
from pyromodels.inference.training.seeding import random_state, seed_all, set_random_state

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = FitOptions(
    epochs=5, batch_size=8, learning_rate=0.05, final_learning_rate=0.001, kl_warm_up=2,
    sampling=ScheduledSampling(1, 3, 0.5), seed=3,
)


@pytest.fixture(autouse=True)
def single_precision():
    """As in training, and as in the other process of one of the tests."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


class Killed(Exception):
    pass


def problem():
    """A noisy linear regression whose loss draws from every global generator."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 3, generator=generator)
    y = x @ torch.tensor([1.0, -2.0, 0.5]) + 0.1 * torch.randn(30, generator=generator)
    torch.manual_seed(1)
    return nn.Linear(3, 1), (x[:20], y[:20]), (x[20:], y[20:])


def loss_of(module):
    def loss(batch, weights):
        x, y = batch
        noise = 0.1 * torch.randn(len(x)) + 0.01 * random.gauss(0, 1) + 0.01 * np.random.randn()
        keep = torch.rand(len(x)) >= weights.use_prediction
        return (module(x)[:, 0] + noise * keep - y).square() * (0.5 + 0.5 * weights.kl)

    return loss


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def without_seconds(history):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


@pytest.mark.parametrize("kill_after_batches", [0, 1, 3, 4, 6, 8, 9, 12, 14])
def test_resuming_after_a_kill_is_bit_exact(tmp_path, kill_after_batches):
    """Three batches an epoch: kills between epochs and within each of them, and before any."""
    module, train, valid = problem()
    expected = fit(module, loss_of(module), train, valid, options=OPTIONS)
    other, *_ = problem()
    calls = 0

    def killing(batch, weights):
        nonlocal calls
        if torch.is_grad_enabled():
            if calls == kill_after_batches:
                raise Killed
            calls += 1
        return loss_of(other)(batch, weights)

    with pytest.raises(Killed):
        fit(other, killing, train, valid, options=OPTIONS, folder=tmp_path)
    third, *_ = problem()
    if kill_after_batches >= 3:  # there is a checkpoint, and it alone must matter
        nn.init.constant_(third.weight, 0.3)
    seed_all(77)  # the process that resumes has drawn other numbers
    result = fit(
        third, loss_of(third), train, valid, options=OPTIONS, folder=tmp_path, resume=True
    )
    assert same(module.state_dict(), third.state_dict())
    assert without_seconds(result.history) == without_seconds(expected.history)
    assert result.best_epoch == expected.best_epoch
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4, 5]


def test_resuming_after_sigkill_in_another_process(tmp_path):
    script = f"""
import os, signal, sys
sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
import test_fit as t
module, train, valid = t.problem()
t.fit(module, t.loss_of(module), train, valid, options=t.OPTIONS, folder={str(tmp_path)!r},
      on_epoch=lambda r: r["epoch"] == 3 and os.kill(os.getpid(), signal.SIGKILL))
"""
    done = subprocess.run([sys.executable, "-c", script])
    assert done.returncode == -9
    module, train, valid = problem()
    expected = fit(module, loss_of(module), train, valid, options=OPTIONS)
    other, *_ = problem()
    result = fit(other, loss_of(other), train, valid, options=OPTIONS, folder=tmp_path, resume=True)
    assert same(module.state_dict(), other.state_dict())
    assert without_seconds(result.history) == without_seconds(expected.history)


def test_training_learns_and_keeps_the_best_parameters():
    module, train, valid = problem()
    result = fit(module, loss_of(module), train, valid, options=OPTIONS)
    best = min(result.history, key=lambda record: record["valid_loss"])
    assert result.best_loss == best["valid_loss"] < result.history[0]["valid_loss"]
    assert result.best_epoch == best["epoch"]
    seed_all(OPTIONS.seed)  # the validation's noise
    with torch.no_grad():
        assert loss_of(module)(valid, Weights()).mean().item() == pytest.approx(result.best_loss)


def test_a_nan_is_refused_with_step_batch_loss_and_parameter():
    module, train, valid = problem()
    calls = 0

    def loss(batch, weights):
        nonlocal calls
        calls += 1
        value = loss_of(module)(batch, weights)
        return value * (module.bias - module.bias.detach()).sqrt() if calls == 3 else value

    with pytest.raises(FitError) as raised:
        fit(module, loss, train, valid, options=OPTIONS)
    message = str(raised.value)
    assert "the gradient is not finite at step 3 (epoch 1, batch 2" in message
    assert "parameter 'bias'" in message
    assert "last finite loss" in message and "last finite loss None" not in message
    assert all(torch.isfinite(p).all() for p in module.parameters())


def test_a_nan_in_the_data_is_not_blamed_on_a_parameter():
    module, train, valid = problem()
    with pytest.raises(FitError, match="the loss is not finite at step 1.*sequences"):
        fit(module, lambda b, w: b[0].sum(-1) * math.nan + 0 * module.bias, train, valid,
            options=OPTIONS)
    train[0][4] = math.inf
    with pytest.raises(FitError, match="not finite"):
        fit(module, loss_of(module), train, valid, options=OPTIONS)


def test_a_nan_in_validation_is_refused():
    module, train, valid = problem()
    valid[0][0] = math.nan
    with pytest.raises(FitError, match="validation loss is nan after step 3"):
        fit(module, loss_of(module), train, valid, options=OPTIONS)


def scripted(valid_losses):
    """A loss whose validation values are given, one an epoch."""
    module, values = nn.Linear(1, 1), iter(valid_losses)

    def loss(batch, weights):
        if torch.is_grad_enabled():
            return module(batch[0])[:, 0]
        return torch.full((len(batch[0]),), float(next(values)))

    return module, loss, (torch.zeros(2, 1),)


@pytest.mark.parametrize(
    ("losses", "changes", "epochs", "best"),
    [
        ([5, 4, 3, 3, 3, 9], {}, 5, 3),                        # equal is no better
        ([5, 6, 6, 4, 5, 5, 9], {"patience": 3}, 7, 4),        # a better one starts the count anew
        ([5, 4.9, 4.8, 9], {"min_delta": 0.3}, 3, 1),
        ([5, 6, 6, 6, 6, 6, 9], {"kl_warm_up": 4}, 6, 1),      # not counted while weights grow
        ([5, 6, 6, 6, 6, 9], {"sampling": ScheduledSampling(0, 3)}, 5, 1),
    ],
)
def test_early_stopping_rule(losses, changes, epochs, best):
    module, loss, data = scripted(losses + [9] * 20)
    options = FitOptions(**{"epochs": 20, "patience": 2, **changes})
    result = fit(module, loss, data, data, options=options)
    assert (len(result.history), result.best_epoch, result.stopped) == (epochs, best, "patience")


def test_schedules():
    options = FitOptions(
        epochs=11, kl_warm_up=4, sampling=ScheduledSampling(2, 6, 0.8), learning_rate=1.0,
        final_learning_rate=0.1,
    )
    weights = [options.weights(epoch) for epoch in range(1, 9)]
    assert [w.kl for w in weights] == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    expected = [0, 0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8]
    assert [w.use_prediction for w in weights] == pytest.approx(expected)
    assert options.settled == 6
    assert [options.rate(e) for e in (1, 6, 11)] == pytest.approx([1.0, 0.55, 0.1])


def test_the_learning_rate_warms_up_over_steps_and_not_again_after_resuming(tmp_path):
    """Adam's first steps are of the learning rate's size, whatever the constant gradient is."""

    def path(**how):
        module, places = nn.Linear(1, 1, bias=False), []  # (place, learning rate) after epochs
        nn.init.zeros_(module.weight)
        fit(
            module, lambda batch, weights: module(batch[0])[:, 0], data, data, folder=tmp_path,
            options=FitOptions(epochs=2, batch_size=1, learning_rate=0.1, warm_up=4),
            on_epoch=lambda r: places.append((module.weight.item(), r["learning_rate"])), **how,
        )
        return places

    data = (torch.ones(3, 1),)
    ((first, rate),) = path(max_seconds=0)  # one epoch
    assert first == pytest.approx(-0.1 * (1 + 2 + 3) / 4, abs=1e-6)
    assert rate == pytest.approx(0.1 * 3 / 4)  # of the last step
    ((second, rate),) = path(resume=True)
    assert second - first == pytest.approx(-0.1 * 3, abs=1e-6)
    assert rate == pytest.approx(0.1)


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    module, train, valid = problem()
    arguments = {"options": OPTIONS, "folder": tmp_path, "max_seconds": 0}
    fit(module, loss_of(module), train, valid, **arguments)
    fewer = tuple(part[:-1] for part in train)
    with pytest.raises(ValueError, match=r"\[20, 10\] sequences.*now \[19, 10\]"):
        fit(module, loss_of(module), fewer, valid, resume=True, **arguments)


@pytest.mark.parametrize(("name", "unit"), [("warm_up", "steps"), ("kl_warm_up", "epochs")])
def test_a_negative_warm_up_is_refused(name, unit):
    with pytest.raises(ValueError, match=f"^{name}: given -1; expected {unit}, or 0"):
        FitOptions(**{name: -1})


def test_the_gradient_is_clipped():
    module, data, clipped = nn.Linear(1, 1), (torch.ones(4, 1),), []
    options = FitOptions(epochs=1, batch_size=4, max_grad_norm=1e-3)
    result = fit(
        module, lambda batch, weights: 1e6 * module(batch[0])[:, 0], data, data, options=options,
        on_epoch=lambda record: clipped.extend(p.grad.item() for p in module.parameters()),
    )
    assert result.history[0]["grad_norm"] == pytest.approx(1e6 * 2**0.5)
    assert math.hypot(*clipped) == pytest.approx(1e-3, rel=1e-3)


def test_time_limit_stops_between_epochs(tmp_path):
    module, train, valid = problem()
    result = fit(module, loss_of(module), train, valid, options=OPTIONS, max_seconds=0)
    assert (len(result.history), result.stopped) == (1, "time")


def test_a_half_written_checkpoint_is_never_loaded(tmp_path):
    save_checkpoint(tmp_path, 1, {"a": torch.arange(3.0)}, {"note": "whole"})
    place = save_checkpoint(tmp_path, 2, {"a": torch.arange(100.0)}, {})
    whole = (place / "tensors.safetensors").read_bytes()
    # Cut short, at any point; then changed in one byte; then without its metadata.
    for content in (b"", whole[:20], whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        (place / "tensors.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match="checkpoint"):
            load_checkpoint(place)
        with pytest.warns(RuntimeWarning, match="passed over"):
            found = latest_checkpoint(tmp_path)
        assert found.epoch == 1 and found.meta["note"] == "whole"
    (place / "tensors.safetensors").write_bytes(whole)
    assert latest_checkpoint(tmp_path).epoch == 2
    (place / "meta.json").write_text('{"epoch": 2, "sha')
    with pytest.warns(RuntimeWarning, match="passed over"):
        assert latest_checkpoint(tmp_path).epoch == 1
    # One that was never renamed has no name that is looked at.
    (tmp_path / ".epoch-00009.1").mkdir()
    (place / "meta.json").unlink()
    with pytest.warns(RuntimeWarning, match="passed over"):
        assert latest_checkpoint(tmp_path).epoch == 1


def test_a_write_that_fails_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, {"a": torch.ones(2)}, {})

    def full(*args, **keywords):
        raise OSError("disk full")

    monkeypatch.setattr("pyromodels.inference.training.checkpoint.os.replace", full)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, 2, {"a": torch.zeros(2)}, {})
    assert latest_checkpoint(tmp_path).epoch == 1


def test_only_the_last_checkpoints_are_kept(tmp_path):
    module, train, valid = problem()
    fit(module, loss_of(module), train, valid, options=OPTIONS, folder=tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["epoch-00004", "epoch-00005", "metrics.jsonl"]


def test_other_options_and_bad_data_are_refused(tmp_path):
    module, train, valid = problem()
    fit(module, loss_of(module), train, valid, options=OPTIONS, folder=tmp_path)
    other = dataclasses.replace(OPTIONS, batch_size=4)
    with pytest.raises(ValueError, match="batch_size=8, now 4"):
        fit(module, loss_of(module), train, valid, options=other, folder=tmp_path, resume=True)
    with pytest.raises(ValueError, match="no folder"):
        fit(module, loss_of(module), train, valid, options=OPTIONS, resume=True)
    with pytest.raises(ValueError, match="train.*same positive number"):
        fit(module, loss_of(module), (train[0], train[1][:3]), valid, options=OPTIONS)
    with pytest.raises(ValueError, match="valid"):
        fit(module, loss_of(module), train, (valid[0][:0],), options=OPTIONS)
    with pytest.raises(ValueError, match="patience"):
        FitOptions(patience=0)
    with pytest.raises(ValueError, match="sampling"):
        ScheduledSampling(5, 3, 0.5)
    with pytest.raises(ValueError, match="hops: given -1"):
        ScheduledSampling(3, 5, hops=-1)


def test_random_state_covers_the_three_generators():
    seed_all(4)
    random.gauss(0, 1), np.random.randn()  # leaves half of a pair in each
    state = random_state()

    def draws():
        return random.gauss(0, 1), random.random(), np.random.randn(), torch.rand(()).item()

    first = draws()
    set_random_state(state)
    assert draws() == first
    with pytest.raises(ValueError, match="seed"):
        seed_all(-1)
