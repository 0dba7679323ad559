"""A spec as the Python that does the same: constructors, and a fit."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from pyromodels.experiments.datasets import DATASETS
from pyromodels.experiments.runs.spec import Spec, supplied
from pyromodels.experiments.tracking import setup
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.engines.by_name import STEPPERS
from pyromodels.inference.engines.engine import mean_bound
from pyromodels.inference.training.seeding import seed_all
from pyromodels.models.mixdvae import Detector, MixDVAE
from pyromodels.registry import DYNAMICS, GUIDES, Registry

WIDTH = 100
MARGIN = len("prior = .to(torch.float64)")


class _Script:
    """Lines of code, and the imports that they need."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.modules: dict[str, set[str]] = {}

    def name(self, component: Any) -> str:
        """Return what a component is called, imported."""
        self.modules.setdefault(component.__module__, set()).add(component.__name__)
        return component.__name__

    def call(self, component: Any, *args: str, **keywords: Any) -> str:
        """Return a call, less the keywords that are the component's defaults.

        A long one has a line for each argument.
        """
        parameters = inspect.signature(component).parameters
        said = [
            f"{key}={value.text if isinstance(value, _Code) else _literal(value)}"
            for key, value in keywords.items()
            if key not in parameters or not _same(value, parameters[key].default)
        ]
        parts, name = [*args, *said], self.name(component)
        if len(name) + sum(len(part) + 2 for part in parts) < WIDTH - MARGIN:
            return f"{name}({', '.join(parts)})"
        return "\n".join([f"{name}(", *(f"    {part}," for part in parts), ")"])

    def add(self, line: str = "", comment: str = "") -> None:
        """Add a line of code, which may be a call over several."""
        if comment and len(line) + len(comment) + 4 > WIDTH:
            self.lines.append(f"# {comment}")
            comment = ""
        self.lines.append(f"{line}  # {comment}" if comment else line)

    def text(self) -> str:
        """Return the script."""
        imports = [
            f"from {module} import {', '.join(sorted(names, key=str.lower))}"
            for module, names in sorted(self.modules.items())
        ]
        return "\n".join(["import torch", "", *imports, "", *self.lines]) + "\n"


class _Code:
    """An argument that is code already."""

    def __init__(self, text: str) -> None:
        self.text = text


def to_python(spec: Spec) -> str:
    """Return a script of plain constructors that makes the same run: same numbers, same bound.

    It ends with `losses`, `bound` (nats a sequence) and a line that prints the bound.
    """
    script, model, said = _Script(), spec.model, spec.model.prior
    script.add(f"{script.name(seed_all)}({spec.seed})")
    script.add(f"data = {_component(script, DATASETS, spec.data_table())}")
    if said.trained is not None:
        trained = script.call(
            setup.trained_prior, _literal(said.trained), _literal(said.dynamics["name"]),
            least_std=said.least_std,
        )
        script.add(f"prior = {trained}.to(torch.{spec.dtype})")
    else:
        dynamics = _component(script, DYNAMICS, said.complete_dynamics)
        script.add(f"prior = {dynamics}.to(torch.{spec.dtype})")
    script.add()
    batch = script.call(
        setup.box_batch, "data", "prior",
        num_sources=model.num_sources, noise_ratio=model.noise_ratio, start_std=model.start_std,
        dtype=_Code(f"torch.{spec.dtype}"),
    )
    script.add(f"batch = {batch}", "observations, mask, variance, p(s_1)")
    detector = None
    if model.detector is not None:
        detector = _Code(script.call(Detector, **vars(model.detector)))
    program = script.call(MixDVAE, "prior", detector=detector, noise_scale=model.noise_scale)
    script.add(f"model = {program}.to(torch.{spec.dtype})")
    if GUIDES[spec.guide["name"]] is MeanField:
        script.add(f"guide = {_component(script, GUIDES, spec.guide)}")
        start = script.call(
            setup.start_fit, "model", "guide", "batch", start_std=model.start_std
        )
        script.add(start, "an online pass")
    else:
        guide = script.call(
            setup.started_guide, _literal(spec.guide), "model", "batch", start_std=model.start_std
        )
        script.add(f"guide = {guide}", "where an online pass ends")
    script.add()
    engine = _component(script, STEPPERS, spec.inference)
    script.add(f"engine = {engine}")
    script.add("losses = engine.run(batch).losses", "or: engine.step(batch), as often as you like")
    bound = script.call(mean_bound, "model", "engine", "batch")
    script.add(f"bound = {bound}", "nats a sequence")
    script.add('print(f"bound {bound:.2f} nats a sequence")')
    return script.text()


def _component(script: _Script, registry: Registry, table: Mapping[str, Any]) -> str:
    keywords = {key: value for key, value in table.items() if key != "name"}
    return script.call(registry[table["name"]], *supplied(registry, table), **keywords)


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, _Code):
        return value.text == str(default)
    if isinstance(value, (list, tuple)) and isinstance(default, (list, tuple)):
        return list(value) == list(default)
    return value is default or (type(value) is type(default) and value == default)


def _literal(value: Any) -> str:
    """Python of plain data; inf and nan have no literal."""
    if isinstance(value, float) and value - value != 0:
        return f'float("{value}")'
    if isinstance(value, (list, tuple)):
        inner = ", ".join(map(_literal, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' * (len(value) == 1)})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_literal(k)}: {_literal(v)}' for k, v in value.items())}}}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
