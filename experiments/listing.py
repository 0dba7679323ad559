"""`pyromodels list`: the commands with a name, and every registered component."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def main(args: argparse.Namespace) -> int:
    """Print both lists, one line each entry."""
    from experiments.cli import VERBS, names
    from pyromodels.registry import DYNAMICS, GUIDES, MODELS

    _section("commands", {f"{v} {n}": c.help for v in VERBS for n, c in names(v).items()})
    for registry in (DYNAMICS, GUIDES, MODELS):
        _section(registry.kind, registry.describe())
    return 0


def _section(title: str, entries: dict[str, str]) -> None:
    print(title)
    width = max(map(len, entries), default=0)
    for name, line in entries.items() or {"(none)": ""}.items():
        print(f"  {name:{width}}  {line}".rstrip())
