"""Work that model and guide share, done once in an evaluation of both."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch
from torch import Tensor, nn

Result = TypeVar("Result")

_memo: ContextVar[dict | None] = ContextVar("memo", default=None)


@contextmanager
def one_evaluation() -> Iterator[None]:
    """Remember, within this block, what `once` computes.

    An objective that runs a guide and a model on one batch opens it around both. Parameters must
    not change inside; nothing outlives the block.
    """
    token = _memo.set({})
    try:
        yield
    finally:
        _memo.reset(token)


def once(
    module: nn.Module,
    what: str,
    inputs: tuple[Tensor, ...],
    compute: Callable[[], Result],
) -> Result:
    """Return `compute()`, which depends on the module's parameters and on the inputs alone.

    Inputs are the same where they are the same memory under the same shape: handlers hand on views.
    With gradients on and off the result is another: without its graph it is of no use to a loss,
    and with it, it would keep the graph of what wanted none.

    Example:
        >>> net, x, calls = nn.Linear(1, 1), torch.ones(1), []
        >>> with one_evaluation():
        ...     for _ in range(2):
        ...         _ = once(net, "output", (x,), lambda: calls.append("run"))
        >>> calls
        ['run']
    """
    memo = _memo.get()
    if memo is None:
        return compute()
    key = (id(module), what, torch.is_grad_enabled(), *(_identity(tensor) for tensor in inputs))
    if key not in memo:
        # module and inputs are kept: neither their numbers nor their memory is used again
        memo[key] = (module, inputs, compute())
    return memo[key][-1]


def _identity(tensor: Tensor) -> tuple:
    return (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.requires_grad)
