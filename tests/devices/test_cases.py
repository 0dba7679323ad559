"""Everything that fits or draws runs on a device, and gives there what it gives on the CPU."""

from __future__ import annotations

import warnings

import pytest
import torch
from pretend import NAME, OtherDevice, Watched

from pyromodels.experiments.demonstrations import device_cases
from pyromodels.experiments.demonstrations.device_cases import CASES, SLOW, run_case


def run(name: str, device: str) -> list[torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run_case(name, device)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in CASES]
)
def test_a_device_gives_the_numbers_of_the_cpu(name):
    expected = run(name, "cpu")
    with Watched():
        found = run(name, NAME)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-6, equal_nan=True)


def test_zeros_without_a_device_are_found(monkeypatch):
    def careless(device):
        x = torch.rand(2, 3).to(device)
        return x + torch.zeros(2, 3)  # what it means: x.new_zeros(2, 3)

    monkeypatch.setitem(CASES, "careless", careless)
    run("careless", "cpu")
    with Watched(), pytest.raises(OtherDevice, match=r"expected all tensors on one device"):
        run("careless", NAME)


def test_a_careless_line_inside_an_engine_is_found(monkeypatch):
    """The same in the midst of a sweep, far from who wrote the case."""
    model, _ = device_cases.mixtures.mixture()
    law = type(model.prior)
    message = law.gaussian_message

    def careless(self, s, **options):
        made = message(self, s, **options)
        return made._replace(offset=made.offset + torch.zeros(made.offset.shape))

    monkeypatch.setattr(law, "gaussian_message", careless)
    run("VEM, linear", "cpu")
    with Watched(), pytest.raises(OtherDevice):
        run("VEM, linear", NAME)
