"""Components by name: what lets a spec say `{"name": "srnn", "hidden_dim": 8}`.

A component registers itself in the file that defines it. A registry imports the files below its
folder at its first look-up, then those of packages installed beside ours (`components.py`), so
adding one is adding a file, and importing `pyromodels` stays cheap.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union

from pyromodels.components import described, failed, import_installed
from pyromodels.errors import SpecError, mismatch, shown, unknown

Component = Callable[..., Any]
C = TypeVar("C", bound=Component)


class Registry:
    """The components of one kind, by lower-snake-case name.

    Args:
        kind: what one component is called in error messages, e.g. `"guide"`.
        *packages: those whose modules register components; imported at the first look-up.
        module: import only the modules of this name in them, e.g. `"experiment"`.

    Example:
        >>> shapes = Registry("shape")
        >>> @shapes.register("disc")
        ... def disc(radius: float = 1.0) -> str:
        ...     '''A disc of one radius.'''
        ...     return f"disc({radius})"
        >>> shapes.build({"name": "disc", "radius": 2.0})
        'disc(2.0)'
        >>> shapes.describe()
        {'disc': 'A disc of one radius.'}
    """

    def __init__(self, kind: str, *packages: str, module: str | None = None) -> None:
        self.kind = kind
        self.packages = packages
        self._loaded = not packages
        self.module = module
        self._components: dict[str, Component] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Register the decorated class or function under `name`.

        Raises:
            ValueError: the name is not lower snake case, or another component holds it.
        """
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise ValueError(mismatch(f"{self.kind} name", given=repr(name), expected="snake_case"))

        def decorate(component: C) -> C:
            if _top(component.__module__) not in {_top(package) for package in self.packages}:
                self._load()  # ours hold their names before anybody else's
            held = self._components.get(name)
            if held is not None and _origin(held) != _origin(component):
                raise ValueError(f"{self.kind} {name!r} is already {_origin(held)}")
            self._components[name] = component
            return component

        return decorate

    def build(self, spec: Mapping[str, Any], *args: Any) -> Any:
        """Call the component that `spec["name"]` names with the other keys as keyword arguments.

        Args:
            spec: plain data, e.g. read from TOML: `{"name": ..., **keywords}`.
            *args: what code supplies and no file can, e.g. the model a guide is for.

        Raises:
            SpecError: unknown name, unknown or missing key, or a value of the wrong simple type.
        """
        keywords = self.check(spec, *args)
        return self[spec["name"]](*args, **keywords)

    def check(self, spec: Mapping[str, Any], *args: Any) -> dict[str, Any]:
        """Raise what `build` would about a spec, and return its keywords; nothing is called.

        Args:
            spec: as `build` takes it.
            *args: stand-ins for what code supplies; only how many there are is read.
        """
        if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
            what, hint = f"spec of a {self.kind}", f"Known: {', '.join(self.names())}"
            expected = 'a table with a "name"'
            raise SpecError(mismatch(what, given=shown(spec), expected=expected, hint=hint))
        keywords = {str(key): value for key, value in spec.items() if key != "name"}
        check_call(f"{self.kind} {spec['name']!r}", self[spec["name"]], args, keywords)
        return keywords

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._load()
        return sorted(self._components)

    def describe(self) -> dict[str, str]:
        """Name -> first line of the component's own docstring; no file is imported for it.

        A package installed beside ours is among them once a component has been looked up.
        """
        said = (described(package, self.module) for package in self.packages)
        known = {name: line for table in said for name, line in table.items()}
        for name, component in self._components.items():
            known[name] = (component.__doc__ or "").strip().partition("\n")[0]
        return dict(sorted(known.items()))

    def __getitem__(self, name: str) -> Any:
        """Return the component called `name`, or raise `SpecError` naming the nearest one."""
        self._load()
        if name not in self._components:
            missing = "".join(f"; left out: {k!r}, {why}" for k, why in failed().items())
            raise SpecError(unknown(self.kind, given=name, known=self._components) + missing)
        return self._components[name]

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._components

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __repr__(self) -> str:
        return f"Registry({self.kind!r}: {', '.join(sorted(self._components))})"

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        try:
            for name in self.packages:
                package = importlib.import_module(name)
                for module in pkgutil.walk_packages(package.__path__, f"{name}."):
                    if self.module in (None, module.name.rpartition(".")[2]):
                        importlib.import_module(module.name)
        except BaseException:
            self._loaded = False  # a failed import must fail again, not hide components
            raise
        import_installed()


def _top(module: str) -> str:
    return module.partition(".")[0]


def _origin(component: Component) -> str:
    """Where a component is defined: reloading its module may register it again."""
    return f"{component.__module__}.{component.__qualname__}"


def check_call(what: str, component: Component, args: tuple, keywords: Mapping[str, Any]) -> None:
    """Check keywords of plain data against a component's signature before it is called.

    Raises:
        SpecError: unknown or missing key, or a value of the wrong simple type.
    """
    signature = inspect.signature(component)
    parameters = signature.parameters
    supplied = set(list(parameters)[: len(args)])
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = [n for n, p in parameters.items() if p.kind in kinds and n not in supplied]
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for key in keywords:
        if key not in known and not open_ended:
            raise SpecError(f"{what}: {unknown('key', given=key, known=known)}")
    try:
        signature.bind(*args, **keywords)
    except TypeError as error:
        raise SpecError(f"{what}: {error}. Keys: {', '.join(known)}") from None

    hints = _type_hints(component)
    for key, value in keywords.items():
        if key in hints and not _fits(value, hints[key]):
            given = f"{shown(value)} ({type(value).__name__})"
            expected = inspect.formatannotation(hints[key])
            raise SpecError(mismatch(f"{what}: {key}", given=given, expected=expected))


def _type_hints(component: Component) -> dict[str, Any]:
    function = component.__init__ if inspect.isclass(component) else component
    try:
        return typing.get_type_hints(function)
    except NameError:  # an annotation imported for type checkers only: nothing to check
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether plain data fits a simple annotation; any other annotation accepts everything."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in inner)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in inner)
    if hint is bool or hint is str:
        return isinstance(value, hint)
    if hint in (int, float):  # TOML writes 1 for 1.0; True is no number
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    if hint is type(None):
        return value is None
    if (origin or hint) in (list, tuple, Sequence):
        if not isinstance(value, (list, tuple)):
            return False
        if not inner:
            return True
        if origin is tuple and inner[-1] is not Ellipsis:
            return len(value) == len(inner) and all(map(_fits, value, inner))
        return all(_fits(item, inner[0]) for item in value)
    return True


DENSITIES = Registry("density", "pyromodels.densities")
DYNAMICS = Registry("dynamics", "pyromodels.dynamics")
EMISSIONS = Registry("emission", "pyromodels.emissions")
GUIDES = Registry("guide", "pyromodels.guides")
MODELS = Registry("model", "pyromodels.models")
NETWORKS = Registry("network", "pyromodels.networks")
NOISES = Registry("noise model", "pyromodels.noise")
OBSERVATIONS = Registry("observation law", "pyromodels.observations")
