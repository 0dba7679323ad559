"""`pyromodels list`: the commands with a name, the shipped specs, every component."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def main(args: argparse.Namespace) -> int:
    """Print the lists, one line each entry."""
    from experiments.cli import VERBS, names
    from experiments.datasets import DATASETS
    from experiments.spec import shipped_specs
    from inference.steppers import STEPPERS
    from pyromodels.registry import DYNAMICS, GUIDES, MODELS

    _section("commands", {f"{v} {n}": c.help for v in VERBS for n, c in names(v).items()})
    _section("spec", shipped_specs())
    for registry in (DATASETS, MODELS, DYNAMICS, GUIDES, STEPPERS):
        _section(registry.kind, registry.describe())
    return 0


def _section(title: str, entries: dict[str, str]) -> None:
    print(title)
    width = max(map(len, entries), default=0)
    for name, line in entries.items() or {"(none)": ""}.items():
        print(f"  {name:{width}}  {line}".rstrip())
