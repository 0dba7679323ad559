"""`pyromodels list`: the commands with a name, the shipped specs, every component.

Read from source, so that the list is there at once: neither torch nor a component is imported.
"""

from __future__ import annotations

import argparse
import textwrap

from pyromodels.components import installed, keys_of
from pyromodels.experiments.datasets import DATASETS
from pyromodels.experiments.harness.experiment import EXPERIMENTS, METHODS, STAGES
from pyromodels.experiments.runs.shipped import shipped_specs
from pyromodels.inference.engines import ENGINES
from pyromodels.registry import (
    DENSITIES,
    DYNAMICS,
    EMISSIONS,
    GUIDES,
    MODELS,
    NETWORKS,
    NOISES,
    OBSERVATIONS,
    Registry,
)

REGISTRIES: tuple[Registry, ...] = (
    EXPERIMENTS, DATASETS, MODELS, DYNAMICS, DENSITIES, EMISSIONS, NETWORKS, OBSERVATIONS, NOISES,
    GUIDES, ENGINES, STAGES, METHODS,
)
"""Everything that a spec may name."""

CHOICES = {
    "encoders of an amortised guide": ("pyromodels.networks.encoders", "PRESETS"),
    "speech models": ("pyromodels.experiments.speech.table_models", "VARIANTS"),
    "models of `run phones`": ("pyromodels.experiments.classification.table_models", "VARIANTS"),
}
"""What options choose by name: the dictionaries whose keys it is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def main(args: argparse.Namespace) -> int:
    """Print the lists, one line each entry."""
    from pyromodels.experiments.command.cli import VERBS, names

    _section("commands", {f"{v} {n}": c.help for v in VERBS for n, c in names(v).items()})
    _section("spec", shipped_specs())
    for registry in REGISTRIES:
        _section(registry.kind, registry.describe())
    _section("installed components", installed())
    for title, (module, variable) in CHOICES.items():
        print(title)
        print(textwrap.fill(", ".join(keys_of(module, variable)), 100, initial_indent="  ",
                            subsequent_indent="  "))
    return 0


def _section(title: str, entries: dict[str, str]) -> None:
    print(title)
    width = max(map(len, entries), default=0)
    for name, line in entries.items() or {"(none)": ""}.items():
        print(f"  {name:{width}}  {line}".rstrip())
