"""Components found without being imported: ours in their source, other packages' by entry point.

A package that is installed beside ours names its modules in the group `pyromodels.components`; they
are imported when a registry is first asked for a name, and register what they define.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import warnings
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

GROUP = "pyromodels.components"
"""The group of entry points of packages that bring components."""


def described(package: str, module: str | None = None) -> dict[str, str]:
    """Name -> first line of the docstring, of all that the files of a package register.

    With `module`, only the files of that name are read. Nothing of the package is imported; what
    counts is the decorator `@REGISTRY.register("name")`.

    Example:
        >>> described("pyromodels.transforms")
        {}
    """
    found = importlib.util.find_spec(package)
    folders = (found and found.submodule_search_locations) or ()
    components: dict[str, str] = {}
    pattern = f"{module or '*'}.py"
    for file in sorted(file for folder in folders for file in Path(folder).rglob(pattern)):
        for node in ast.parse(file.read_bytes()).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                line = (ast.get_docstring(node) or "").partition("\n")[0]
                components |= dict.fromkeys(_registered_names(node), line)
    return components


def keys_of(module: str, variable: str) -> list[str]:
    """Keys of a dictionary that a module writes out, which is not imported.

    Example:
        >>> keys_of("pyromodels.networks.encoders", "PRESETS")[:2]
        ['vae', 'dkf']
    """
    found = importlib.util.find_spec(module)
    for node in ast.parse(Path(found.origin).read_bytes()).body if found else ():
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.value, ast.Dict)
            and ast.unparse(node.target) == variable
        ):
            return [ast.literal_eval(key) for key in node.value.keys]
    raise LookupError(f"{module} writes out no dictionary {variable}")


def _registered_names(node: ast.ClassDef | ast.FunctionDef) -> list[str]:
    return [
        ast.literal_eval(call.args[0])
        for call in node.decorator_list
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "register"
        and isinstance(call.args[0], ast.Constant)
    ]


def installed() -> dict[str, str]:
    """Name of every entry point of other packages -> its module and who brings it."""
    points = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    return {point.name: f"{point.value} of {_owner(point)}" for point in points}


def import_installed() -> None:
    """Import the components of other packages, each once; warn of one that fails, by name."""
    waiting, failures = _state()
    while waiting:  # an import that asks a registry comes here again, for the rest
        point = waiting.pop(0)
        try:
            point.load()
        except Exception as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"
            failures[point.name] = why = f"{point.value} of {_owner(point)}: {why}"
            warnings.warn(f"component {point.name!r} left out: {why}", stacklevel=2)


def failed() -> dict[str, str]:
    """Name of every entry point that could not be imported -> whose it is, and why."""
    return _state()[1]


@functools.cache
def _state() -> tuple[list[EntryPoint], dict[str, str]]:
    """The entry points that wait to be imported, and those that failed."""
    return sorted(entry_points(group=GROUP), key=lambda point: point.name), {}


def _owner(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
