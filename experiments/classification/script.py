"""A spec of classification as the Python that trains the same densities."""

from __future__ import annotations

from dataclasses import asdict

from pyromodels.experiments.classification.scores import judge, scores_of
from pyromodels.experiments.datasets import DATASETS
from pyromodels.experiments.harness.script import Code, Script, literal
from pyromodels.experiments.runs.spec import Spec
from pyromodels.inference.classes.fit import fit_classes
from pyromodels.inference.classes.options import ClassOptions
from pyromodels.inference.training.seeding import seed_all
from pyromodels.registry import DYNAMICS


def to_python(spec: Spec) -> str:
    """Return a script of plain constructors that trains the same densities, to the same numbers.

    It ends with the `figures` of the test data, and prints the accuracy.
    """
    script = Script()
    to_device = "" if spec.device == "cpu" else f".to({literal(spec.device)})"
    script.add(f"problem = {script.component(DATASETS, spec.data)}")
    script.add("data = problem.data", "standardised, in three splits")
    script.add(f"{script.name(seed_all)}({spec.seed})")
    sizes = {"source_dim": Code("data.dim"), "num_members": Code("len(data.classes)")}
    prior = script.component(DYNAMICS, {**sizes, **spec.model.prior})
    script.add(f"densities = {prior}{to_device}", "of all classes, side by side")
    options = script.call(ClassOptions, **{**asdict(spec.inference), "seed": spec.seed})
    script.add(f"options = {options}")
    splits = f"data.train{to_device}", f"data.valid{to_device}"
    script.add(script.call(fit_classes, "densities", *splits, "options"))
    script.add()
    scores = script.call(scores_of, "densities")
    judged = script.call(judge, scores, "problem", offset_std=spec.metrics.offset_std)
    script.add(f"figures = {judged}.figures")
    script.add('print(f"accuracy {figures[\'accuracy\']:.2f} %")')
    return script.text()
