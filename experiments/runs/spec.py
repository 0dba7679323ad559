"""A spec: a whole run as plain data, read from TOML, checked before anything is built.

    [model.prior]
    dynamics = "srnn"                    # short for dynamics = {name = "srnn"}

Components are named as the registries know them; no import path ever comes from a file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pyromodels.errors import SpecError, mismatch, shown, unknown
from pyromodels.experiments.harness.devices import default_device
from pyromodels.experiments.harness.experiment import experiment
from pyromodels.experiments.harness.plain_tables import Plain, override, plain
from pyromodels.experiments.runs.shipped import shipped_folder, shipped_specs
from pyromodels.registry import check_call

TABLES = ("data", "model", "guide", "inference", "metrics")
"""What a spec may have tables of; which of them it has, its experiment says."""


@dataclass(frozen=True)
class Spec:
    """One run: data, model, guide, inference, metrics. Tables are checked when the spec is made.

    Args:
        experiment: the task, as registered; it reads the tables, see `harness.experiment`.
        name: what the run is called; the file's name where it came from a file.
        seed: of everything random; also of data that can be seeded, unless `data.seed` is given.
        dtype: precision of model and inference; None is the experiment's own.
        device: where model and inference run: cpu, cuda, cuda:1, ...; None is a GPU where there is
            one. Figures of another device agree up to rounding only.
        data: the data set, as the experiment's table of that name has read it; here and below
            None is the experiment's default.
        model: the program and what it needs beside the data.
        guide: the guide.
        inference: how it is fitted.
        metrics: what is measured.

    Raises:
        SpecError: an unknown experiment, component, table or key, or a value that does not fit.
    """

    experiment: str
    name: str = "run"
    seed: int = 0
    dtype: Literal["float32", "float64"] | None = None
    device: str | None = None
    data: Any = None
    model: Any = None
    guide: Any = None
    inference: Any = None
    metrics: Any = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", self.name):
            expected = "letters, digits, '_', '-' and '.': results go into a folder of that name"
            raise SpecError(mismatch("name", given=shown(self.name), expected=expected))
        if not 0 <= self.seed < 2**32:
            raise SpecError(mismatch("seed", given=self.seed, expected="0 to 2^32 - 1"))
        task = experiment(self.experiment)
        set_field = object.__setattr__  # of a frozen dataclass
        set_field(self, "dtype", self.dtype or task.dtype)
        set_field(self, "device", default_device() if self.device is None else self.device)
        for part in TABLES:
            if part in task.tables:
                set_field(self, part, task.tables[part].read(getattr(self, part), part))
            elif getattr(self, part) is not None:
                known = unknown("table", given=part, known=list(task.tables))
                raise SpecError(f"experiment {self.experiment!r}: {known}")

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Spec:
        """Return the spec that nested tables say.

        Raises:
            SpecError: naming the place, what was given and what was expected.
        """
        keywords = plain(table)
        check_call("spec", cls, (), keywords)
        return cls(**keywords)

    def to_table(self) -> Plain:
        """Return the resolved spec: what was said, and the defaults of what was not."""
        tables = experiment(self.experiment).tables
        table = {
            key: getattr(self, key) for key in ("name", "experiment", "seed", "dtype", "device")
        }
        return plain(table | {k: tables[k].write(getattr(self, k), self.seed) for k in TABLES
                              if k in tables})


def load_spec(
    source: str | Path,
    *,
    settings: Iterable[str] = (),
    seed: int | None = None,
    device: str | None = None,
) -> Spec:
    """Read a spec, and change what `settings` say.

    Args:
        source: a TOML file, or the name of a shipped spec with or without `.toml`.
        settings: `"model.prior.dynamics.name=linear"`, as after `--set`.
        seed: in place of the spec's own.
        device: likewise.

    Raises:
        SpecError: no such spec, no TOML, or a table that `Spec.from_table` refuses.
    """
    return make_spec(read_table(source), settings, seed, device)


def make_spec(
    table: Mapping[str, Any],
    settings: Iterable[str],
    seed: int | None = None,
    device: str | None = None,
) -> Spec:
    """Return the spec of a table with settings applied in order."""
    table, settings = plain(table), list(settings)
    for number, setting in enumerate(settings):
        table = override(table, setting, settings[:number])
    said = {"seed": seed, "device": device}
    return Spec.from_table(table | {key: value for key, value in said.items() if value is not None})


def read_table(source: str | Path) -> Plain:
    """Return the table of a spec file, named for the file where it has no name itself."""
    path = Path(source)
    text = _shipped(str(source)) if not path.is_file() else path.read_bytes()
    table = parse_table(text, str(source))
    return {"name": path.name.removesuffix(".toml"), **table}


def parse_table(text: bytes | str, where: str = "spec") -> Plain:
    """Return the table that TOML text holds, as plain data.

    Raises:
        SpecError: where it is no TOML, or holds what no spec can.
    """
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        table = tomllib.loads(decoded)
    except RecursionError:
        raise SpecError(f"{where}: nested too deeply for a spec") from None
    except ValueError as error:  # of tomllib, of UTF-8, or a number of thousands of digits
        raise SpecError(f"{where} is not TOML: {shown(str(error), 200)}") from None
    return plain(table)


def _shipped(name: str) -> bytes:
    stem = name.removesuffix(".toml")
    known = shipped_specs()
    if stem not in known:
        if Path(name).parent != Path("."):
            raise SpecError(f"spec {name} is not a file; shipped are: {', '.join(known)}")
        raise SpecError(f"{unknown('spec', given=stem, known=known)}. Or give the path of a file")
    return shipped_folder().joinpath(f"{stem}.toml").read_bytes()
