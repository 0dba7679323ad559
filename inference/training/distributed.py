"""Training in several processes: the same command, started by torchrun.

    torchrun --nproc-per-node 4 --no-python pyromodels train ...

Every process runs the whole program on the same data. Here is what they do together; in a program
that was started alone it changes nothing.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pyromodels.inference.training.seeding import seed_all

Value = TypeVar("Value")


@contextmanager
def start(device: torch.device | str | None = None) -> Iterator[torch.device]:
    """Join the processes that torchrun started; yields the device of this one.

    Without torchrun's environment variables, or inside another such block, it joins nothing.

    Args:
        device: to train on; None: GPUs where there are any. Of several processes each gets the
            GPU of its number.

    Raises:
        ValueError: more processes than GPUs on a machine.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if "RANK" not in os.environ or _joined():
        yield device
        return
    kind = device.type
    local = int(os.environ["LOCAL_RANK"])
    if kind == "cuda":
        if local >= (count := torch.cuda.device_count()):
            raise ValueError(f"process {local} of this machine finds {count} GPUs; start as many")
        torch.cuda.set_device(local)
    dist.init_process_group("gloo" if kind == "cpu" else "cpu:gloo,cuda:nccl")
    yield torch.device(kind, local if kind == "cuda" else None)
    dist.destroy_process_group()  # not after an error: others wait, and must see this one end


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if _joined() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if _joined() else 1


def is_first() -> bool:
    """Whether this process is the one that decides, prints and writes."""
    return rank() == 0


def local_rows(rows: Tensor) -> Tensor:  # (B,) -> (B / world_size,), rounded up or down
    """Return this process' part of a minibatch."""
    return rows.tensor_split(world_size())[rank()]


def sum_over_processes(value: Tensor) -> Tensor:
    """Return the sum of a tensor that has the same shape, dtype and kind of device everywhere."""
    if world_size() > 1:
        value = value.detach().clone()
        dist.all_reduce(value)
    return value


def sum_number(value: float) -> float:
    """Return the sum of a number over the processes."""
    return sum_over_processes(torch.tensor(value, dtype=torch.float64)).item()


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace every gradient by its sum over the processes; None where no process has one."""
    if world_size() == 1:
        return
    there = sum_over_processes(torch.tensor([p.grad is not None for p in parameters]).long())
    found = [p for p, count in zip(parameters, there.tolist(), strict=True) if count]
    for kind in dict.fromkeys((p.dtype, p.device) for p in found):
        group = [p for p in found if (p.dtype, p.device) == kind]
        flat = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in group]
        total = sum_over_processes(torch.cat(flat))
        for p, part in zip(group, total.split([p.numel() for p in group]), strict=True):
            p.grad = part.view_as(p)


def from_first(value: Value) -> Value:
    """Return the value that the first process gave."""
    box = [value]
    if world_size() > 1:
        dist.broadcast_object_list(box)
    return box[0]


@torch.no_grad()
def copy_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of the first process."""
    for tensor in tensors if world_size() > 1 else ():
        dist.broadcast(whole := tensor.contiguous(), 0)
        tensor.copy_(whole)


def seed_others(seed: int, epoch: int) -> None:
    """Seed all processes but the first, each for noise of its own; the first keeps its stream."""
    if not is_first():
        seed_all(int(np.random.SeedSequence((seed, epoch, rank())).generate_state(1)[0]))


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()
