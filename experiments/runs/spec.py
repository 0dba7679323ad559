"""A spec: a whole run as plain data, read from TOML, checked before anything is built.

    [model.prior]
    dynamics = "srnn"                    # short for dynamics = {name = "srnn"}

Components are named as the registries know them; no import path ever comes from a file.
"""

from __future__ import annotations

import inspect
import itertools
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pyromodels.errors import SpecError, mismatch, shown, unknown
from pyromodels.experiments.datasets import DATASETS
from pyromodels.experiments.harness.plain_tables import Plain, component, nested, override, plain
from pyromodels.experiments.runs.shipped import shipped_folder, shipped_specs
from pyromodels.experiments.tracking.model_spec import ModelSpec
from pyromodels.inference.engines.by_name import STEPPERS
from pyromodels.registry import GUIDES, Registry, check_call

EXPERIMENTS = {"mot": "mot_linear"}
"""Experiment -> the shipped spec that its name stands for."""

_PARTS = {"data": DATASETS, "guide": GUIDES, "inference": STEPPERS}
"""The components of a spec, beside the model."""

SUPPLIED = ("model", "guide", "batch")
"""Leading arguments of a component that code supplies, where it has them."""


@dataclass(frozen=True)
class Spec:
    """One run: data, model, guide, inference. Tables are plain data, checked when it is made.

    Args:
        name: what the run is called; the file's name where it came from a file.
        experiment: what the metrics are: "mot".
        seed: of everything random; also of data that can be seeded, unless `data.seed` is given.
        dtype: precision of model and inference.
        data: a data set, `{"name": ..., **options}`.
        model: the program and what it needs beside the data.
        guide: a guide, likewise.
        inference: an inference engine, likewise.

    Raises:
        SpecError: an unknown experiment, component or key, or a value that does not fit.
    """

    name: str = "run"
    experiment: str = "mot"
    seed: int = 0
    dtype: Literal["float32", "float64"] = "float64"
    data: Plain = field(default_factory=lambda: {"name": "scene"})
    model: ModelSpec = field(default_factory=ModelSpec)
    guide: Plain = field(default_factory=lambda: {"name": "mean_field"})
    inference: Plain = field(default_factory=lambda: {"name": "vem"})

    def __post_init__(self) -> None:
        if self.experiment not in EXPERIMENTS:
            raise SpecError(unknown("experiment", given=self.experiment, known=EXPERIMENTS))
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", self.name):
            expected = "letters, digits, '_', '-' and '.': results go into a folder of that name"
            raise SpecError(mismatch("name", given=shown(self.name), expected=expected))
        if not 0 <= self.seed < 2**32:
            raise SpecError(mismatch("seed", given=self.seed, expected="0 to 2^32 - 1"))
        for part, registry in _PARTS.items():
            table = getattr(self, part)
            registry.check(table, *[None] * len(supplied(registry, table)))

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Spec:
        """Return the spec that nested tables say.

        Raises:
            SpecError: naming the place, what was given and what was expected.
        """
        keywords = plain(table)
        for part, registry in _PARTS.items():
            if part in keywords:
                keywords[part] = component(keywords[part], part, registry)
        data = keywords.get("data", {})
        if "path" in data and "name" not in data:
            keywords["data"] = {"name": "files", **data}
        if "model" in keywords:
            keywords["model"] = ModelSpec.from_table(nested(keywords["model"], "model"))
        check_call("spec", cls, (), keywords)
        return cls(**keywords)

    def with_seed(self, seed: int) -> Spec:
        """Return the same run with another seed."""
        return replace(self, seed=seed)

    def data_table(self) -> Plain:
        """Return the data set's table, seeded by the spec where it can be seeded."""
        parameters = inspect.signature(DATASETS[self.data["name"]]).parameters
        return {"seed": self.seed, **self.data} if "seed" in parameters else dict(self.data)

    def to_table(self) -> Plain:
        """Return the resolved spec: what was said, and the defaults of what was not."""
        parts = {"data": self.data_table(), "guide": self.guide, "inference": self.inference}
        filled = {part: with_defaults(_PARTS[part], table) for part, table in parts.items()}
        table = {key: getattr(self, key) for key in ("name", "experiment", "seed", "dtype")}
        table |= {"data": filled["data"], "model": self.model.to_table()}
        return plain(table | {"guide": filled["guide"], "inference": filled["inference"]})


def supplied(registry: Registry, table: Mapping[str, Any]) -> list[str]:
    """Return which of `SUPPLIED` a component takes first, e.g. model and batch."""
    if not isinstance(table.get("name"), str):
        return []  # the registry says so better
    parameters = inspect.signature(registry[table["name"]]).parameters
    return list(itertools.takewhile(lambda name: name in SUPPLIED, parameters))


def with_defaults(registry: Registry, table: Mapping[str, Any]) -> Plain:
    """Return a component's table with its constructor's defaults; None stays out, as in TOML."""
    parameters = inspect.signature(registry[table["name"]]).parameters.values()
    known = {
        p.name: p.default
        for p in parameters
        if p.default is not p.empty and isinstance(p.default, (str, bool, int, float, list, tuple))
    }
    return {"name": table["name"], **known, **table}


def load_spec(
    source: str | Path, *, settings: Iterable[str] = (), seed: int | None = None
) -> Spec:
    """Read a spec, and change what `settings` say.

    Args:
        source: a TOML file, the name of a shipped spec with or without `.toml`, or of an
            experiment.
        settings: `"model.prior.dynamics.name=linear"`, as after `--set`.
        seed: in place of the spec's own.

    Raises:
        SpecError: no such spec, no TOML, or a table that `Spec.from_table` refuses.
    """
    return make_spec(read_table(source), settings, seed)


def make_spec(table: Mapping[str, Any], settings: Iterable[str], seed: int | None = None) -> Spec:
    """Return the spec of a table with settings applied in order."""
    table = plain(table)
    for setting in settings:
        table = override(table, setting)
    spec = Spec.from_table(table)
    return spec if seed is None else spec.with_seed(seed)


def read_table(source: str | Path) -> Plain:
    """Return the table of a spec file, named for the file where it has no name itself."""
    path = Path(source)
    text = _shipped(str(source)) if not path.is_file() else path.read_bytes()
    table = parse_table(text, str(source))
    stem = EXPERIMENTS.get(str(source), path.name.removesuffix(".toml"))
    return {"name": stem, **table}


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
    stem = EXPERIMENTS.get(name, name.removesuffix(".toml"))
    known = shipped_specs()
    if stem not in known:
        if Path(name).parent != Path("."):
            raise SpecError(f"spec {name} is not a file; shipped are: {', '.join(known)}")
        raise SpecError(f"{unknown('spec', given=stem, known=known)}. Or give the path of a file")
    return shipped_folder().joinpath(f"{stem}.toml").read_bytes()
