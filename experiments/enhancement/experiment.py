"""The experiment "enhancement": speech in noise, made clean."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch

from pyromodels.errors import SpecError, mismatch, unknown
from pyromodels.experiments.datasets import DATASETS, build_data
from pyromodels.experiments.datasets.mixtures.mixtures import MixtureData
from pyromodels.experiments.enhancement import figures
from pyromodels.experiments.enhancement.adequacy import PIECES, check_judged, judged
from pyromodels.experiments.enhancement.enhance import (
    Enhanced,
    EnhancementInference,
    Made,
    Recipe,
    enhance,
    fitted,
)
from pyromodels.experiments.enhancement.model_spec import EnhancementModelSpec
from pyromodels.experiments.enhancement.regions import calibrations, regions_of, variance_of
from pyromodels.experiments.enhancement.report import metrics_of, summary_of
from pyromodels.experiments.enhancement.scores import (
    BASELINES,
    INFERRED,
    Scores,
    heard,
    scores_of,
)
from pyromodels.experiments.enhancement.training import NoisyTraining, find_or_train_program
from pyromodels.experiments.harness.experiment import (
    EXPERIMENTS,
    Experiment,
    Judged,
    Outcome,
    Program,
)
from pyromodels.experiments.harness.spec_tables import ComponentTable, OptionsTable, Table
from pyromodels.experiments.separation.assigner import load_assigner
from pyromodels.experiments.separation.figures import calibration
from pyromodels.experiments.separation.measures import FIGURES, check_names, check_packages
from pyromodels.experiments.separation.outcome import Regions
from pyromodels.experiments.separation.sounds import write_together
from pyromodels.experiments.speech.trained_models import of_spectra
from pyromodels.noise.base import Sizes
from pyromodels.registry import DYNAMICS, NOISES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyromodels.audio.stft import STFT
    from pyromodels.experiments.harness.records import RunFolder
    from pyromodels.experiments.runs.spec import Spec


@dataclass(frozen=True)
class EnhancementMetrics:
    """What is measured.

    Args:
        baselines: of `BASELINES`.
        figures: of the speech, of `measures.FIGURES`; "estoi" and "pesq" need packages of their
            names, and what these refuse to judge is left out of the mean.
        num_examples: signals that are written as sounds and drawn.
        num_draws: posterior draws of each of them.
        checked: signals drawn from validation recordings that the law of errors is fitted to.
    """

    baselines: tuple[str, ...] = ("noisy", "decision_directed", "oracle_wiener")
    figures: tuple[str, ...] = ("si_sdr",)
    num_examples: int = 2
    num_draws: int = 2
    checked: int = 24

    def __post_init__(self) -> None:
        """Refuse a baseline, or figure, that is none."""
        check_names(self.figures, [name for name in FIGURES if name != "si_sdr_improvement"])
        for name in self.baselines:
            if name not in BASELINES:
                raise SpecError(unknown("baseline", given=name, known=BASELINES))


class Parts(NamedTuple):
    """What is fitted: the prior's spec, how encoder and noise are trained, how a signal is met."""

    model: EnhancementModelSpec
    training: NoisyTraining
    inference: EnhancementInference


class Fitted(NamedTuple):
    """Noisy signals, made clean."""

    made: list[Enhanced]
    stft: STFT
    seconds: float  # that it took, training left out
    scores: Scores  # empty where nobody knows the truth
    regions: Regions | None  # of the posterior's errors, where recordings are there to draw from


