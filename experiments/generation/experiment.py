"""The experiment "generation": speech of a model's own, and its distance to recordings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from matplotlib.figure import Figure
from torch import Tensor

from pyromodels.experiments.datasets.speech.audio import SAMPLE_RATE
from pyromodels.experiments.datasets.speech.recordings import SpeechData
from pyromodels.experiments.generation.generate import (
    Recorded,
    Told,
    distance,
    generated,
    recorded,
    write_sounds,
)
from pyromodels.experiments.harness.experiment import EXPERIMENTS, Outcome
from pyromodels.experiments.harness.records import RunFolder
from pyromodels.experiments.harness.spec_tables import OptionsTable, Table
from pyromodels.experiments.runs.spec import Spec
from pyromodels.experiments.speech import figures
from pyromodels.experiments.speech.experiment import SpeechExperiment
from pyromodels.experiments.speech.trained_models import SpeechModel
from pyromodels.experiments.speech.training import SpeechTraining


@dataclass(frozen=True)
class GenerationMetrics:
    """What is measured of generated speech.

    Args:
        num_samples: utterances of the model and of the recordings, at most as many as there are.
        seconds: of an utterance.
        iterations: of Griffin-Lim, which finds the phase.
    """

    num_samples: int = 128
    seconds: float = 1.6
    iterations: int = 60


class Generated(NamedTuple):
    """A model, recordings, and what the model makes."""

    model: SpeechModel
    recorded: Recorded
    made: dict[Told, list[Tensor]]


@EXPERIMENTS.register("generation")
class GenerationExperiment(SpeechExperiment):
    """Speech of a model's own, by its Fréchet distance to recordings; cf. thesis, Table 7.3."""

    tables: ClassVar[dict[str, Table]] = {
        **SpeechExperiment.tables, "metrics": OptionsTable(GenerationMetrics)
    }
    columns: ClassVar[dict[str, str]] = {
        "drawn": "told of draws",
        "expected": "of expectations",
        "griffin_lim": "test recordings",
        "other_half": "training recordings",
        "seconds": "seconds",
    }
    footnote: ClassVar[str] = (
        "mean ± standard error over seeds of frechet_log_mel to half of the training recordings; a "
        "model that feeds nothing back is told of nothing.\nTest recordings went through "
        "Griffin-Lim too; the other half of the training recordings is the least to expect"
    )

    def fit(
        self,
        spec: Spec,
        data: SpeechData,
        model: SpeechTraining,
        *,
        folder: Path | None,
        resume: bool,
    ) -> Generated:
        """Return the trained model and what it makes."""
        trained = super().fit(spec, data, model, folder=folder, resume=resume)
        asked, stft = spec.metrics, trained.stft
        num_frames = stft.num_frames(round(asked.seconds * SAMPLE_RATE))
        recordings = recorded(data, stft, num_frames, asked.num_samples)
        count = len(recordings.reference)
        made = generated(trained, count, num_frames, asked.iterations, seed=spec.seed)
        return Generated(trained, recordings, made)

    def metrics(self, outcome: Outcome) -> dict[str, float]:
        """Return the distances of what the model makes, and of recordings."""
        model, recordings, made = outcome.fitted
        asked, seed = outcome.spec.metrics, outcome.spec.seed
        return {
            **{told: distance(recordings.reference, signals) for told, signals in made.items()},
            **recordings.distances(model.stft, asked.iterations, seed),
        }

    def summary(self, outcome: Outcome) -> str:
        """Return the distances, a line each, and say where they are no speech."""
        metrics, recordings = outcome.metrics, outcome.fitted.recorded
        words = {"other_half": "training recordings, the other half",
                 "exact_phase": "test recordings", "griffin_lim": "test recordings, Griffin-Lim",
                 "drawn": "the model, told of what it drew",
                 "expected": "the model, told of what it expected"}
        lines = [f"{len(recordings.reference)} utterances each; frechet_log_mel"]
        lines += [f"{what:40}{metrics[key]:8.3f}" for key, what in words.items() if key in metrics]
        return "\n".join(lines)

    def keep(self, folder: RunFolder, outcome: Outcome) -> None:
        """Write weights and sounds."""
        super().keep(folder, outcome._replace(fitted=outcome.fitted.model))
        write_sounds(folder.path, outcome.spec.model.prior_name, outcome.fitted.made)

    def figures(self, outcome: Outcome) -> dict[str, Figure]:
        """Return the losses, and spectrograms of what the model makes beside a recording."""
        model, recordings, made = outcome.fitted
        panels = {"a recording": recordings.test[0]}
        panels |= {f"told of what it {told}": signals[0] for told, signals in made.items()}
        finite = {title: signal for title, signal in panels.items() if signal.isfinite().all()}
        return super().figures(outcome._replace(fitted=model)) | {
            "generated": figures.spectrograms("speech of the model's own", finite, model.stft)
        }
