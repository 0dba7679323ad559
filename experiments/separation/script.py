"""A spec of separation as the Python that takes the same mixtures apart."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pyromodels.experiments.datasets import DATASETS
from pyromodels.experiments.datasets.mixtures.mixtures import of_one_length
from pyromodels.experiments.harness.script import Code, Script, literal
from pyromodels.experiments.runs.spec import Spec
from pyromodels.experiments.separation.assigner import find_or_train_assigner
from pyromodels.experiments.separation.measures import mean
from pyromodels.experiments.separation.model_spec import of_sources
from pyromodels.experiments.separation.scores import ESTIMATE, SeparationMetrics, scores_of
from pyromodels.experiments.separation.separate import separate
from pyromodels.inference.training.seeding import seed_all

UNKNOWN_TRUTH = "mixture_files"
"""The data set of sounds whose sources nobody knows."""


def to_python(spec: Spec, *, networks: bool) -> str:
    """Return a script that makes the same run, to the same numbers.

    It ends with what was `made` of the mixtures, programs and guides among it, and where the truth
    is known with `figures` by kind, and a line that prints them.

    Args:
        spec: of separation.
        networks: whether sources have models that are trained.
    """
    script, options = Script(), spec.inference
    to_device = "" if spec.device == "cpu" else f".to({literal(spec.device)})"
    script.add(f"{script.name(seed_all)}({spec.seed})")
    script.add(f"data = {script.component(DATASETS, spec.data)}")
    script.add(f"model = {options_call(script, spec.model)}", "of each kind of source")
    told: dict[str, Any] = {}
    walks = options.steps > 0 and spec.model.walks is not None
    if networks:
        name = "encoders" if walks else "prior"
        trained = f"model.trained(data, {spec.seed}, {literal(spec.device)}, resume=False)"
        script.add(f"{name} = {script.call(of_sources, trained)}{to_device}")
        if walks:
            told["encoders"] = Code(name)
    prior = "model.walks" if walks else "prior" if networks else "None"
    if options.start == "assigner":
        network = script.call(
            find_or_train_assigner, "data", options_call(script, spec.guide), str(spec.seed),
            "model.stft", device=spec.device,
        )
        script.add(f"assigner = {network}.prior")
        told["assigner"] = Code("assigner")
    script.add(f"options = {options_call(script, options)}")
    script.add()
    script.add("made = []")
    script.add(f"for mixtures in {script.call(of_one_length, 'data.mixtures')}:")
    script.add(f"    heard = torch.stack([m.signal for m in mixtures]){to_device}")
    if options.start == "oracle":
        script.add(f"    sources = torch.stack([m.sources for m in mixtures]){to_device}")
        told["truth"] = Code("model.stft.analyse(sources)")
    taken = script.call(separate, "model.stft.analyse(heard)", prior, "options",
                        num_draws=spec.metrics.num_draws, **told)
    indented = taken.replace("\n", "\n    ")
    script.add(f"    made.append((mixtures, {indented}))")
    if spec.data["name"] != UNKNOWN_TRUTH:
        asked = script.call(SeparationMetrics, baselines=(), figures=spec.metrics.figures)
        rows = script.call(scores_of, "data", "model.stft", "made", asked)
        script.add(f"rows = {rows}[{literal(ESTIMATE)}]")
        add_figures(script)
    return script.text()


def options_call(script: Script, options: Any) -> str:
    """Return the call that makes a dataclass of options, less what is its default."""
    kind = type(options)
    default = kind()
    said = {f.name: getattr(options, f.name) for f in fields(options)}
    changed = {key: value for key, value in said.items() if value != getattr(default, key)}
    return script.call(kind, **changed)


def add_figures(script: Script) -> None:
    """Add the means of `rows`, and a line that prints them."""
    means = f"{{name: {script.call(mean, 'values')} for name, values in rows.items()}}"
    script.add(f"figures = {means}")
    script.add("print(figures)")
