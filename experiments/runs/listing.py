"""`pyromodels list`: the commands with a name, the shipped specs, every component."""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def main(args: argparse.Namespace) -> int:
    """Print the lists, one line each entry."""
    from pyromodels.experiments.classification.table_models import VARIANTS as DENSITIES
    from pyromodels.experiments.command.cli import VERBS, names
    from pyromodels.experiments.datasets import DATASETS
    from pyromodels.experiments.runs.spec import shipped_specs
    from pyromodels.experiments.speech.table_models import VARIANTS
    from pyromodels.inference.engines.by_name import STEPPERS
    from pyromodels.networks.encoders import PRESETS
    from pyromodels.registry import DYNAMICS, EMISSIONS, GUIDES, MODELS

    _section("commands", {f"{v} {n}": c.help for v in VERBS for n, c in names(v).items()})
    _section("spec", shipped_specs())
    for registry in (DATASETS, MODELS, DYNAMICS, EMISSIONS, GUIDES, STEPPERS):
        _section(registry.kind, registry.describe())
    _section("encoder of an amortised guide", {n: _in_words(p) for n, p in PRESETS.items()})
    _section("speech model", {name: variant.label for name, variant in VARIANTS.items()})
    _section("model of `run phones`", {name: found.label for name, found in DENSITIES.items()})
    return 0


def _in_words(preset: dict[str, Any]) -> str:
    shared = ", reads the model's own state" if preset["shares"] else ""
    return f"direction {preset['direction']}, feedback {preset['feedback']}{shared}"


def _section(title: str, entries: dict[str, str]) -> None:
    print(title)
    width = max(map(len, entries), default=0)
    for name, line in entries.items() or {"(none)": ""}.items():
        print(f"  {name:{width}}  {line}".rstrip())
