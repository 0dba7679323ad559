"""`--device`: the option of every command that computes, and the device that a name stands for."""

from __future__ import annotations

import argparse

import torch

from pyromodels.errors import SpecError, mismatch
from pyromodels.inference.training.precision import allow_tf32

OPTION = "--device"


def default_device() -> str:
    """Name the device of whatever says none, a command or a spec: a GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def add_device_argument(parser: argparse.ArgumentParser, *, of_spec: bool = False) -> None:
    """Declare `--device`, a name for `use_device`; None where the spec may say one."""
    default, before = (None, "the spec's, else ") if of_spec else (default_device(), "")
    words = f"default: {before}a GPU where there is one"
    parser.add_argument(OPTION, default=default, help=f"cpu, cuda, cuda:1, ...; {words}")


def use_device(name: str) -> torch.device:
    """Return the device of a name, where it can be computed on, float32 being float32 there.

    That is, recurrent layers and convolutions do not round what they multiply to TF32, 10 bits, as
    cuDNN does by default; training may ask for it with `--autocast tf32`.

    Raises:
        SpecError: a name of no device, or of one that this machine or this torch lacks.
    """
    try:
        device = torch.device(name)
        found = 1 if device.type == "cpu" else torch.get_device_module(device).device_count()
    except RuntimeError:  # no such word, or no module of it
        raise SpecError(
            mismatch(OPTION, given=repr(name), expected="cpu, cuda or cuda:NUMBER")
        ) from None
    if not found:
        expected = f"a machine with a GPU and a torch that was built for it (this is {_torch()})"
        raise SpecError(mismatch(OPTION, given=name, expected=expected, hint=f"Use {OPTION} cpu"))
    if (device.index or 0) >= found:
        names = ", ".join(f"{device.type}:{i}" for i in range(found))
        raise SpecError(mismatch(OPTION, given=name, expected=f"one of the {found} here: {names}"))
    allow_tf32(False)
    return device


def synchronize(device: torch.device | str) -> None:
    """Wait until a device has done all it was told: before and after a clock is read."""
    if (device := torch.device(device)).type != "cpu":
        torch.get_device_module(device).synchronize(device)


def _torch() -> str:
    return f"torch {torch.__version__}"
