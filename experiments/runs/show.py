"""`pyromodels show SPEC`: the graph of a run's model and guide as text, or the run as Python."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.inspect import get_model_relations
from pyro.poutine.util import site_is_subsample
from torch import nn

from pyromodels.experiments.harness.experiment import experiment
from pyromodels.experiments.runs.runner import add_spec, build
from pyromodels.experiments.runs.spec import load_spec


class Plate(NamedTuple):
    """An independent axis."""

    name: str
    dim: int
    size: int


class Site(NamedTuple):
    """A random variable of a program."""

    name: str
    law: str
    batch_shape: tuple[int, ...]
    event_shape: tuple[int, ...]
    plates: tuple[Plate, ...]  # the outermost first
    parents: tuple[str, ...]
    observed: bool
    enumerated: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_spec(parser)
    parser.add_argument("--python", action="store_true", help="print the run as plain Python")


def main(args: argparse.Namespace) -> int:
    """Print the graph, or the code."""
    spec = load_spec(args.spec, settings=args.settings, device=args.device)
    task = experiment(spec.experiment)
    if args.python:
        print(task.python(spec), end="")
        return 0
    built = build(spec)
    sections = []
    for title, program, arguments, symbol in task.programs(*built):
        sections.append(format_graph(title, sites(program, *arguments), symbol))
        sections.append(format_parameters(program))
    print("\n\n".join([*sections, task.inference(spec, built.model)]))
    return 0


def sites(program: Callable[..., Any], *args: Any) -> list[Site]:
    """Run any Pyro program once and return its random variables in order.

    Parents are what the program's tensors really depended on: tracked through the computation by
    `pyro.infer.inspect`, not read off the code.

    Args:
        program: a model or a guide.
        *args: what it is called with.
    """
    with torch.no_grad(), pyro.settings.context(module_local_params=True):
        trace = pyro.poutine.trace(program).get_trace(*args)
        parents = get_model_relations(program, args)["sample_sample"]
    found = []
    for name, node in trace.nodes.items():
        if node["type"] != "sample" or site_is_subsample(node):
            continue
        law, frames = node["fn"], node["cond_indep_stack"]
        plates = sorted((Plate(f.name, f.dim, f.size) for f in frames), key=lambda p: p.dim)
        found.append(
            Site(
                name,
                _law(law),
                tuple(law.batch_shape),
                tuple(law.event_shape),
                tuple(plates),
                tuple(parents.get(name, ())),
                node["is_observed"],
                node["infer"].get("enumerate") is not None,
            )
        )
    return found


def format_graph(title: str, found: list[Site], symbol: str = "p") -> str:
    """Return the sites as a tree of the plates they live in, one line each.

    Neighbours that share their outer plates share a branch; shapes are batch | event.
    """
    rows: list[tuple[str, ...]] = []
    open_plates: tuple[Plate, ...] = ()
    for site in found:
        shared = 0
        for held, wanted in zip(open_plates, site.plates, strict=False):
            if held != wanted:
                break
            shared += 1
        for depth in range(shared, len(site.plates)):
            plate = site.plates[depth]
            rows.append((f"{'│ ' * depth}┌ {plate.name} ×{plate.size} (dim {plate.dim})",))
        open_plates = site.plates
        given = f"{site.name} | {', '.join(site.parents)}" if site.parents else site.name
        mark = "●" if site.observed else "○"
        note = "observed" if site.observed else "enumerated" if site.enumerated else ""
        label = f"{'│ ' * len(site.plates)}{mark} {symbol}({given})"
        shape = f"{_shape(site.batch_shape)}|{_shape(site.event_shape)}"
        rows.append((label, site.law, shape, note))
    widths = [max((len(row[i]) for row in rows if len(row) > 1), default=0) for i in range(3)]

    def line(row: tuple[str, ...]) -> str:
        cells = zip(row, (*widths, 0), strict=False)
        return row[0] if len(row) == 1 else "  ".join(f"{text:{width}}" for text, width in cells)

    return "\n".join([title, *(f"  {line(row)}".rstrip() for row in rows)])


def format_parameters(module: nn.Module) -> str:
    """Return the parameters and buffers of a module with their shapes, one line each."""
    named = [(name, p, "parameter") for name, p in module.named_parameters()]
    named += [(name, b, "buffer") for name, b in module.named_buffers()]
    total = sum(p.numel() for _, p, kind in named if kind == "parameter")
    width = max((len(name) for name, *_ in named), default=0)
    lines = [f"  {name:{width}}  {kind:9}  {_shape(tuple(v.shape))}" for name, v, kind in named]
    return "\n".join([f"parameters  {total} numbers", *lines])


def _law(law: Any) -> str:
    while isinstance(law, (dist.Independent, dist.ExpandedDistribution, dist.MaskedDistribution)):
        law = law.base_dist
    return type(law).__name__


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
