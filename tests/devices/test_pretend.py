"""The pretend device itself: what CUDA refuses it refuses, what makes a host wait it counts."""

from __future__ import annotations

import copy

import pytest
import torch
from pretend import MODULE, NAME, OtherDevice, There, Watched, move
from torch import nn

from pyromodels.pyro_support.random_state import restored_random_state

MIXED = {
    "a sum": lambda x, y: x + y,
    "a product": lambda x, y: x @ y,
    "a number in cat": lambda x, y: torch.stack((x[0, 0], y[0, 0])),
    "gather": lambda x, y: x.gather(0, y.long() * 0),
    "an index there, of a tensor here": lambda x, y: y[x.long() * 0],
    "a generator here": lambda x, y: torch.randn(2, generator=torch.Generator(), device=NAME),
    "a generator there": lambda x, y: torch.randn(2, generator=torch.Generator(NAME)),
    "out": lambda x, y: torch.mm(x, x, out=y),
    "where": lambda x, y: torch.where(x > 0, x, y),
    "put": lambda x, y: x.index_put_((torch.tensor([0]),), y[0]),
    "a layer here": lambda x, y: nn.LSTM(2, 2)(x),
    "zeros without a device": lambda x, y: x * torch.zeros(2, 2),
}
ALLOWED = {
    "a number": lambda x, y: x * torch.tensor(2.0),
    "an index here": lambda x, y: x[(y * 0).long()],
    "copy_": lambda x, y: x.copy_(y),
    "to": lambda x, y: x + y.to(x),
    "cpu": lambda x, y: x.cpu() + y,
    "a layer moved": lambda x, y: nn.LSTM(2, 2).to(NAME)(x),
    "new_zeros": lambda x, y: x * x.new_zeros(2, 2),
}
WAITING = {
    "item": lambda x: x.sum().item(), "bool": lambda x: bool((x > 0).any()),
    "tolist": lambda x: x.tolist(), "cpu": lambda x: x.cpu(), "float": lambda x: float(x[0, 0]),
    "a mask": lambda x: x[x > 0], "nonzero": lambda x: x.nonzero(),
    "equal": lambda x: torch.equal(x, x), "int": lambda x: int(x[0, 0]),
    "inv, which checks": lambda x: torch.linalg.inv(x + torch.eye(2, device=NAME)),
    "cholesky, which checks": lambda x: torch.linalg.cholesky(x + 3 * torch.eye(2, device=NAME)),
}  # fmt: skip
SILENT = {
    "arithmetic": lambda x: (x @ x).exp().sum(0), "where": lambda x: torch.where(x > 0, x, 0.0),
    "masked_fill": lambda x: x.masked_fill(x > 0, 0.0), "new_full": lambda x: x.new_full((), 0.3),
    "randn_like": torch.randn_like, "cholesky_ex": lambda x: torch.linalg.cholesky_ex(x).L,
}  # fmt: skip


@pytest.mark.parametrize("name", MIXED)
def test_two_devices_in_one_operation_raise(name):
    with Watched(), pytest.raises(OtherDevice):
        MIXED[name](torch.ones(2, 2, device=NAME), torch.ones(2, 2))


def test_numpy_of_a_tensor_there_raises():
    with Watched(), pytest.raises(TypeError, match="numpy"):
        torch.ones(2, device=NAME).numpy()


@pytest.mark.parametrize("name", ALLOWED)
def test_what_cuda_allows_is_allowed(name):
    with Watched():
        ALLOWED[name](torch.ones(2, 2, device=NAME), torch.ones(2, 2))


@pytest.mark.parametrize("name", WAITING)
def test_a_wait_is_counted_once(name):
    with Watched() as seen:
        x = torch.ones(2, 2, device=NAME)
        seen.reset()
        WAITING[name](x)
    assert seen.waits.total() == 1


@pytest.mark.parametrize("name", SILENT)
def test_what_stays_there_is_no_wait_and_no_upload(name):
    with Watched() as seen:
        x = torch.ones(2, 2, device=NAME)
        seen.reset()
        SILENT[name](x)
    assert not seen.waits
    assert not seen.uploads
    assert seen.launches


@pytest.mark.parametrize(
    "up",
    [
        lambda x: x.new_tensor([1.0, 2.0]), lambda x: torch.tensor(3.0, device=NAME),
        lambda x: torch.ones(2).to(x), lambda x: x[torch.tensor([0, 1])],
    ],
)  # fmt: skip
def test_an_upload_is_counted_once(up):
    with Watched() as seen:
        x = torch.ones(2, 2, device=NAME)
        seen.reset()
        up(x)
    assert (seen.uploads.total(), seen.waits.total()) == (1, 0)


def test_a_line_of_the_project_is_named():
    from pyromodels.batch import SequenceBatch

    with Watched() as seen:
        x = torch.ones(1, 3, 2, device=NAME)
        SequenceBatch(x, torch.ones(1, 3, dtype=torch.bool, device=NAME))
    assert all(line.startswith("pyromodels/batch.py:") for line in seen.waits)
    assert seen.waits


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell])
def test_a_recurrent_layer_is_one_launch_with_the_gradient_of_the_cpu(layer):
    torch.manual_seed(0)
    here, x = layer(2, 3), torch.randn(4, 2)
    first = lambda out: out[0] if isinstance(out, tuple) else out  # noqa: E731
    first(here(x)).square().sum().backward()
    with Watched() as seen:
        there = move(copy.deepcopy(here))
        there.zero_grad()
        seen.reset()
        out = there(x.to(NAME))
        assert seen.launches.total() - seen.launches["zeros"] == 1  # of the first state
        first(out).square().sum().backward()
        for a, b in zip(here.parameters(), there.parameters(), strict=True):
            assert isinstance(b, There)
            torch.testing.assert_close(a.grad, b.grad.cpu(), rtol=0, atol=0)


def test_numbers_drawn_there_are_the_cpus():
    torch.manual_seed(0)
    here = torch.randn(3)
    with Watched():
        torch.manual_seed(0)
        there = torch.randn(3, device=NAME)
        own = torch.randn(3, generator=torch.Generator(NAME).manual_seed(0), device=NAME).cpu()
        assert torch.equal(there.cpu(), here)
    assert torch.equal(own, here)


def test_random_state_is_restored_on_the_device_too():
    with Watched():
        before = MODULE.draws
        with torch.random.fork_rng(devices=[]):
            torch.randn(1, device=NAME)
        assert MODULE.draws == before + 1  # the CPU's state alone was left as it was
        with restored_random_state():
            torch.randn(2, device=NAME)
            assert MODULE.draws == before + 2
        assert MODULE.draws == before + 1


def test_it_is_gone_when_nobody_watches():
    with Watched():
        assert torch.accelerator.is_available()
    assert not torch.accelerator.is_available()
