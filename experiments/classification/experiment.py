"""The experiment "classification": tell sequences apart by the density of each class."""

from __future__ import annotations

import inspect
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from matplotlib.figure import Figure

from pyromodels.batch import SequenceBatch
from pyromodels.dynamics.autoregressive import Autoregressive
from pyromodels.errors import SpecError, mismatch
from pyromodels.experiments.classification import figures, script
from pyromodels.experiments.classification import table_rows as rows
from pyromodels.experiments.classification.scores import (
    Judged,
    hidden_markov_scores,
    judge,
    scores_of,
)
from pyromodels.experiments.classification.training import ClassTraining
from pyromodels.experiments.datasets import DATASETS, build_data
from pyromodels.experiments.datasets.labelled.problems import Problem
from pyromodels.experiments.harness.experiment import EXPERIMENTS, Experiment, Outcome, Program
from pyromodels.experiments.harness.plain_tables import Plain
from pyromodels.experiments.harness.records import RunFolder
from pyromodels.experiments.harness.spec_tables import ComponentTable, OptionsTable, Table
from pyromodels.experiments.harness.store import Trained
from pyromodels.experiments.metrics.classification import confusion, reliability
from pyromodels.experiments.runs.spec import Spec
from pyromodels.inference.classes.options import ClassOptions
from pyromodels.inference.posterior.arviz_io import inference_data, save
from pyromodels.models.classifier import Classifier
from pyromodels.registry import DYNAMICS

HIDDEN_MARKOV = "hidden_markov"
"""The baseline in the metrics."""


@dataclass(frozen=True)
class ClassificationModelSpec:
    """What tells the classes apart.

    Args:
        prior: the density of a class, with keyword arguments of its constructor.

    Raises:
        SpecError: a prior that holds no densities side by side.
    """

    prior: Plain = field(default_factory=lambda: {"name": "tvnf"})

    def __post_init__(self) -> None:
        """Refuse what has no members."""
        if "num_members" not in inspect.signature(DYNAMICS[self.prior["name"]]).parameters:
            expected = "a density of classes, e.g. tvnf or tvgmm"
            raise SpecError(mismatch("model.prior", given=self.prior["name"], expected=expected))

    def prior_table(self, source_dim: int, num_classes: int) -> dict[str, Any]:
        """Return the registry's spec of the densities of all classes."""
        sizes = {"source_dim": source_dim, "num_members": num_classes}
        said = {key: value for key, value in self.prior.items() if key != "name"}
        return {"name": self.prior["name"], **sizes, **said}


@dataclass(frozen=True)
class ClassificationMetrics:
    """What is measured of a classifier.

    Args:
        offset_std: how far calibration may move the prior of a class, nats; 0: not at all.
        hidden_markov_states: of the baseline, hidden Markov models fitted by EM; 0: none.
    """

    offset_std: float = 0.0
    hidden_markov_states: int = 3


class Fitted(NamedTuple):
    """Densities, what they say of the test data, and what the baseline says."""

    trained: Trained
    judged: Judged
    baseline: Judged | None


