"""The errors users meet, and the sentences they are made of: given, expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ShapeError(ValueError):
    """A tensor does not have the shape its place requires."""


class SpecError(ValueError):
    """A spec names a component, a key or a value that does not exist or does not fit."""


def shown(value: object, limit: int = 80) -> str:
    """What a value looks like in a sentence: its repr, cut in the middle where it is long.

    Example:
        >>> shown("a" * 100, limit=20)
        "'aaaaaaa ... aaaaaa'"
    """
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = f"a huge {type(value).__name__}"
    half = (limit - 5) // 2
    return text if len(text) <= limit else f"{text[: limit - 5 - half]} ... {text[-half:]}"


def mismatch(what: str, *, given: object, expected: object, hint: str = "") -> str:
    """Say what was given, what was expected and what to do.

    Example:
        >>> mismatch("x", given="shape (50, 513)", expected="(..., T, 257)", hint="Too long?")
        'x: given shape (50, 513); expected (..., T, 257). Too long?'
    """
    sentence = f"{what}: given {given}; expected {expected}"
    return f"{sentence}. {hint}" if hint else sentence


def misshapen(what: str, given: Iterable[int], expected: object, hint: str = "") -> ShapeError:
    """Return the error of a tensor, whose shape is given, that is not what its place requires.

    Example:
        >>> misshapen("x", (50, 513), "(..., T, 257)")
        ShapeError('x: given shape (50, 513); expected (..., T, 257)')
    """
    return ShapeError(mismatch(what, given=f"shape {tuple(given)}", expected=expected, hint=hint))


def check_choice(what: str, given: object, *choices: str) -> None:
    """Raise `ValueError` where a value is none of the choices."""
    if given not in choices:
        raise ValueError(mismatch(what, given=repr(given), expected=" or ".join(choices)))


def check_positive(holder: object, *names: str, expected: str = "a positive number") -> None:
    """Raise `ValueError` where an attribute that is there, not None, is not above zero."""
    for name in names:
        value = getattr(holder, name)
        if value is not None and not value > 0:
            raise ValueError(mismatch(name, given=value, expected=expected))


def unknown(what: str, *, given: str, known: Iterable[str]) -> str:
    """Say that a name is unknown, which known one is nearest, and list them all.

    Example:
        >>> unknown("dynamics", given="snn", known=["linear", "srnn"])
        "unknown dynamics 'snn'; did you mean 'srnn'? Known: linear, srnn"
    """
    known = sorted(known)
    near = difflib.get_close_matches(given[:100].lower(), known, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {what} {shown(given)}; {guess}Known: {', '.join(known) or '(none)'}"
