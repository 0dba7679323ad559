"""The experiment "resynthesis": speech through a dynamical VAE and back."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyromodels.batch import SequenceBatch
from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.errors import SpecError, mismatch
from pyromodels.experiments.datasets import DATASETS, build_data
from pyromodels.experiments.datasets.speech.audio import peak_normalise, write_wav
from pyromodels.experiments.datasets.speech.corpora import with_tests
from pyromodels.experiments.datasets.speech.recordings import SpeechData
from pyromodels.experiments.harness.experiment import (
    EXPERIMENTS,
    Experiment,
    Judged,
    Outcome,
    Program,
)
from pyromodels.experiments.harness.records import RunFolder
from pyromodels.experiments.harness.spec_tables import ComponentTable, OptionsTable, Table
from pyromodels.experiments.runs.spec import Spec
from pyromodels.experiments.speech import figures, script
from pyromodels.experiments.speech.adequacy_report import encoder_fit, loudest_pieces, program_of
from pyromodels.experiments.speech.model_spec import SpeechModelSpec
from pyromodels.experiments.speech.resynthesis import (
    Resynthesis,
    judge,
    judge_mean_spectrum,
    mean_figures,
    modes_of,
    prepared,
    resynthesise,
)
from pyromodels.experiments.speech.table_models import COLUMNS
from pyromodels.experiments.speech.trained_models import SpeechModel, load_model, trained_model
from pyromodels.experiments.speech.training import SpeechInference, SpeechTraining
from pyromodels.guides.amortised import Amortised
from pyromodels.models.dvae import DynamicalVAE
from pyromodels.registry import DYNAMICS, EMISSIONS

MEAN_SPECTRUM = "mean_spectrum"
"""The baseline that knows nothing of time."""
SHOWN_FRAMES = 50
"""Of the segments that `show` runs a model on."""
REPORT_PIECES, REPORT_FRAMES = 8, 20
"""Pieces of test utterances that a report judges the encoder on, and their length."""


class SpeechExperiment(Experiment):
    """What every experiment on speech does alike: data, a model, its training, found or made."""

    tables: ClassVar[dict[str, Table]] = {
        "data": ComponentTable(DATASETS, {"name": "synthetic_speech"}, path_means="speech_folder"),
        "model": OptionsTable(SpeechModelSpec, {"prior": DYNAMICS, "emission": EMISSIONS}),
        "inference": OptionsTable(SpeechInference),
    }

    def data(self, spec: Spec) -> SpeechData:
        """Return the corpus."""
        expected = "speech, e.g. synthetic_speech or speech_folder"
        return build_data(spec.data, SpeechData, expected)

    def model(self, spec: Spec, data: SpeechData) -> SpeechTraining:
        """Return the training, with all numbers said and checked.

        Raises:
            SpecError: for a model without latents, which has nothing to analyse a signal by.
        """
        _check_latents(spec.model)
        training = training_of(spec)
        if spec.model.weights is None:
            training.made_by(data)
        return training

    def fit(
        self,
        spec: Spec,
        data: SpeechData,
        model: SpeechTraining,
        *,
        folder: Path | None,
        resume: bool,
    ) -> SpeechModel:
        """Return the trained model: loaded, found in the store, or trained into it."""
        if spec.model.weights is not None:
            loaded = load_model(Path(spec.model.weights))
            return loaded._replace(prior=loaded.prior.to(spec.device))
        return trained_model(model, data, device=spec.device, resume=resume)

    def keep(self, folder: RunFolder, outcome: Outcome) -> None:
        """Copy the weights, so that the folder of a run is what `--weights` takes."""
        made = outcome.fitted.folder
        for name in ("weights.safetensors", "weights.json") if made is not None else ():
            if made.resolve() != folder.path.resolve():
                shutil.copyfile(made / name, folder.path / name)

    def figures(self, outcome: Outcome) -> dict[str, Figure]:
        """Return the losses of training."""
        history = outcome.fitted.history
        return {"loss": figures.loss_curves(history)} if history else {}

    def programs(self, spec: Spec, data: SpeechData, model: SpeechTraining) -> list[Program]:
        """Return the model and its encoder, on two segments."""
        if spec.model.weights is not None:
            prior = load_model(Path(spec.model.weights)).prior
        else:
            prior = DYNAMICS.build(model.model.prior_table())
        program = DynamicalVAE(prior)
        power = torch.ones(2, SHOWN_FRAMES, prior.source_dim)
        args = (SequenceBatch(power, torch.ones_like(power[..., 0], dtype=torch.bool)),)
        return [Program(f"model  DynamicalVAE of {type(prior).__name__}", program, args),
                Program("guide  Amortised", Amortised(program), args, "q")]

    def inference(self, spec: Spec, model: SpeechTraining) -> str:
        """Return how it is trained, the model's own recipe filled in."""
        if spec.model.weights is not None:
            return f"inference  none: weights {spec.model.weights}"
        options = model.options()
        said = f"segments of {model.recipe.num_frames} frames, {options}"
        return f"inference  Adam on PathELBO: {said}"

    def python(self, spec: Spec) -> str:
        """Return the script of the training."""
        _check_latents(spec.model)
        return script.to_python(spec, training_of(spec))

    def judged(self, spec: Spec, data: SpeechData, model: SpeechTraining) -> Judged:
        """Return the encoder of the trained model, on the loudest pieces of test utterances."""
        trained = self.fit(spec, data, model, folder=None, resume=False)
        utterances = list(data.utterances("test"))
        count = min(REPORT_PIECES, len(utterances))
        x = loudest_pieces(utterances, trained.stft, count, REPORT_FRAMES).to(spec.device)
        batch = SequenceBatch(x, torch.ones_like(x[..., 0], dtype=torch.bool))
        return Judged(encoder_fit(program_of(trained, None)), batch)


