"""Trained models of speech on disk: found again where the same training has made them."""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

from pyromodels.audio.stft import STFT
from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.errors import SpecError, mismatch
from pyromodels.experiments.datasets.speech.recordings import SpeechData
from pyromodels.experiments.harness.weights import read_prior
from pyromodels.experiments.speech.training import SpeechTraining
from pyromodels.published_weights.load import load_published


class SpeechModel(NamedTuple):
    """A model with the transform it was trained on, and its record."""

    prior: DynamicalPrior
    stft: STFT
    record: dict[str, Any]


def load_model(path: Path) -> SpeechModel:
    """Load a trained model: the folder of its run, its `.safetensors`, or published weights (.pt).

    Raises:
        FileNotFoundError: where the file, or its other half, is missing.
        SpecError: for weights that are not those of a model of spectrograms.
    """
    if path.suffix in (".pt", ".pth"):
        prior = load_published(path).eval()
        stft = STFT(window=2 * (prior.source_dim - 1), hop=256)
        return SpeechModel(prior, stft, {"published": path.name})
    path = path / "weights.safetensors" if path.is_dir() else path
    prior, record = read_prior(path.with_suffix(".safetensors"), path.with_suffix(".json"))
    if not isinstance(prior, DynamicalPrior) or "training" not in record:
        raise SpecError(
            mismatch(str(path), given=type(prior).__name__, expected="a model of `train dvae`")
        )
    training = record["training"]
    return SpeechModel(prior, STFT(training["window"], training["hop"]), record)


def finished(folder: Path, spec: SpeechTraining, data: SpeechData) -> bool:
    """Whether a folder holds the weights of this very training, on these very files.

    Networks and schedule are compared too: they follow from more than the numbers of a training.
    """
    path = folder / "weights.json"
    if not path.is_file():
        return False
    asked = json.loads(json.dumps({
        "training": dataclasses.asdict(spec.resolved()),
        "prior": spec.prior(),
        "options": dataclasses.asdict(spec.options()),
        "data": {"name": data.name, "files": data.fingerprint},
    }))
    record = json.loads(path.read_text(encoding="utf-8"))
    made = {key: record.get(key) for key in asked}
    made["data"] = {key: record.get("data", {}).get(key) for key in asked["data"]}
    return made == asked
