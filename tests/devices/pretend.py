"""A GPU that is not there: tensors that hold a CPU's numbers and say that they are on a device.

    with Watched() as seen:
        model, batch = model.to(NAME), batch.to(NAME)
        vem.step(batch)
    seen.waits, seen.uploads, seen.launches

An operation on tensors of two devices raises as CUDA would; each time the host has to wait for the
device, and each copy from host to device, is counted under the line of the project that asked for
it; kernels are counted by name. Numbers are the CPU's to the bit, those drawn included.

It stands on interfaces of torch that may change: tensor subclasses that wrap another tensor,
dispatch modes, and the backend that is kept for private use, since one named "cuda" is guarded
where torch was built without it. What CUDA does is in the tables below, and in `test_pretend.py`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch._dynamo  # else a mode would watch its import
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    return_and_correct_aliasing,
)
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

NAME = "pretend"
HOUSE = Path(__file__).resolve().parents[2]
ROOMS = tuple(f"{HOUSE / room}/" for room in ("pyromodels", "inference", "experiments"))

NO_KERNEL = {
    "detach", "alias", "lift_fresh", "view", "_unsafe_view", "_reshape_alias", "empty",
    "empty_like", "empty_strided", "new_empty", "new_empty_strided", "is_same_size", "set_",
    "resize_", "_has_same_storage_numel", "_version", "size", "stride", "sym_size", "sym_stride",
    "_assert_tensor_metadata", "_assert_scalar",
}  # fmt: skip
"""Operations that launch nothing; views besides."""
NOT_EVEN_SCALARS = {
    "cat", "stack", "mm", "bmm", "mv", "dot", "addmm", "addmv", "baddbmm", "addbmm", "convolution",
    "gather", "scatter", "scatter_", "scatter_add", "index_select", "index_add", "index_add_",
    "index_copy", "index_copy_", "embedding", "linalg_solve_triangular", "linalg_inv_ex",
    "linalg_cholesky_ex", "native_layer_norm", "native_batch_norm", "searchsorted", "bucketize",
    "lerp",
}  # fmt: skip
"""In others CUDA takes a number in a tensor of the CPU, shape (), among its own."""
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
"""A tensor on the device may be indexed by one of the CPU, which is copied there."""
READ_BACK = {"_local_scalar_dense", "equal", "is_nonzero", "_linalg_check_errors"}
"""Their result is on the host."""
WAITING = READ_BACK | {
    "nonzero", "masked_select", "unique_dim", "_unique2", "unique_consecutive", "bincount",
    "histc", "allclose", "item", "linalg_eigh", "_linalg_eigh", "_linalg_svd", "linalg_lstsq",
}  # fmt: skip
FUSED = ("lstm", "gru", "lstm_cell", "gru_cell", "rnn_tanh")
"""One call of cuDNN each, of which a CPU makes many operations."""


class OtherDevice(RuntimeError):
    """What CUDA raises for operands of two devices."""


class _Module(backend_registration._DummyBackendModule):
    """`torch.pretend`: there while it is watched. The global generator's state counts its draws."""

    draws = 0

    def is_available(self) -> bool:
        return Watched.current is not None

    def is_initialized(self) -> bool:
        return self.is_available()

    def device_count(self) -> int:
        return int(self.is_available())

    def synchronize(self, device: Any = None) -> None:
        _count("waits", "synchronize")

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.tensor([self.draws])

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        self.draws = int(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


MODULE = _Module()
backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=MODULE)


class Watched(TorchDispatchMode):
    """While it lasts, the device is there; what happened on it is counted."""

    current: Watched | None = None

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        """Count from zero."""
        self.waits: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()

    def __enter__(self) -> Watched:
        self._stack = ExitStack()
        enter = self._stack.enter_context
        enter(mock.patch.object(torch, "Generator", _generators(torch.Generator)))
        enter(mock.patch.object(torch, "inference_mode", torch.no_grad))  # it knows no wrappers
        for module in [m for m in sys.modules.values() if hasattr(m, "save_file")]:
            # safetensors copies CUDA's tensors to the host first, and reads ours as memory
            enter(mock.patch.object(module, "save_file", _on_host(module.save_file)))
        lifts = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(x, device=...) is seen as a copy
        self._stack.callback(torch._C._set_only_lift_cpu_tensors, lifts)
        self._stack.callback(setattr, Watched, "current", Watched.current)
        Watched.current = self
        enter(_FusedNetworks())
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._stack.close()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return _dispatch(func, args, kwargs or {})


