"""Drawing without a trace: torch's random state, of the CPU and of every GPU, left as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def restored_random_state() -> Iterator[None]:
    """Run a block and then restore torch's global generators, whatever device it drew on.

    Bare `torch.random.fork_rng()` knows CUDA alone, and with `devices=[]` the CPU alone.
    """
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    devices: list[int] = []
    if kind is not None and kind.type != "mps":  # whose generator has no number to ask by
        module = torch.get_device_module(kind)
        if getattr(module, "is_initialized", lambda: True)():  # else nothing was drawn there
            devices = list(range(module.device_count()))
    with torch.random.fork_rng(devices, device_type=kind.type if devices else "cuda"):
        yield
