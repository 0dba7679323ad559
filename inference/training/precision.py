"""Mixed precision: the loss in TF32, bf16 or fp16, parameters and sums in float32."""

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from pyromodels.inference.training.options import Autocast

DTYPES = {"none": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """How a loss is computed and stepped on.

    bf16 has the range of float32; processors without its instructions lack torch's recurrent layers
    in it, and would only emulate the rest. In fp16 small gradients would vanish: the loss is
    multiplied by a scale that halves whenever a gradient overflows (that step is left out) and
    slowly doubles else. In TF32 tensors stay float32, and a GPU rounds what it multiplies.

    Args:
        autocast: "none", "tf32", "bf16" or "fp16".
        device: of the parameters.

    Raises:
        ValueError: fp16 or tf32 elsewhere than on a GPU, or bf16 on a processor that has none.
    """

    def __init__(self, autocast: Autocast, device: torch.device) -> None:
        if autocast in ("fp16", "tf32") and device.type != "cuda":
            raise ValueError(f'autocast: given "{autocast}" and parameters on {device}; expected '
                             'them on a GPU. Elsewhere use "bf16" or "none"')
        if autocast == "bf16" and not has_bf16(device.type):
            raise ValueError(f'autocast: given "bf16", in which this processor ({device}) cannot '
                             'compute recurrent layers; expected "none"')
        self.kind, self.dtype, self.tf32 = device.type, DTYPES[autocast], autocast == "tf32"
        self.scaler = torch.amp.GradScaler(device.type, enabled=autocast == "fp16")

    def context(self) -> AbstractContextManager:
        """Return what the loss is computed in.

        Without a cache of cast weights: in older releases of torch one that a block without
        gradients had filled, such as `own_history`, kept the gradient from the weights.
        """
        if self.tf32:
            return _with_tf32()
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.kind, self.dtype, cache_enabled=False)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss, times the scale."""
        with _with_tf32() if self.tf32 else nullcontext():
            self.scaler.scale(loss).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the scale."""
        self.scaler.unscale_(optimizer)

    def may_overflow(self) -> bool:
        """Whether the scale may be what made a gradient infinite."""
        return self.scaler.is_enabled() and self.scaler.get_scale() > 1

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Step, unless the gradient overflowed; then adapt the scale."""
        self.scaler.step(optimizer)
        self.scaler.update()

    def state(self) -> dict[str, Any]:
        """Return the scale and its history as plain data."""
        return self.scaler.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state)


@functools.cache
def has_bf16(kind: str) -> bool:
    """Whether a kind of device ("cpu", "cuda") computes a recurrent layer in bf16; asked once."""
    layer = torch.nn.LSTM(1, 1, device="meta", dtype=torch.float32)  # draws no random numbers
    try:
        with torch.no_grad(), torch.autocast(kind, torch.bfloat16):
            layer.to_empty(device=kind)(torch.zeros(1, 1, 1, dtype=torch.float32, device=kind))
    except RuntimeError:  # no such primitive
        return False
    return True


def allow_tf32(allowed: bool) -> None:
    """Say whether a GPU may round the factors of float32 products to TF32; set at the edge only.

    torch's own default is no for matrix products, but yes for cuDNN's, recurrent layers included:
    the same LSTM then differs by 1e-3 from a CPU's, its one-step form does not.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed


@contextmanager
def _with_tf32() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    allow_tf32(True)
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
