"""Python that does what a spec says: calls of components, and the imports that they need."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from pyromodels.experiments.harness.spec_tables import supplied
from pyromodels.registry import Registry

WIDTH = 100
MARGIN = len("prior = .to(torch.float64)")


class Script:
    """Lines of code, and the imports that they need."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.modules: dict[str, set[str]] = {}

    def name(self, component: Any) -> str:
        """Return what a component is called, imported."""
        self.modules.setdefault(component.__module__, set()).add(component.__name__)
        return component.__name__

    def call(self, component: Any, *args: str, **keywords: Any) -> str:
        """Return a call, less the keywords that are the component's defaults.

        A long one has a line for each argument.
        """
        parameters = inspect.signature(component).parameters
        said = [
            f"{key}={value.text if isinstance(value, Code) else literal(value)}"
            for key, value in keywords.items()
            if key not in parameters or not same(value, parameters[key].default)
        ]
        parts, name = [*args, *said], self.name(component)
        if len(name) + sum(len(part) + 2 for part in parts) < WIDTH - MARGIN:
            return f"{name}({', '.join(parts)})"
        return "\n".join([f"{name}(", *(f"    {part}," for part in parts), ")"])

    def component(self, registry: Registry, table: Mapping[str, Any]) -> str:
        """Return the call that builds a registered component from its table of a spec."""
        keywords = {key: value for key, value in table.items() if key != "name"}
        return self.call(registry[table["name"]], *supplied(registry, table), **keywords)

    def add(self, line: str = "", comment: str = "") -> None:
        """Add a line of code, which may be a call over several."""
        if comment and len(line) + len(comment) + 4 > WIDTH:
            self.lines.append(f"# {comment}")
            comment = ""
        self.lines.append(f"{line}  # {comment}" if comment else line)

    def text(self) -> str:
        """Return the script."""
        imports = [
            f"from {module} import {', '.join(sorted(names, key=str.lower))}"
            for module, names in sorted(self.modules.items())
        ]
        return "\n".join(["import torch", "", *imports, "", *self.lines]) + "\n"


class Code:
    """An argument that is code already."""

    def __init__(self, text: str) -> None:
        self.text = text


def same(value: Any, default: Any) -> bool:
    """Whether plain data say what a default says."""
    if isinstance(value, Code):
        return value.text == str(default)
    if isinstance(value, (list, tuple)) and isinstance(default, (list, tuple)):
        return list(value) == list(default)
    return value is default or (type(value) is type(default) and value == default)


def literal(value: Any) -> str:
    """Python of plain data; inf and nan have no literal."""
    if isinstance(value, float) and value - value != 0:
        return f'float("{value}")'
    if isinstance(value, (list, tuple)):
        inner = ", ".join(map(literal, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' * (len(value) == 1)})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{literal(k)}: {literal(v)}' for k, v in value.items())}}}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
