"""Progress of a loop: a bar where somebody looks, plain lines where the output goes to a file."""

import io
import sys
import time
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

EVERY = 30.0
"""Seconds between two lines in a file; what is done sooner prints none."""


def progress(steps: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """Return tqdm's bar, with its options, on a terminal; elsewhere a line every half minute.

    Example:
        >>> with progress(total=3, desc="fit", unit="step") as bar:
        ...     _ = bar.update()  # whether it was redrawn
        ...     bar.set_postfix(loss="1.25")
    """
    return tqdm(steps, **options) if sys.stderr.isatty() else _Lines(steps, **options)


class _Lines(tqdm):
    """A bar whose every state, if it is time for one, is a line of its own on stderr."""

    def __init__(self, steps: Iterable[Any] | None, **options: Any) -> None:
        self.told = time.monotonic()
        super().__init__(steps, **options, file=io.StringIO())

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Print how far it has come, at most once in `EVERY` seconds."""
        if time.monotonic() - self.told < EVERY or not self.n:
            return
        self.told = time.monotonic()
        state = self.format_dict
        total = "" if state["total"] is None else f" of {state['total']}"
        name = f"{self.desc.removesuffix(': ')}: " if self.desc else ""
        after = f", {self.postfix}" if self.postfix else ""
        took = self.format_interval(state["elapsed"])
        print(f"{name}{self.n}{total} {self.unit}s, {took}{after}", file=sys.stderr, flush=True)
