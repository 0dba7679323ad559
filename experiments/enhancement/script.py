"""A spec of enhancement as the Python that makes the same speech clean."""

from __future__ import annotations

from pyromodels.experiments.datasets import DATASETS
from pyromodels.experiments.enhancement.enhance import Recipe, enhance
from pyromodels.experiments.enhancement.scores import ESTIMATE, scores_of
from pyromodels.experiments.enhancement.training import find_or_train_program
from pyromodels.experiments.harness.script import Code, Script, literal
from pyromodels.experiments.runs.spec import Spec
from pyromodels.experiments.separation.assigner import load_assigner
from pyromodels.experiments.separation.script import UNKNOWN_TRUTH, add_figures, options_call
from pyromodels.experiments.speech.trained_models import of_spectra


def to_python(spec: Spec) -> str:
    """Return a script that makes the same run, to the same numbers.

    It ends with what was `made` of the signals, and where the truth is known with `figures` of the
    speech, and a line that prints them.
    """
    script, options = Script(), spec.inference
    to_device = "" if spec.device == "cpu" else f".to({literal(spec.device)})"
    script.add(f"data = {script.component(DATASETS, spec.data)}")
    script.add(f"model = {options_call(script, spec.model)}")
    trained = f"{spec.seed}, {literal(spec.device)}, resume=False"
    script.add(f"speech = model.trained(data.recordings[data.kinds[0]], {trained})")
    if spec.model.noise_is_network:
        program = script.call(
            find_or_train_program, "data", "speech", "model.noise",
            options_call(script, spec.guide), str(spec.seed), device=spec.device,
        )
        script.add(f"program = {program}")
        script.add("prior, noise = program.prior, program.noise")
    else:
        prior = script.call(of_spectra, "speech")
        script.add(f"prior, noise = {prior}{to_device}, model.noise")
    network = "None"
    if options.asks_network:
        network = "network"
        loaded = script.call(load_assigner, literal(options.network), "2", '"inference.network"')
        script.add(f"network = {loaded}.prior{to_device}", "says whose a bin is")
    script.add(f"options = {options_call(script, options)}")
    script.add()
    recipe = script.call(
        Recipe, "prior", "noise", "options", literal(bool(spec.model.gain)),
        keep_draws=spec.metrics.num_draws, network=Code(network),
    )
    script.add(f"recipe = {recipe}")
    script.add(f"spectra = [speech.stft.analyse(m.signal{to_device}) for m in data.mixtures]")
    script.add(f"torch.manual_seed({spec.seed})")
    script.add(f"made = {script.call(enhance, 'spectra', 'recipe')}")
    if spec.data["name"] != UNKNOWN_TRUTH:
        asked = literal(list(spec.metrics.figures))
        rows = script.call(scores_of, "data.mixtures", "made", "speech.stft", "[]", asked)
        script.add(f"rows = {rows}[{literal(ESTIMATE)}]")
        add_figures(script)
    return script.text()
