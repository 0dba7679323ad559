"""Tables of a spec: how what a file says is read, checked, and written out with its defaults."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol

from pyromodels.errors import SpecError, unknown
from pyromodels.experiments.harness.plain_tables import Plain, component, nested
from pyromodels.registry import Registry, check_call

SUPPLIED = ("model", "guide", "batch", "fit")
"""Leading arguments of a component that code supplies, where it has them."""


class Table(Protocol):
    """One table of a spec."""

    def read(self, value: Any, where: str) -> Any:
        """Return what a file says, checked; None is the default. What it returned, it reads again.

        Args:
            value: plain data.
            where: the table's name, for errors.

        Raises:
            SpecError: naming the place, what was given and what was expected.
        """

    def write(self, held: Any, seed: int) -> Plain:
        """Return what `read` returned as plain data, the defaults written out.

        Args:
            held: what `read` returned.
            seed: of the run, for what is seeded and has no seed of its own.
        """


@dataclass(frozen=True)
class ComponentTable:
    """A registered component: its name, and keyword arguments of its constructor.

    Args:
        registry: where the name is looked up.
        default: the table where a spec has none.
        path_means: the component that a table with a path and no name is of.
    """

    registry: Registry
    default: Plain = field(default_factory=dict)
    path_means: str | None = None

    def read(self, value: Any, where: str) -> Plain:
        """Return the table, its name and keys known to the registry."""
        table = nested(self.default if value is None else value, where)
        if self.path_means and "path" in table and "name" not in table:
            table = {"name": self.path_means, **table}
        table = component(table, where, self.registry)
        self.registry.check(table, *[None] * len(supplied(self.registry, table)))
        return table

    def write(self, held: Plain, seed: int) -> Plain:
        """Return the table with its constructor's defaults, seeded where it can be."""
        return with_defaults(self.registry, seeded(self.registry, held, seed))

@dataclass(frozen=True)
class OptionsTable:
    """A dataclass of options: its fields, some of them components, others None by default.

    Args:
        options: the dataclass.
        components: the fields that name a registered component.
        leave_out: fields that no file may say, since the run does.
    """

    options: type
    components: Mapping[str, Registry] = field(default_factory=dict)
    leave_out: tuple[str, ...] = ()

    def read(self, value: Any, where: str) -> Any:
        """Return the options, checked."""
        if isinstance(value, self.options):
            return value
        table = nested({} if value is None else value, where)
        for key, registry in self.components.items():
            if key in table:
                table[key] = component(table[key], f"{where}.{key}", registry)
        known = [f.name for f in fields(self.options) if f.name not in self.leave_out]
        for key in table:
            if key not in known:
                raise SpecError(f"{where}: {unknown('key', given=key, known=known)}")
        check_call(where, self.options, (), table)
        try:
            return self.options(**table)
        except SpecError:
            raise
        except ValueError as error:
            raise SpecError(f"{where}: {error}") from None

    def write(self, held: Any, seed: int) -> Plain:
        """Return all that is not None."""
        return {key: value for key, value in asdict(held).items()
                if value is not None and key not in self.leave_out}


def supplied(registry: Registry, table: Mapping[str, Any]) -> list[str]:
    """Return which of `SUPPLIED` a component takes first, e.g. model and batch."""
    parameters = inspect.signature(registry[table["name"]]).parameters
    return list(itertools.takewhile(lambda name: name in SUPPLIED, parameters))


def seeded(registry: Registry, table: Mapping[str, Any], seed: int) -> Plain:
    """Return a component's table with a seed, where it takes one and has none."""
    parameters = inspect.signature(registry[table["name"]]).parameters
    return {"seed": seed, **table} if "seed" in parameters else dict(table)


def with_defaults(registry: Registry, table: Mapping[str, Any]) -> Plain:
    """Return a component's table with its constructor's defaults; None stays out, as in TOML."""
    parameters = inspect.signature(registry[table["name"]]).parameters.values()
    known = {
        p.name: p.default
        for p in parameters
        if p.default is not p.empty and isinstance(p.default, (str, bool, int, float, list, tuple))
    }
    return {"name": table["name"], **known, **table}
