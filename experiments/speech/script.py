"""A spec of resynthesis or generation as the Python that trains the same model."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from pyromodels.audio.stft import STFT
from pyromodels.experiments.datasets import DATASETS
from pyromodels.experiments.datasets.speech.recordings import padded_segments, power_segments
from pyromodels.experiments.harness.script import Code, Script, literal
from pyromodels.experiments.runs.spec import Spec
from pyromodels.experiments.speech.resynthesis import judge, mean_figures
from pyromodels.experiments.speech.trained_models import load_model
from pyromodels.experiments.speech.training import POWER_FLOOR, SpeechLoss, SpeechTraining
from pyromodels.guides.amortised import Amortised
from pyromodels.inference.training.fit import fit
from pyromodels.inference.training.options import FitOptions, ScheduledSampling
from pyromodels.inference.training.seeding import seed_all
from pyromodels.models.dvae import DynamicalVAE
from pyromodels.registry import DYNAMICS


def to_python(spec: Spec, training: SpeechTraining) -> str:
    """Return a script of plain constructors that trains the same model, to the same numbers.

    It ends with `figures` of the test utterances by the model's own history, and prints one.
    """
    script = Script()
    to_device = "" if spec.device == "cpu" else f".to({literal(spec.device)})"
    script.add(f"data = {script.component(DATASETS, spec.data)}")
    if spec.model.weights is not None:
        weights = script.call(Path, literal(spec.model.weights))
        script.add(f"loaded = {script.call(load_model, weights)}")
        script.add(f"prior, stft = loaded.prior{to_device}, loaded.stft")
    else:
        _add_training(script, training, to_device)
    script.add()
    script.add("utterances = list(data.utterances(\"test\"))")
    asked = getattr(spec.metrics, "num_frames", 0) or None
    seed = getattr(spec.metrics, "seed", None)
    rows = script.call(judge, "prior", "utterances", "stft", mode="generation", num_frames=asked,
                       seed=spec.seed if seed is None else seed)
    script.add(f"figures = {script.call(mean_figures, f'list({rows})')}")
    script.add('print(f"SI-SDR {figures[\'si_sdr\']:.2f} dB")')
    return script.text()


def _add_training(script: Script, training: SpeechTraining, to_device: str) -> None:
    model, recipe = training.model, training.recipe
    script.add(f"stft = {script.call(STFT, str(model.window), str(model.hop))}")
    script.add(f"{script.name(seed_all)}({training.seed})")
    script.add(f"prior = {script.component(DYNAMICS, model.prior_table())}{to_device}")
    program = script.call(DynamicalVAE, "prior")
    script.add(f"guide = {script.call(Amortised, program)}", "the model and its own encoder")
    script.add()
    said = ("data", "split", str(recipe.num_frames), "stft")
    floor = Code(literal(POWER_FLOOR))
    if recipe.shortest is None:
        segments = f"({script.call(power_segments, *said, floor=floor)},)"
    else:
        shortest = min(recipe.shortest, recipe.num_frames)
        segments = script.call(padded_segments, *said, shortest=shortest, floor=floor)
    if to_device:
        segments = f"tuple(part{to_device} for part in {segments})"
    script.add(f'segments = [\n    {segments}\n    for split in ("train", "valid")\n]')
    loss = script.call(SpeechLoss, "guide", judge_generating=training.own_history)
    options = training.options()
    given = {f.name: getattr(options, f.name) for f in fields(FitOptions)}
    if options.sampling is not None:
        first, last = str(options.sampling.first), str(options.sampling.last)
        given["sampling"] = Code(
            script.call(ScheduledSampling, first, last, hops=options.sampling.hops)
        )
    script.add(f"options = {script.call(FitOptions, **given)}")
    script.add(f"result = {script.call(fit, 'guide', loss, '*segments', options=Code('options'))}")
    script.add("prior.eval()")
