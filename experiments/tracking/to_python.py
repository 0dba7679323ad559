"""A spec as the Python that does the same: constructors, and a fit."""

from __future__ import annotations

from pyromodels.experiments.datasets import DATASETS
from pyromodels.experiments.harness.script import Code, Script, literal
from pyromodels.experiments.harness.spec_tables import seeded
from pyromodels.experiments.runs.spec import Spec
from pyromodels.experiments.tracking import setup
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.engines.by_name import STEPPERS
from pyromodels.inference.engines.engine import mean_bound
from pyromodels.inference.training.seeding import seed_all
from pyromodels.models.mixdvae import Detector, MixDVAE
from pyromodels.registry import DYNAMICS, GUIDES


def to_python(spec: Spec) -> str:
    """Return a script of plain constructors that makes the same run: same numbers, same bound.

    It ends with `losses`, `bound` (nats a sequence) and a line that prints the bound.
    """
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
    program = script.call(MixDVAE, "prior", detector=detector, noise_scale=model.noise_scale)
    script.add(f"model = {program}.to({where})")
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
    engine = script.component(STEPPERS, spec.inference)
    script.add(f"engine = {engine}")
    script.add("losses = engine.run(batch).losses", "or: engine.step(batch), as often as you like")
    bound = script.call(mean_bound, "model", "engine", "batch")
    script.add(f"bound = {bound}", "nats a sequence")
    script.add('print(f"bound {bound:.2f} nats a sequence")')
    return script.text()


