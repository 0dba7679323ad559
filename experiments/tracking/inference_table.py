"""The `[inference]` table of a tracking spec: an engine, a list of stages, or another method."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

from pyromodels.errors import SpecError, mismatch, unknown
from pyromodels.experiments.harness.experiment import METHODS, STAGES, naming
from pyromodels.experiments.harness.plain_tables import Plain, nested
from pyromodels.experiments.harness.spec_tables import ComponentTable
from pyromodels.experiments.tracking.stages import TUNED
from pyromodels.inference.engines import ENGINES
from pyromodels.registry import Registry, check_call

TUNED_NAME = "tuned"
CHUNK = 64
"""Sequences tracked at once."""

ENGINE = ComponentTable(ENGINES, {"name": "vem"})
STAGE = ComponentTable(STAGES)
METHOD = ComponentTable(METHODS)


def tuned(*, stages: list = list(TUNED), chunk: int = CHUNK) -> None:  # noqa: B006
    """The keys of `{name = "tuned"}`.

    Args:
        stages: what is done, in order.
        chunk: sequences tracked at once.
    """


class InferenceTable:
    """As `harness.spec_tables.Table` has it; `name = "tuned"` has stages in place of an engine.

    A name of `METHODS` is of a tracker that is no fit of the spec's model.
    """

    def read(self, value: Any, where: str) -> Plain:
        """Return the table, its stages checked."""
        table = nested(ENGINE.default if value is None else value, where)
        name = table.get("name")
        options = {key: option for key, option in table.items() if key != "name"}
        if name == TUNED_NAME:
            check_call(f"{where} {name!r}", tuned, (), options)
            if table.get("chunk", CHUNK) < 1:
                given = table["chunk"]
                raise SpecError(mismatch(f"{where}.chunk", given=given, expected="at least 1"))
            if "stages" in table:
                table["stages"] = [
                    STAGE.read(stage, f"{where}.stages[{number}]")
                    for number, stage in enumerate(table["stages"])
                ]
            return table
        if is_method(name):
            with naming(where):  # its options may be out of their range
                METHODS.build(METHOD.read(table, where))
            return table
        if isinstance(name, str) and name not in ENGINES:
            known = [*ENGINES, TUNED_NAME, *METHODS]
            raise SpecError(unknown(ENGINES.kind, given=name, known=known))
        return ENGINE.read(table, where)

    def write(self, held: Plain, seed: int) -> Plain:
        """Return the table with every default, those of its stages among them."""
        if is_method(held["name"]):
            return METHOD.write(held, seed)
        if held["name"] != TUNED_NAME:
            return ENGINE.write(held, seed)
        stages = [STAGE.write(stage, seed) for stage in stages_of(held)]
        return {"name": TUNED_NAME, "chunk": chunk_of(held), "stages": stages}


def is_method(name: Any) -> bool:
    """Whether a name of `[inference]` is that of a tracker with a model of its own."""
    return isinstance(name, str) and name in METHODS


def stages_of(table: Plain) -> list[Plain]:
    """Return the stages of a table whose name is "tuned"."""
    return list(table.get("stages", TUNED))


def chunk_of(table: Plain) -> int:
    """Return how many sequences are tracked at once."""
    return table.get("chunk", CHUNK)


def described(component: Plain, registry: Registry = STAGES) -> str:
    """Return what a stage or a method is, and its options, for `show`."""
    whole = ComponentTable(registry).write(component, 0)
    said = ", ".join(f"{key}={value}" for key, value in whole.items() if key != "name")
    what = (inspect.getdoc(registry[component["name"]]) or "").partition("\n")[0]
    options = textwrap.fill(said, 100, initial_indent=" " * 18, subsequent_indent=" " * 18)
    return f"  {component['name']:15} {what}\n{options}".rstrip()
