"""Plain nested tables: what a spec may hold, and settings like `model.noise_scale=2`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from pyromodels.errors import SpecError, mismatch, shown
from pyromodels.registry import Registry

Plain = dict[str, Any]
"""Nested tables of str, bool, int, float and lists."""

_DEEPEST = 16


def plain(table: Any) -> Plain:
    """Return a deep copy of a table, checked to be plain.

    Raises:
        SpecError: where it holds a date, an object, an integer beyond 64 bits, or nests too deeply.
    """
    if not isinstance(table, Mapping):
        raise SpecError(mismatch("spec", given=shown(table), expected="a table"))
    return _plain(table, "", 0)


def _plain(value: Any, where: str, depth: int) -> Any:
    if depth > _DEEPEST:
        raise SpecError(f"{shown(where)}: nested too deeply for a spec")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise SpecError(mismatch(f"key {shown(key)}", given="no text", expected="a name"))
        return {k: _plain(v, f"{where}.{k}".lstrip("."), depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    if type(value) in (str, bool, float) or (type(value) is int and abs(value) < 2**63):
        return value
    expected = "a table, list, text, number of at most 64 bits, or true or false"
    raise SpecError(mismatch(shown(where)[1:-1], given=shown(value), expected=expected))


def nested(value: Any, where: str) -> Plain:
    """Return a table as it is, and text as `{"name": text}`.

    Raises:
        SpecError: for anything else.
    """
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, Mapping):
        raise SpecError(mismatch(where, given=shown(value), expected="a name or a table"))
    return dict(value)


def component(value: Any, where: str, registry: Registry) -> Plain:
    """Return the table of a component, whose name is one that the registry knows.

    Raises:
        SpecError: for anything but a name or a table, or an unknown name.
    """
    table = nested(value, where)
    if "name" in table:
        if not isinstance(table["name"], str):
            given, expected = shown(table["name"]), f"one of {', '.join(registry.names())}"
            raise SpecError(mismatch(f"{where}.name", given=given, expected=expected))
        registry[table["name"]]
    else:
        expected = f'a "name"; known: {", ".join(registry.names())}'
        raise SpecError(mismatch(where, given=shown(table), expected=expected))
    return table


def override(table: Mapping[str, Any], setting: str, before: Sequence[str] = ()) -> Plain:
    """Return the table with one setting changed, `"model.prior.dynamics.name=linear"`.

    The value is TOML; what is not TOML is text. A component that gets another name loses the
    options it had: they were those of the old one. So does data that gets a path, with its name,
    unless one of the settings before has said that name.

    Raises:
        SpecError: where the setting has no `=` or no key, or leads into something that is no table.
    """
    keys, value = parse_setting(setting)
    changed = here = plain(table)
    for depth, key in enumerate(keys[:-1]):
        inner = nested(here.get(key, {}), ".".join(keys[: depth + 1]))
        here[key] = here = inner
    renamed = keys[-1] == "name" and len(keys) > 1 and here.get("name") != value
    named = ["data", "name"] in (parse_setting(each)[0] for each in before)
    if renamed or (keys == ["data", "path"] and "path" not in here and not named):
        here.clear()
    here[keys[-1]] = value
    return changed


def parse_setting(setting: str) -> tuple[list[str], Any]:
    """Return keys and value of `"a.b=value"`."""
    path, equals, text = setting.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not equals or not all(keys):
        given, expected = shown(setting), "key=value, e.g. model.prior.dynamics.name=linear"
        raise SpecError(mismatch("setting", given=given, expected=expected))
    return keys, parse_value(text.strip())


def parse_value(text: str) -> Any:
    """Return what TOML reads, or the text itself."""
    try:
        read = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return read["value"] if list(read) == ["value"] else text


def split_values(text: str) -> list[str]:
    """Split `"srnn,deep_ar,[1, 2]"` at the commas outside brackets and quotes.

    Example:
        >>> split_values('srnn, {name = "vem", steps = 3}, [1, 2]')
        ['srnn', '{name = "vem", steps = 3}', '[1, 2]']
    """
    parts, depth, quote, current = [], 0, "", ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0 and not quote:
            parts.append(current.strip())
            current = ""
        else:
            current += character
    return [part for part in (*parts, current.strip()) if part]