class There(Tensor):
    """A tensor of the device; its numbers are in `held`, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> There:
        return Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, layout=held.layout, device=torch.device(NAME, 0), requires_grad=False,
        )  # fmt: skip

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self, **_: Any) -> str:
        return f"There({self.held!r})"

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, Tensor], *_: Any) -> There:
        return There(parts["held"])

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return _dispatch(func, args, kwargs or {})

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func in (Tensor.numpy, Tensor.__array__):
            raise TypeError(f"can't convert a tensor on {NAME} to numpy; use Tensor.cpu() first")
        if func is Tensor.data_ptr:
            return args[0].held.data_ptr()
        if func is Tensor.tolist:
            _count("waits", "tolist")
            return args[0].held.tolist()
        with torch._C.DisableTorchFunctionSubclass():
            if func is Tensor.__deepcopy__:
                return _copied(*args)
            return func(*args, **(kwargs or {}))


class Draws(torch.Generator):
    """A generator of the device. Its numbers are a CPU's, of the same seed."""

    device = torch.device(NAME, 0)
    alive: set[int] = set()  # torch hands a mode another wrapper of the same generator

    def __init__(self, *_: Any) -> None:
        self.alive.add(self._cdata)

    def __del__(self) -> None:
        self.alive.discard(self._cdata)

    def set_state(self, state: Tensor) -> torch.Generator:
        """Take a state, which is a tensor of the CPU on any device."""
        if isinstance(state, There):
            raise TypeError("RNG state must be a torch.ByteTensor")
        return super().set_state(state)


def move(module: nn.Module) -> nn.Module:
    """Move a module there in place, as `.to` moves it to a GPU.

    Where parameters are referred to from elsewhere, as Pyro's are, torch's own cannot put wrappers
    in their place.
    """
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for name, value in table.items():
                if isinstance(value, Tensor) and not isinstance(value, There):
                    moved: Tensor = There(value.detach().clone())
                    if table is part._parameters:
                        moved = nn.Parameter(moved, requires_grad=value.requires_grad)
                    table[name] = moved
    return module


# ---- what happens to an operation


