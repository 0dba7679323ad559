"""Work that model and guide share is done once, and never handed to who wants another result."""

import pytest
import torch
from torch import nn

from pyromodels.pyro_support.shared_work import once, one_evaluation


@pytest.fixture
def shared():
    net, x = nn.Linear(2, 1), torch.randn(3, 2)
    calls = []

    def compute(inputs=x):
        return once(net, "output", (inputs,), lambda: (calls.append(1), net(inputs))[1])

    return net, x, compute, calls


def test_a_view_of_the_same_memory_is_the_same_input(shared):
    _, x, compute, calls = shared
    with one_evaluation():
        assert compute() is compute(x.view(3, 2))
        assert compute(x.clone()) is not compute()
    assert len(calls) == 2


def test_nothing_outlives_an_evaluation(shared):
    _, _, compute, calls = shared
    for _ in range(2):
        with one_evaluation():
            compute()
    compute(), compute()
    assert len(calls) == 4


@pytest.mark.parametrize("first", [True, False], ids=["with gradients first", "without first"])
def test_gradients_on_and_off_are_two_results(shared, first):
    net, _, compute, calls = shared
    with one_evaluation():
        for enabled in (first, not first, first, not first):
            with torch.set_grad_enabled(enabled):
                value = compute()
            assert value.requires_grad == enabled
    assert len(calls) == 2
    with one_evaluation():
        with torch.no_grad():
            compute()
        compute().sum().backward()
    assert net.weight.grad is not None and net.weight.grad.any()
