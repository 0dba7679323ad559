"""Checkpoints: a folder of tensors (safetensors) and plain data (JSON), whole or absent.

`DIR/epoch-00012/` holds `tensors.safetensors` and `meta.json`. It is written beside its place
under a name that starts with a dot and then renamed; the metadata carry the tensors' sha256. A
checkpoint that a crash cut short is therefore never mistaken for a whole one.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

TENSORS, META = "tensors.safetensors", "meta.json"


class Checkpoint(NamedTuple):
    """What a checkpoint holds."""

    epoch: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """Return a part of the tensors, as `flat` named them."""
        return part_of(self.tensors, name)


def flat(**parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tables of tensors as one, "part.name" -> tensor."""
    return {f"{part}.{name}": t for part, table in parts.items() for name, t in table.items()}


def part_of(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return one of the tables that `flat` was given."""
    every, prefix = tensors.items(), f"{part}."
    return {name.removeprefix(prefix): t for name, t in every if name.startswith(prefix)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the moments of every parameter: "<number of the parameter>.<name>" -> tensor."""
    return flat(**{str(i): state for i, state in optimizer.state_dict()["state"].items()})


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore what `optimizer_tensors` returned; the learning rate stays the optimiser's own."""
    numbers = dict.fromkeys(key.partition(".")[0] for key in tensors)
    state = {int(number): part_of(tensors, number) for number in numbers}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def save_checkpoint(
    folder: Path,
    epoch: int,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    *,
    keep: int = 2,
) -> Path:
    """Write the checkpoint of an epoch, then remove all but the last `keep`."""
    place = folder / f"epoch-{epoch:05d}"
    part = folder / f".{place.name}.{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file({name: t.detach().contiguous().clone() for name, t in tensors.items()},
              part / TENSORS)
    digest = _sha256(part / TENSORS)
    content = {**meta, "epoch": epoch, "sha256": digest}
    (part / META).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for path in (part / TENSORS, part / META, part):
        _flush(path)
    if place.exists():  # left by an earlier run, after the epoch resumed from
        shutil.rmtree(place)
    os.replace(part, place)
    _flush(folder)
    for _, old in _places(folder)[:-keep]:
        shutil.rmtree(old)
    return place


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        ValueError: a file is missing, cannot be read, or is not the one that was written.
    """
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
        epoch, digest = int(meta["epoch"]), meta["sha256"]
        if _sha256(path / TENSORS) == digest:
            return Checkpoint(epoch, load_file(path / TENSORS), meta)
    except (OSError, KeyError, TypeError, ValueError, RecursionError, SafetensorError) as error:
        raise ValueError(f"checkpoint {path} is incomplete: {error}") from error
    raise ValueError(f"checkpoint {path}: {TENSORS} is not what was written (sha256)")


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the last whole checkpoint of a folder, with a warning for each that is not."""
    for _, place in reversed(_places(folder)):
        try:
            return load_checkpoint(place)
        except ValueError as error:
            warnings.warn(f"passed over: {error}", RuntimeWarning, stacklevel=2)
    return None


def remove_checkpoints(folder: Path) -> None:
    """Remove every checkpoint of a folder, half-written ones too, and nothing else."""
    for path in folder.glob("*") if folder.is_dir() else ():
        if re.fullmatch(r"epoch-\d+|\.epoch-\d+\.\d+", path.name) and path.is_dir():
            shutil.rmtree(path)


def _places(folder: Path) -> list[tuple[int, Path]]:
    named = ((re.fullmatch(r"epoch-(\d+)", p.name), p) for p in folder.glob("epoch-*"))
    return sorted((int(match[1]), path) for match, path in named if match)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _flush(path: Path) -> None:
    """Make a file or a directory entry survive a power cut, where the system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no directories
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