def _check_latents(model: SpeechModelSpec) -> None:
    """Refuse a model that has no encoder; weights say of what they are where they are loaded."""
    if model.weights is None and not issubclass(DYNAMICS[model.prior_name], DynamicalPrior):
        expected = "a model with latents, e.g. srnn: others have no encoder"
        raise SpecError(mismatch("model.prior", given=model.prior_name, expected=expected))


@dataclass(frozen=True)
class ResynthesisMetrics:
    """What is measured of a resynthesis.

    Args:
        num_frames: frames of a test utterance that count, from its first; 0: all of them.
        utterances: a JSON list of the names of the test files that count; None: all of them.
        num_examples: utterances to write and draw.
        num_draws: draws of z for each of them.
        seed: of the draws that are judged; None: the run's.
    """

    num_frames: int = 150
    utterances: str | None = None
    num_examples: int = 3
    num_draws: int = 3
    seed: int | None = None


class Example(NamedTuple):
    """An utterance and what was made of it."""

    signal: Tensor  # shape: (n,)
    draws: dict[str, Resynthesis]  # by mode


@EXPERIMENTS.register("resynthesis")
class ResynthesisExperiment(SpeechExperiment):
    """Speech through a dynamical VAE and back, by the phase of the original: thesis, Table 7.1."""

    tables: ClassVar[dict[str, Table]] = {
        **SpeechExperiment.tables, "metrics": OptionsTable(ResynthesisMetrics)
    }
    columns: ClassVar[dict[str, str]] = {
        "generation/si_sdr": "SI-SDR dB",
        "generation/rmse": "RMSE",
        "generation/pesq_raw": "PESQ",
        "generation/estoi": "ESTOI",
        "bound": "bound",
        "training_seconds": "seconds",
    }
    footnote: ClassVar[str] = (
        "mean ± standard error over seeds, every model by its own history; bound: nats a frame of "
        "the validation data;\nseconds: of training, also where it was found trained"
    )

    def metrics(self, outcome: Outcome) -> dict[str, float]:
        """Return the mean figures over the test utterances, by mode, and the baseline's."""
        asked, model = outcome.spec.metrics, outcome.fitted
        seed = outcome.spec.seed if asked.seed is None else asked.seed
        utterances = list(with_tests(outcome.data, asked.utterances).utterances("test"))
        num_frames = asked.num_frames or None
        found = {mode: mean_figures(list(judge(
            model.prior, utterances, model.stft, mode=mode, num_frames=num_frames, seed=seed
        ))) for mode in modes_of(model.prior)}
        found[MEAN_SPECTRUM] = mean_figures(
            list(judge_mean_spectrum(utterances, model.stft, num_frames=num_frames))
        )
        metrics = {f"{mode}/{key}": v for mode, row in found.items() for key, v in row.items()}
        record = model.record
        if "loss_nats_per_frame" in record:  # published weights say nothing
            metrics["bound"] = -record["loss_nats_per_frame"]
            metrics["training_seconds"] = record["seconds"]
        return metrics

    def summary(self, outcome: Outcome) -> str:
        """Return the rows of Table 7.1, and a warning where nothing was learnt."""
        metrics, model = outcome.metrics, outcome.fitted
        count = len(with_tests(outcome.data, outcome.spec.metrics.utterances).test)
        lines = [f"{count} test utterances of {outcome.data.name}, "
                 f"{num_parameters(model):,} parameters", COLUMNS.header()]
        for mode in (*modes_of(model.prior), MEAN_SPECTRUM):
            row = {key.removeprefix(f"{mode}/"): value for key, value in metrics.items()
                   if key.startswith(f"{mode}/")}
            lines.append(COLUMNS.row(mode.replace("_", " "), row))
        floor = metrics[f"{MEAN_SPECTRUM}/si_sdr"]
        if metrics["generation/si_sdr"] < floor:
            lines.append(
                "By its own history the model does worse than the mean spectrum in every frame: "
                f"{metrics['generation/si_sdr']:.2f} dB under {floor:.2f} dB. Train longer "
                "(inference.epochs), or on more data."
            )
        if model.record.get("stopped") == "time":
            lines.append("Its training was cut short; --resume goes on with it.")
        return "\n".join(lines)

    def keep(self, folder: RunFolder, outcome: Outcome) -> None:
        """Write weights and sounds."""
        super().keep(folder, outcome)
        for name, example in examples(outcome).items():
            write_wav(folder.path / f"{name}.wav", example.signal)
            for mode, made in example.draws.items():
                for number, rebuilt in enumerate(peak_normalise(made.signal.cpu()), 1):
                    write_wav(folder.path / f"{name}-{mode}-{number}.wav", rebuilt)

    def figures(self, outcome: Outcome) -> dict[str, Figure]:
        """Return the losses, and spectrograms of every example."""
        stft = outcome.fitted.stft
        return super().figures(outcome) | {
            name: figures.resynthesis(example.signal, example.draws, stft)
            for name, example in examples(outcome).items()
        }


def training_of(spec: Spec) -> SpeechTraining:
    """Return the training that a spec says."""
    return SpeechTraining(spec.model, spec.inference, spec.seed)


def num_parameters(model: SpeechModel) -> int:
    """Count the trained numbers of a model."""
    return sum(p.numel() for p in model.prior.parameters() if p.requires_grad)


def examples(outcome: Outcome) -> dict[str, Example]:
    """Return the first utterances and draws of them in every mode, the same at every call."""
    asked, model = outcome.spec.metrics, outcome.fitted
    utterances, found = with_tests(outcome.data, asked.utterances).utterances("test"), {}
    for utterance in itertools.islice(utterances, asked.num_examples):
        torch.manual_seed(0)
        signal = prepared(utterance, model.stft, asked.num_frames or None)
        found[utterance.name] = Example(signal, {
            mode: resynthesise(
                model.prior, signal, model.stft, mode=mode, num_draws=asked.num_draws
            )
            for mode in modes_of(model.prior)
        })
    return found