@EXPERIMENTS.register("enhancement")
class EnhancementExperiment(Experiment):
    """Make noisy speech clean, by a prior of clean speech alone: thesis, chapter 6."""

    tables: ClassVar[dict[str, Table]] = {
        "data": ComponentTable(
            DATASETS, {"name": "synthetic_mixtures", "kinds": ["speech", "noise"]},
            path_means="mixture_list",
        ),
        "model": OptionsTable(EnhancementModelSpec, {"noise": NOISES}),
        "guide": OptionsTable(NoisyTraining),
        "inference": OptionsTable(EnhancementInference),
        "metrics": OptionsTable(EnhancementMetrics),
    }
    columns: ClassVar[dict[str, str]] = {
        "si_sdr": "SI-SDR dB",
        "improvement": "gained dB",
        "noisy/si_sdr": "noisy dB",
        "real_time_factor": "real-time factor",
        "seconds": "seconds",
    }
    footnote: ClassVar[str] = (
        "mean ± standard error over seeds; SI-SDR in the mean over signals; real-time factor: "
        "seconds for a second of sound"
    )

    def data(self, spec: Spec) -> MixtureData:
        """Return the noisy signals and the recordings of speech and noise."""
        data = build_data(spec.data, MixtureData, "mixtures of speech and noise")
        if len(data.kinds) != 2:
            expected = "two, the wanted one first, e.g. speech and noise"
            raise SpecError(mismatch("data.kinds", given=list(data.kinds), expected=expected))
        return data

    def model(self, spec: Spec, data: MixtureData) -> Parts:
        """Return what is to be trained and run."""
        if not spec.model.noise_is_network and spec.guide.steps:
            given = f"steps = {spec.guide.steps} beside noise of low rank"
            expected = "model.noise = lv, no or nolv, a network that can be trained"
            raise SpecError(mismatch("guide", given=given, expected=expected))
        if spec.model.noise_is_network and spec.inference.method == "mcem":
            given = f"mcem beside noise = {spec.model.noise['name']}, a network"
            raise SpecError(mismatch("inference.method", given=given, expected="noise = nmf"))
        check_packages(spec.metrics.figures)
        return Parts(spec.model, spec.guide, spec.inference)

    def fit(
        self, spec: Spec, data: MixtureData, model: Parts, *, folder: Path | None, resume: bool
    ) -> Fitted:
        """Train what is not trained yet, and make all signals clean."""
        recipe, stft = recipe_of(spec, data, resume=resume)
        spectra = [stft.analyse(m.signal.to(spec.device)) for m in data.mixtures]
        torch.manual_seed(spec.seed)
        began = time.perf_counter()
        made = enhance(spectra, recipe)
        seconds = time.perf_counter() - began
        scores, regions, asked = {}, None, spec.metrics
        if data.has_truth:
            scores = scores_of(
                data.mixtures, made, stft, asked.baselines, asked.figures,
                inferred=INFERRED[model.inference.method],
            )
            regions = regions_of(data, stft, recipe, asked.checked, spec.seed, spec.device)
        return Fitted(made, stft, seconds, scores, regions)

    def metrics(self, outcome: Outcome) -> dict[str, float]:
        """Return figures by method; what regions hold; the speed."""
        return metrics_of(outcome)

    def summary(self, outcome: Outcome) -> str:
        """Return tables of methods, and what the regions hold."""
        return summary_of(outcome)

    def keep(self, folder: RunFolder, outcome: Outcome) -> None:
        """Write sounds: noisy, enhanced, and draws of the posterior; at the level of the noisy."""
        made, stft = outcome.fitted.made, outcome.fitted.stft
        num = outcome.spec.metrics.num_examples if outcome.data.has_truth else len(made)
        for mixture, said in zip(outcome.data.mixtures[:num], made[:num], strict=True):
            signals = {"noisy": mixture.signal, "enhanced": heard(said.estimate, stft, mixture)}
            for number, draw in enumerate(said.draws, 1):
                signals[f"draw{number}"] = heard(draw, stft, mixture)
            named = {f"{mixture.name}-{name}": signal.cpu() for name, signal in signals.items()}
            write_together(folder.path, named, mixture.name)

    def figures(self, outcome: Outcome) -> dict[str, Figure]:
        """Return scores against the noise, and spectrograms of the examples."""
        scores, stft = outcome.fitted.scores, outcome.fitted.stft
        drawn = {}
        if "noisy" in scores and "si_sdr" in scores["noisy"]:
            reached = {name: row["si_sdr"] for name, row in scores.items()}
            noisy = reached.pop("noisy")
            drawn["scores"] = figures.scores(reached, noisy)
        if scores:
            covered = calibrations(
                outcome.data.mixtures, outcome.fitted.made, stft, outcome.fitted.regions
            )
            drawn["calibration"] = calibration(
                {name: held[:, None] for name, held in covered.items()}, outcome.data.kinds[:1]
            )
        num = outcome.spec.metrics.num_examples
        pairs = zip(outcome.data.mixtures[:num], outcome.fitted.made[:num], strict=True)
        for mixture, said in pairs:
            clean = None if mixture.sources is None else stft.analyse(mixture.sources[0])
            drawn[mixture.name] = figures.enhancement(
                mixture.name, stft.analyse(mixture.signal), said.estimate.cpu(),
                variance_of(said, stft.analyse(mixture.signal), outcome.fitted.regions), clean,
                stft,
            )
        return drawn

    def programs(self, spec: Spec, data: MixtureData, model: Parts) -> list[Program]:
        """Return the model and the guide, on a short signal, untrained."""
        made = untrained(spec, data)
        return [Program(f"model  {type(made.model).__name__}", made.model, (made.batch,)),
                Program(f"guide  {type(made.guide).__name__}", made.guide, (made.batch,), "q")]

    def inference(self, spec: Spec, model: Parts) -> str:
        """Return how a signal is met."""
        return f"inference  {model.inference}"

    def python(self, spec: Spec) -> str:
        """Return the script that makes the same speech clean."""
        from pyromodels.experiments.enhancement.script import to_python  # is for `show` alone

        return to_python(spec)

    def judged(self, spec: Spec, data: MixtureData, model: Parts) -> Judged:
        """Return the fit of the program, on loud pieces of the first signals."""
        check_judged(model.inference)
        recipe, stft = recipe_of(spec, data)
        spectra = [stft.analyse(m.signal.to(spec.device)) for m in data.mixtures[:PIECES]]
        return judged(spectra, recipe)


