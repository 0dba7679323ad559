"""A trained model of speech: from the store, from a folder, or published."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from pyromodels.audio.stft import STFT
from pyromodels.dynamics.autoregressive import Autoregressive
from pyromodels.dynamics.base import EmittingPrior
from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.emissions.complex import Complex
from pyromodels.emissions.spectral import Spectral
from pyromodels.errors import SpecError, mismatch
from pyromodels.experiments.datasets.speech.recordings import SpeechData
from pyromodels.experiments.harness import store
from pyromodels.experiments.harness.store import History, Trained
from pyromodels.experiments.harness.weights import load_weights, read_prior
from pyromodels.experiments.speech.model_spec import SpeechModelSpec
from pyromodels.experiments.speech.training import SpeechInference, SpeechTraining
from pyromodels.published_weights.load import load_published


class SpeechModel(NamedTuple):
    """A model with the transform it was trained on, and its record."""

    prior: EmittingPrior
    stft: STFT
    record: dict[str, Any]
    history: History = []
    folder: Path | None = None  # of the weights

    @property
    def own_history(self) -> bool:
        """Whether it learnt from its own predictions; of published weights that is unknown."""
        return bool(self.record.get("options", {}).get("sampling"))


def load_model(path: Path, *, latents: bool = True) -> SpeechModel:
    """Load a trained model: the folder of its run, its `.safetensors`, or published weights (.pt).

    A name that is no path is that of weights that ship with the package.

    Args:
        path: of one of these.
        latents: whether it must have latents, as a model that signals are analysed by.

    Raises:
        FileNotFoundError: where the file, or its other half, is missing.
        SpecError: for weights that are not those of a model of spectrograms, or of one without
            latents where it must have them.
    """
    if path.suffix in (".pt", ".pth"):
        prior = load_published(path).eval()
        stft = STFT(window=2 * (prior.source_dim - 1), hop=256)
        return SpeechModel(prior, stft, {"published": path.name})
    bare = not path.suffix and path.parent == Path() and not path.exists()
    prior, record = load_weights(path.name) if bare else read_prior(path)
    kinds = DynamicalPrior if latents else DynamicalPrior | Autoregressive
    if not isinstance(prior, kinds) or "window" not in record.get("training", {}):
        expected = "a model of `train dvae`" + latents * ", with latents"
        raise SpecError(mismatch(str(path), given=type(prior).__name__, expected=expected))
    return of_trained(Trained(prior, record, [], path if path.is_dir() else path.parent))


def of_trained(made: Trained) -> SpeechModel:
    """Return a model with the transform that its record names."""
    training = made.record["training"]
    return SpeechModel(made.prior, STFT(training["window"], training["hop"]), *made[1:])


def find_model(
    training: SpeechTraining, data: SpeechData, device: str | torch.device
) -> SpeechModel | None:
    """Return what this training has made of this data, None where it has not been done."""
    found = store.find(training.made_by(data))
    return found and of_trained(found._replace(prior=found.prior.to(device)))


def load_or_train(
    spec: SpeechModelSpec,
    data: SpeechData | None,
    inference: SpeechInference,
    seed: int,
    device: str | torch.device,
    *,
    resume: bool,
) -> SpeechModel:
    """Return the model of a spec: loaded where it names weights, else found or trained.

    Raises:
        SpecError: where it must be trained, and there is no data to do it on.
    """
    if spec.weights is not None:
        found = load_model(Path(spec.weights), latents=False)
        return found._replace(prior=found.prior.to(device))
    if data is None:
        hint = "Or give a prior that is trained: {weights = PATH}."
        expected = "recordings to train the prior on"
        raise SpecError(mismatch("data.recordings", given="none", expected=expected, hint=hint))
    training = SpeechTraining(spec, inference, seed)
    return trained_model(training, data, device=device, resume=resume)


def of_spectra(model: SpeechModel) -> EmittingPrior:
    """Return a prior of powers as one of complex spectra, on the same networks.

    Raises:
        SpecError: for a prior of anything else.
    """
    emission = model.prior.emission
    if not isinstance(emission, Spectral):
        raise SpecError(mismatch("prior", given=type(emission).__name__, expected="one of powers"))
    return model.prior.with_emission(Complex.of(emission)).eval()


def trained_model(training: SpeechTraining, data: SpeechData, **how: Any) -> SpeechModel:
    """Return what this training makes of this data, found or trained; see `find_or_train`."""
    return of_trained(training.find_or_train(data, **how))