@EXPERIMENTS.register("classification")
class ClassificationExperiment(Experiment):
    """Tell sequences apart by the density of each class: time-varying flows, Table IV."""

    tables: ClassVar[dict[str, Table]] = {
        "data": ComponentTable(
            DATASETS, {"name": "hidden_markov_sources"}, path_means="labelled_file"
        ),
        "model": OptionsTable(ClassificationModelSpec, {"prior": DYNAMICS}),
        "inference": OptionsTable(ClassOptions, leave_out=("seed",)),
        "metrics": OptionsTable(ClassificationMetrics),
    }
    columns: ClassVar[dict[str, str]] = {
        "accuracy": "accuracy %",
        "nats_per_frame": "nats/frame",
        "calibration_error": "miscalibr. %",
        "strangers": "strangers",
        "hidden_markov/accuracy": "hidden Markov %",
        "seconds": "seconds",
    }
    footnote: ClassVar[str] = (
        "mean ± standard error over seeds, of the test data; miscalibr.: of the calibrated "
        "posterior; strangers: how well sequences of no class are told, 0.5 is chance.\nhidden "
        "Markov: models fitted by EM to the same data"
    )

    def data(self, spec: Spec) -> Problem:
        """Return the problem, standardised."""
        expected = "labelled sequences, e.g. hidden_markov_sources or labelled_file"
        return build_data(spec.data, Problem, expected)

    def model(self, spec: Spec, data: Problem) -> ClassTraining:
        """Return the training of the densities."""
        return training_of(spec, data)

    def fit(
        self,
        spec: Spec,
        data: Problem,
        model: ClassTraining,
        *,
        folder: Path | None,
        resume: bool,
    ) -> Fitted:
        """Return densities, trained into the store or found there, and what they say."""
        asked = spec.metrics
        trained = model.find_or_train(data.data, device=spec.device, resume=resume)
        judged = judge(scores_of(trained.prior), data, offset_std=asked.offset_std)
        baseline = None
        if asked.hidden_markov_states:
            baseline = judge(hidden_markov_scores(data, asked.hidden_markov_states), data)
        return Fitted(trained, judged, baseline)

    def metrics(self, outcome: Outcome) -> dict[str, float]:
        """Return the figures of the test data, and the baseline's."""
        _, judged, baseline = outcome.fitted
        metrics = dict(judged.figures)
        if baseline is not None:
            metrics |= {f"{HIDDEN_MARKOV}/{key}": v for key, v in baseline.figures.items()}
        if outcome.data.bayes is not None:
            metrics["sources/accuracy"] = outcome.data.bayes.accuracy
        return metrics

    def summary(self, outcome: Outcome) -> str:
        """Return the rows of Table IV."""
        _, judged, baseline = outcome.fitted
        lines = [rows.describe(outcome.data), rows.header(outcome.data)]
        if baseline is not None:
            lines.append(rows.row(baseline_label(outcome.spec), baseline.figures))
        lines.append(rows.row(outcome.spec.model.prior["name"], judged.figures))
        if baseline is not None and judged.figures["accuracy"] < baseline.figures["accuracy"]:
            lines.append(
                "It tells the classes apart worse than hidden Markov models do: train longer "
                "(inference.updates), or smooth it (inference.input_noise)."
            )
        return "\n".join(lines)

    def keep(self, folder: RunFolder, outcome: Outcome) -> None:
        """Write the weights, and the likelihood of every test sequence under every class."""
        trained, judged, _ = outcome.fitted
        for name in ("weights.safetensors", "weights.json"):
            shutil.copyfile(trained.folder / name, folder.path / name)
        write_likelihoods(folder.path / "likelihoods.nc", outcome.spec.name, judged, outcome.data)

    def figures(self, outcome: Outcome) -> dict[str, Figure]:
        """Return who is taken for whom, whether that is honest, and what the densities are."""
        (trained, judged, baseline), seed = outcome.fitted, outcome.spec.seed
        data = outcome.data.data
        both = {outcome.spec.model.prior["name"]: judged}
        if baseline is not None:
            both = {baseline_label(outcome.spec): baseline, **both}
        return {
            **decisions(both, outcome.data),
            "samples": figures.samples(trained.prior, data, seed=seed),
            "one_step": figures.one_step(trained.prior, data, seed=seed),
        }

    def programs(self, spec: Spec, data: Problem, model: ClassTraining) -> list[Program]:
        """Return the classifier, on the first two test sequences."""
        bank: Autoregressive = DYNAMICS.build(model.prior)
        some = data.data.test[torch.arange(2)]
        batch = SequenceBatch(some.x, some.mask)
        return [Program(f"model  Classifier of {type(bank).__name__}", Classifier(bank), (batch,))]

    def inference(self, spec: Spec, model: ClassTraining) -> str:
        """Return how the densities are trained."""
        return f"inference  maximum likelihood: {model.options}"

    def python(self, spec: Spec) -> str:
        """Return the script of the training."""
        return script.to_python(spec)


def training_of(spec: Spec, problem: Problem) -> ClassTraining:
    """Return the training that a spec says, for data."""
    data = problem.data
    prior = spec.model.prior_table(data.dim, len(data.classes))
    DYNAMICS.check(prior)
    return ClassTraining(prior, replace(spec.inference, seed=spec.seed))


def baseline_label(spec: Spec) -> str:
    """Return what the baseline is called."""
    count = spec.metrics.hidden_markov_states
    return f"hidden Markov, {count} state{'s' * (count > 1)}"


def decisions(judged: dict[str, Judged], given: Problem) -> dict[str, Figure]:
    """Return who is taken for whom, and whether probabilities are frequencies, of every model."""
    labels, count = given.data.test.labels, len(given.data.classes)
    return {
        "confusion": figures.confusions(
            {name: confusion(made.logits.argmax(-1), labels, num_classes=count)
             for name, made in judged.items()},
            given.data.classes,
        ),
        "reliability": figures.reliabilities(
            {name: reliability(made.logits, labels) for name, made in judged.items()}
        ),
    }


def write_likelihoods(path: Path, name: str, judged: Judged, given: Problem) -> Path:
    """Write log p(x | c) and p(c | x) of every test sequence as InferenceData."""
    dims = ("chain", "draw", "sequence", "class")
    test = given.data.test
    data = inference_data(
        {
            "posterior": {"probability": (dims, judged.logits.exp()[None, None].numpy())},
            "log_likelihood": {"x": (dims, judged.scores[None, None].numpy())},
            "observed_data": {
                "label": (("sequence",), test.labels.numpy()),
                "num_frames": (("sequence",), test.lengths.numpy()),
            },
        },
        coords={"class": given.data.classes},
        attrs={"data": given.data.name, "model": name},
    )
    return save(data, path)