def recipe_of(spec: Spec, data: MixtureData, *, resume: bool = False) -> tuple[Recipe, STFT]:
    """Train what is not trained yet, and say what noisy spectra are met with."""
    speech = spec.model.trained(
        data.recordings[data.kinds[0]], spec.seed, spec.device, resume=resume
    )
    prior, noise, network = of_spectra(speech).to(spec.device), spec.model.noise, None
    if spec.model.noise_is_network:
        program = find_or_train_program(
            data, speech, noise, spec.guide, spec.seed, device=spec.device, resume=resume
        )
        prior, noise = program.prior, program.noise
    if spec.inference.asks_network:
        network = load_assigner(spec.inference.network, 2, "inference.network").prior
        network = network.to(spec.device)
    recipe = Recipe(prior, noise, spec.inference, bool(spec.model.gain),
                    spec.metrics.num_draws, network)
    return recipe, speech.stft


def untrained(spec: Spec, data: MixtureData) -> Made:
    """Return model and guide of a short piece of a signal, with networks as they are made."""
    speech = spec.model.speech
    table: dict[str, Any] = speech.prior_table() | {"emission": {"name": "complex"}}
    prior = DYNAMICS.build(table).eval()
    stft = speech.stft
    spectrum = stft.analyse(data.mixtures[0].signal[: stft.num_samples(8)])
    noise: Any = spec.model.noise
    if spec.model.noise_is_network:
        noise = NOISES.build(noise, Sizes(0, 0, prior.cell.source_dim, prior.latent_dim))
    options = replace(spec.inference, steps=1, starts=("encoder",), average=False)
    return next(fitted([spectrum], [None], Recipe(prior, noise, options, bool(spec.model.gain))))
