"""Cases by name, and how one is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyro
import torch
from torch import Tensor

Device = torch.device | str
Case = Callable[[Device], Any]

CASES: dict[str, Case] = {}
SLOW: set[str] = set()
"""Cases that take seconds on a CPU, or that vary others."""

def case(name: str, *, slow: bool = False) -> Callable[[Case], Case]:
    """Put a case under its name."""

    def put(function: Case) -> Case:
        CASES[name] = function
        if slow:
            SLOW.add(name)
        return function

    return put


def run_case(name: str, device: Device) -> list[Tensor]:  # on the CPU
    """Run a case from a fresh random state, and return its numbers one after the other."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    return list(_numbers(CASES[name](device)))


def _numbers(made: Any) -> Iterator[Tensor]:
    if isinstance(made, Tensor):
        yield made.detach().cpu()
    elif isinstance(made, float):
        yield torch.tensor(made, dtype=torch.float64)
    elif isinstance(made, dict):
        yield from _numbers(list(made.values()))
    elif isinstance(made, (list, tuple)):
        for part in made:
            yield from _numbers(part)
