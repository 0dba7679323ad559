"""The record of a run: one folder with what was asked, where it ran and what came out.

`spec.toml` is the resolved spec, `environment.json` the versions and the machine, `metrics.json`
a flat table name -> number. Files appear whole or not at all: each is written beside its place
under a temporary name and moved there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyromodels.errors import SpecError, mismatch

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "pyromodels"


@dataclass(frozen=True)
class RunFolder:
    """An open run record; `run.path / "bounds.png"` is the place for further files."""

    path: Path

    def write_metrics(self, metrics: Mapping[str, Any]) -> Path:
        """Write `metrics.json`, flat: `{"mota": 0.98, "kalman/mota": 0.95}`.

        Numbers may be Python's, numpy's or tensors of one element. JSON has no NaN or infinity:
        a metric that is not finite is written as `null`, with a warning that names it.

        Raises:
            SpecError: a value is not a number.
        """
        numbers = {name: _number(name, value) for name, value in metrics.items()}
        undefined = [name for name, value in numbers.items() if value is None]
        if undefined:
            message = f"not finite, written as null: {', '.join(undefined)}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        return _write_json(self.path / "metrics.json", numbers)


RUNS = "PYROMODELS_RUNS"
"""Environment variable: the folder of what is kept from run to run, in place of `runs`."""


def runs_folder() -> Path:
    """Return the folder of runs, of trained weights and of data that were made."""
    return Path(os.environ.get(RUNS, "runs"))


def run_folder(name: str, spec: Mapping[str, Any]) -> Path:
    """Return where a run lies of which nobody says where: `runs/<name>-<hash of the spec>`."""
    return runs_folder() / f"{name}-{_digest(_plain(spec, name))}"


def open_run(out: str | Path | None, name: str, spec: Mapping[str, Any]) -> RunFolder:
    """Make a run's folder and write its spec and environment.

    Args:
        out: the folder, or None for `runs/<name>-<hash of the spec>`: the same run, the same place.
        name: the run's name, e.g. `"mot"`.
        spec: the resolved spec: nested tables of plain data. `None` means absent.

    A folder that is there already is used again; metrics of an earlier run in it are removed, so
    that numbers never stand beside a spec they do not belong to.

    Raises:
        SpecError: the spec holds something that TOML cannot.
    """
    plain = _plain(spec, name)
    path = Path(out) if out is not None else run_folder(name, plain)
    path.mkdir(parents=True, exist_ok=True)
    (path / "metrics.json").unlink(missing_ok=True)
    with replacing(path / "spec.toml") as part:
        part.write_text(to_toml(plain), encoding="utf-8")
    _write_json(path / "environment.json", environment())
    return RunFolder(path)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path of the same suffix, moved to `path` if the block ends well.

    Example:
        with replacing(run.path / "bounds.png") as part:
            figure.savefig(part)
    """
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def environment() -> dict[str, Any]:
    """Versions, platform, command line and time, as plain data."""
    names = [DISTRIBUTION, *(requirement.name for requirement in requirements())]
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "versions": {name: metadata.version(name) for name in names},
    }


def requirements(extra: str = "") -> list[Requirement]:
    """The installed distribution's requirements on this machine: the core, or those of one extra.

    Raises:
        ModuleNotFoundError: pyromodels is not installed, or `packaging` is missing.
    """
    from packaging.requirements import Requirement

    def applies(requirement: Requirement, extra: str) -> bool:
        return requirement.marker is None or requirement.marker.evaluate({"extra": extra})

    found = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or []]
    if extra:
        return [r for r in found if applies(r, extra) and not applies(r, "")]
    return [r for r in found if applies(r, "")]


def to_toml(table: Mapping[str, Any]) -> str:
    """Nested tables of str, bool, int, float and lists as TOML; tables in lists are inline.

    Example:
        >>> print(to_toml({"seed": 0, "model": {"name": "mixdvae", "sizes": [8, 8]}}), end="")
        seed = 0
        <BLANKLINE>
        [model]
        name = "mixdvae"
        sizes = [8, 8]
    """
    return "\n".join(_toml_lines(_plain(table, "spec"), ())).lstrip("\n") + "\n"


def _toml_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    for key, value in table.items():
        if not isinstance(value, dict):
            yield f"{_toml_key(key)} = {_toml_value(value)}"
    for key, value in table.items():
        if isinstance(value, dict):
            here = (*path, key)
            yield ""
            yield f"[{'.'.join(map(_toml_key, here))}]"
            yield from _toml_lines(value, here)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):  # JSON's escapes are TOML's, but for DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, dict):
        entries = (f"{_toml_key(k)} = {_toml_value(v)}" for k, v in value.items())
        return f"{{{', '.join(entries)}}}"
    return repr(value)


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml_value(key)


def _plain(value: Any, where: str) -> Any:
    """Reduce a spec to what TOML holds: tuples become lists, paths strings, None absent."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{where}.{k}") for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if type(value) in (str, bool, int, float):
        return value
    expected = "a table, list, string, number, bool"
    raise SpecError(mismatch(where, given=f"{type(value).__name__} {value!r}", expected=expected))


def _digest(plain: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]


def _number(name: str, value: Any) -> int | float | None:
    number = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        given = f"{type(value).__name__} {value!r}"
        hint = "Nested results are written flat: 'kalman/mota'."
        raise SpecError(mismatch(f"metric {name!r}", given=given, expected="a number", hint=hint))
    return number if isfinite(number) else None


def _write_json(path: Path, content: Mapping[str, Any]) -> Path:
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def spec_of(args: argparse.Namespace) -> dict[str, object]:
    """Return what a command was told, as plain data: its options, less where the results go.

    Whether it resumes is left out too: the same run, the same place.
    """
    dropped = ("verb", "main", "debug", "out", "resume")
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(args).items()
        if key not in dropped and value is not None
    }


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows of a benchmark as JSON, whole or not at all, and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(f"rows: {path}")
