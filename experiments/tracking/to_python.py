"""A spec as the Python that does the same: constructors, and a fit."""

from __future__ import annotations

import inspect

from pyromodels.errors import SpecError
from pyromodels.experiments.datasets import DATASETS
from pyromodels.experiments.harness.experiment import STAGES
from pyromodels.experiments.harness.plain_tables import Plain
from pyromodels.experiments.harness.script import WIDTH, Code, Script, literal, same
from pyromodels.experiments.harness.spec_tables import seeded
from pyromodels.experiments.runs.spec import Spec
from pyromodels.experiments.tracking import setup
from pyromodels.experiments.tracking.inference_table import TUNED_NAME, is_method, stages_of
from pyromodels.experiments.tracking.tracker import track
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.engines import ENGINES
from pyromodels.inference.engines.engine import mean_bound
from pyromodels.inference.training.seeding import seed_all
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.observations.detector import Detector
from pyromodels.registry import DYNAMICS, GUIDES, OBSERVATIONS


def _tuned(script: Script, spec: Spec) -> str:
    stages = "".join(f"\n    {_stage(stage)}," for stage in stages_of(spec.inference))
    script.add(f"stages = [{stages}\n]")
    fit = script.call(track, "model", "batch", "stages", start_std=spec.model.start_std)
    script.add(f"fitted = {fit}", "model, guide and batch of the last stage")
    script.add("bound = fitted.elbo.mean().item()", "nats a sequence")
    script.add('print(f"bound {bound:.2f} nats a sequence")')
    return script.text()


def _stage(stage: Plain) -> str:
    """Return a stage less the options that are its defaults; a long one has a line for each."""
    parameters = inspect.signature(STAGES[stage["name"]]).parameters
    said = [
        f"{literal(key)}: {literal(value)}"
        for key, value in stage.items()
        if key == "name" or not same(value, parameters[key].default)
    ]
    if sum(len(part) + 2 for part in said) < WIDTH - 8:
        return f"{{{', '.join(said)}}}"
    return "\n".join(["{", *(f"        {part}," for part in said), "    }"])


def to_python(spec: Spec) -> str:
    """Return a script of plain constructors that makes the same run: same numbers, same bound.

    It ends with `losses`, or `fitted`, with `bound` (nats a sequence) and a line that prints it.
    Stages take all sequences at once.

    Raises:
        SpecError: of a method that brings its own model.
    """
    if is_method(spec.inference["name"]):
        raise SpecError(
            f"show --python: {spec.inference['name']!r} brings a model of its own; the script is "
            "that of an engine or of stages"
        )
    script, model, said = Script(), spec.model, spec.model.prior
    where = f"torch.{spec.dtype}"
    if spec.device != "cpu":
        where = f"{literal(spec.device)}, {where}"
    script.add(f"{script.name(seed_all)}({spec.seed})")
    script.add(f"data = {script.component(DATASETS, seeded(DATASETS, spec.data, spec.seed))}")
    if said.trained is not None:
        trained = script.call(
            setup.trained_prior, literal(said.trained), literal(said.dynamics["name"]),
            least_std=said.least_std,
        )
        script.add(f"prior = {trained}.to({where})")
    else:
        dynamics = script.component(DYNAMICS, said.complete_dynamics)
        script.add(f"prior = {dynamics}.to({where})")
    script.add()
    batch = script.call(
        setup.box_batch, "data", "prior",
        num_sources=model.num_sources, noise_ratio=model.noise_ratio, start_std=model.start_std,
        dtype=Code(f"torch.{spec.dtype}"), device=spec.device,
    )
    script.add(f"batch = {batch}", "observations, mask, variance, p(s_1)")
    detector = None
    if model.detector is not None:
        detector = Code(script.call(Detector, **vars(model.detector)))
    law = []
    if model.noise_scale != 1 or model.observation is not None:
        keywords = dict(model.law)
        law = [script.call(OBSERVATIONS[keywords.pop("name")], "prior", **keywords)]
    program = script.call(MixDVAE, "prior", *law, detector=detector)
    script.add(f"model = {program}.to({where})")
    if spec.inference["name"] == TUNED_NAME:
        return _tuned(script, spec)
    if GUIDES[spec.guide["name"]] is MeanField:
        script.add(f"guide = {script.component(GUIDES, spec.guide)}")
        start = script.call(
            setup.start_fit, "model", "guide", "batch", start_std=model.start_std
        )
        script.add(start, "an online pass")
    else:
        guide = script.call(
            setup.started_guide, literal(spec.guide), "model", "batch", start_std=model.start_std
        )
        script.add(f"guide = {guide}", "where an online pass ends")
    script.add()
    engine = script.component(ENGINES, spec.inference)
    script.add(f"engine = {engine}")
    script.add("losses = engine.run(batch).losses", "or: engine.step(batch), as often as you like")
    bound = script.call(mean_bound, "model", "engine", "batch")
    script.add(f"bound = {bound}", "nats a sequence")
    script.add('print(f"bound {bound:.2f} nats a sequence")')
    return script.text()