def _dispatch(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    name = func._schema.name.partition("::")[2]
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
    there = [t for t in tensors if isinstance(t, There)]
    here = [t for t in tensors if not isinstance(t, There)]
    asked = kwargs.get("device")
    goes_there = bool(there) if asked is None else torch.device(asked).type == NAME
    generator = kwargs.get("generator")
    drawn_there = generator is not None and generator._cdata in Draws.alive

    if name == "_to_copy":
        return _copy(func, args, kwargs, bool(there), goes_there)
    if name == "copy_":
        return _copy_into(func, args, kwargs)
    if generator is not None and drawn_there != goes_there:
        kinds = ("cpu", NAME) if goes_there else (NAME, "cpu")
        raise OtherDevice(f"{name}: a generator of {kinds[0]}, for a tensor of {kinds[1]}")
    if not there and not goes_there:
        return func(*args, **kwargs)
    if name == "_pack_padded_sequence":
        if isinstance(args[1], There):
            raise OtherDevice(f"{name}: lengths must be on the CPU")
        data, sizes = _on_cpu(func, args, kwargs)  # sizes stay on the CPU
        _count("launches", name)
        return There(data), sizes
    if name == "_pack_padded_sequence_backward":
        _count("launches", name)
        return There(_on_cpu(func, args, kwargs))
    if name.startswith("_thnn_fused_"):
        raise NotImplementedError(f"{name} is CUDA's alone")
    if there and here:
        _refuse_mixing(name, args, tensors)
    if _waits(func, name, args):
        _count("waits", name)
    if generator is None and torch.Tag.nondeterministic_seeded in func.tags:
        MODULE.draws += 1
    out = _on_cpu(func, args, kwargs)
    if name not in NO_KERNEL and not _is_view(func):
        _count("launches", name)
    if name in READ_BACK:
        return out
    out = tree_map(lambda t: There(t) if isinstance(t, Tensor) else t, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if there else out


def _on_cpu(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    args, kwargs = tree_map(lambda t: t.held if isinstance(t, There) else t, (args, kwargs))
    if kwargs.get("device") is not None:
        kwargs["device"] = torch.device("cpu")
    if kwargs.get("pin_memory"):
        kwargs["pin_memory"] = False
    return func(*args, **kwargs)


def _copy(func: Any, args: tuple, kwargs: dict[str, Any], was_there: bool, goes: bool) -> Tensor:
    out = _on_cpu(func, args, kwargs)
    if was_there and not goes:
        _count("waits", "device to host")
    elif was_there:
        _count("launches", "_to_copy")
    elif goes:
        _count("uploads", "host to device")
    return There(out) if goes else out


def _copy_into(func: Any, args: tuple, kwargs: dict[str, Any]) -> Tensor:
    to, source = args[:2]
    _on_cpu(func, args, kwargs)
    if isinstance(to, There):
        up = isinstance(source, Tensor) and not isinstance(source, There)
        _count(*(("uploads", "host to device") if up else ("launches", "copy_")))
    elif isinstance(source, There):
        _count("waits", "device to host")
    return to


def _refuse_mixing(name: str, args: tuple, tensors: list[Tensor]) -> None:
    places = [NAME if isinstance(t, There) else "cpu" for t in tensors]
    words = ", ".join(f"{p}{tuple(t.shape)}" for p, t in zip(places, tensors, strict=True))
    if name in INDEXING:
        value = args[2] if "put" in name else args[0]
        if not isinstance(args[0], There) or not (isinstance(value, There) or value.dim() == 0):
            raise OtherDevice(f"{name}: {words}")
        _count("uploads", "an index")
        return
    if any(
        not isinstance(t, There) and (name in NOT_EVEN_SCALARS or t.dim() > 0) for t in tensors
    ):
        raise OtherDevice(f"{name}: expected all tensors on one device, found {words}")


def _waits(func: Any, name: str, args: tuple) -> bool:
    if name in INDEXING:
        indices = [i for i in args[1] if isinstance(i, Tensor)]
        masks = any(i.dtype in (torch.bool, torch.uint8) for i in indices)
        fills = "put" in name and args[2].numel() == 1 and len(indices) == 1  # becomes masked_fill
        return masks and not fills
    tags = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
    return name in WAITING or not tags.isdisjoint(func.tags)


def _is_view(func: Any) -> bool:
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info and not r.alias_info.is_write for r in returns)


def _count(what: str, kind: str) -> None:
    if Watched.current is not None:
        key = kind if what == "launches" else f"{_line()}: {kind}"
        getattr(Watched.current, what)[key] += 1


def _line() -> str:
    """Where the project was, or else the outermost line outside of torch."""
    frame, outside = sys._getframe(2), "?"
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(ROOMS):
            return f"{path.removeprefix(f'{HOUSE}/')}:{frame.f_lineno}"
        if "/torch/" not in path and path != __file__:
            outside = f"{Path(path).name}:{frame.f_lineno}"
        frame = frame.f_back
    return outside


# ---- what is not one operation on a CPU


class _FusedNetworks(TorchFunctionMode):
    """Recurrent layers in one launch, forward and backward."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        flat, spec = tree_flatten((args, kwargs))
        at = [i for i, t in enumerate(flat) if isinstance(t, There)]
        if name not in FUSED or hasattr(func, "_schema") or not at:
            return func(*args, **kwargs)
        if any(isinstance(t, Tensor) and t.is_floating_point() and not isinstance(t, There)
               for t in flat):  # fmt: skip
            raise OtherDevice(f"{name}: input and weights on two devices")

        def on_cpu(*held: Tensor) -> tuple[Tensor, ...]:
            parts = list(flat)
            for i, t in zip(at, held, strict=True):
                parts[i] = t
            args, kwargs = tree_unflatten(parts, spec)
            out = func(*args, **kwargs)
            return out if isinstance(out, tuple) else (out,)

        _count("launches", name)
        out = _Fused.apply(on_cpu, *(flat[i] for i in at))
        return out[0] if name == "gru_cell" else out


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Callable[..., tuple[Tensor, ...]], *tensors: There) -> Any:
        with _disable_current_modes(), torch.enable_grad():
            inputs = [t.held.detach().requires_grad_(t.is_floating_point()) for t in tensors]
            outputs = run(*inputs)
        ctx.made = inputs, outputs
        return tuple(There(out.detach()) for out in outputs)

    @staticmethod
    def backward(ctx: Any, *slopes: There | None) -> Any:
        inputs, outputs = ctx.made
        used = [(out, s.held) for out, s in zip(outputs, slopes, strict=True) if s is not None]
        with _disable_current_modes(), torch.enable_grad():
            found = torch.autograd.grad(
                [out for out, _ in used], inputs, [s for _, s in used], allow_unused=True
            )
        _count("launches", "backward of a recurrent layer")
        return (None, *(None if g is None else There(g) for g in found))


def _copied(tensor: There, memo: dict[int, Any]) -> Tensor:
    if id(tensor) not in memo:
        new: Tensor = There(tensor.held.detach().clone())
        if isinstance(tensor, nn.Parameter):
            new = nn.Parameter(new, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = new.requires_grad_(tensor.requires_grad)
    return memo[id(tensor)]


def _on_host(save: Callable[..., Any]) -> Callable[..., Any]:
    return lambda tensors, *args, **kwargs: save(
        {name: t.cpu() for name, t in tensors.items()}, *args, **kwargs
    )


def _generators(real: type[torch.Generator]) -> type:
    class Generator(real):  # a class, since annotations and isinstance ask for one
        def __new__(cls, device: Any = "cpu") -> torch.Generator:
            return Draws() if torch.device(device).type == NAME else real(device)

    return Generator

