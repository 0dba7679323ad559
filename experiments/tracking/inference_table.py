"""The `[inference]` table of a tracking spec: an engine, a list of stages, or another method."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping
from typing import Any

from pyromodels.errors import SpecError, mismatch, shown, unknown
from pyromodels.experiments.harness.experiment import STAGES
from pyromodels.experiments.harness.plain_tables import Plain, nested
from pyromodels.experiments.harness.spec_tables import ComponentTable
from pyromodels.experiments.tracking.stages import TUNED
from pyromodels.inference.engines import ENGINES
from pyromodels.registry import check_call

TUNED_NAME = "tuned"
CHUNK = 64
"""Sequences tracked at once."""

ENGINE = ComponentTable(ENGINES, {"name": "vem"})
STAGE = ComponentTable(STAGES)


def tuned(*, stages: list = list(TUNED), chunk: int = CHUNK) -> None:  # noqa: B006
    """The keys of `{name = "tuned"}`.

    Args:
        stages: what is done, in order.
        chunk: sequences tracked at once.
    """


class InferenceTable:
    """As `harness.spec_tables.Table` has it; `name = "tuned"` has stages in place of an engine."""

    def __init__(self, methods: Mapping[str, Any]) -> None:
        self.methods = methods
        """Trackers that are no fit of the spec's model: name -> function."""

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
        if isinstance(name, str) and name in self.methods:
            if options:
                given, expected = shown(options), "no option"
                raise SpecError(mismatch(f"{where} {name!r}", given=given, expected=expected))
            return table
        if isinstance(name, str) and name not in ENGINES:
            known = [*ENGINES, TUNED_NAME, *self.methods]
            raise SpecError(unknown(ENGINES.kind, given=name, known=known))
        return ENGINE.read(table, where)

    def write(self, held: Plain, seed: int) -> Plain:
        """Return the table with every default, those of its stages among them."""
        if held["name"] in self.methods:
            return held
        if held["name"] != TUNED_NAME:
            return ENGINE.write(held, seed)
        stages = [STAGE.write(stage, seed) for stage in stages_of(held)]
        return {"name": TUNED_NAME, "chunk": chunk_of(held), "stages": stages}


def stages_of(table: Plain) -> list[Plain]:
    """Return the stages of a table whose name is "tuned"."""
    return list(table.get("stages", TUNED))


def chunk_of(table: Plain) -> int:
    """Return how many sequences are tracked at once."""
    return table.get("chunk", CHUNK)


def stage_line(stage: Plain) -> str:
    """Return what a stage is, and its options, for `show`."""
    whole = STAGE.write(stage, 0)
    said = ", ".join(f"{key}={value}" for key, value in whole.items() if key != "name")
    what = (inspect.getdoc(STAGES[stage["name"]]) or "").partition("\n")[0]
    options = textwrap.fill(said, 100, initial_indent=" " * 18, subsequent_indent=" " * 18)
    return f"  {stage['name']:15} {what}\n{options}".rstrip()
