"""What the `[model]` of a separation spec says: a prior for each kind of source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pyromodels.audio.stft import STFT
from pyromodels.dynamics.by_source import BySource
from pyromodels.emissions.complex import Complex
from pyromodels.emissions.spectral import Spectral
from pyromodels.errors import SpecError, mismatch, unknown
from pyromodels.experiments.datasets.mixtures.mixtures import MixtureData
from pyromodels.experiments.harness.plain_tables import Plain
from pyromodels.experiments.speech.model_spec import SpeechModelSpec
from pyromodels.experiments.speech.trained_models import SpeechModel, load_model, trained_model
from pyromodels.experiments.speech.training import SpeechInference, SpeechTraining
from pyromodels.registry import DYNAMICS


@dataclass(frozen=True)
class SeparationModelSpec:
    """Priors of power spectrograms, one for each kind of source.

    Args:
        prior: of every kind that `priors` leaves out: a dynamical model with keyword arguments.
        priors: kind -> prior; a table {weights = PATH} takes trained ones, as `SpeechModelSpec`.
        size: of their networks.
        epochs: most epochs of training; priors that were trained before are found again.
        max_seconds: of the training of each; None: as long as it takes.
    """

    prior: Plain | str = "vae"
    priors: Plain = field(default_factory=dict)
    size: str = "small"
    epochs: int = 20
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        """Check names now, before any data is read."""
        for kind in ("any other", *self.priors):
            self.of(kind)

    @property
    def stft(self) -> STFT:
        """The transform."""
        return STFT()

    def of(self, kind: str) -> SpeechModelSpec:
        """Return the model of one kind of source."""
        said = self.priors.get(kind, self.prior)
        table = {"name": said} if isinstance(said, str) else dict(said)
        if "weights" in table:
            return SpeechModelSpec(weights=table["weights"])
        if table.get("name") not in DYNAMICS.names():
            where = f"model.priors.{kind}" if kind in self.priors else "model.prior"
            raise SpecError(f"{where}: {unknown('prior', given=table.get('name'), known=DYNAMICS)}")
        return SpeechModelSpec(prior=table, size=self.size)

    def training(self, kind: str, seed: int) -> SpeechTraining:
        """Return how the prior of one kind is trained."""
        longest = math.inf if self.max_seconds is None else self.max_seconds
        options = SpeechInference(epochs=self.epochs, max_seconds=longest)
        return SpeechTraining(self.of(kind), options, seed)

    def trained(
        self, data: MixtureData, seed: int, device: str, *, resume: bool
    ) -> dict[str, SpeechModel]:
        """Return the prior of every kind, loaded, found or trained."""
        found = {}
        for kind, recordings in data.recordings.items():
            spec = self.of(kind)
            if spec.weights is not None:
                model = load_model(Path(spec.weights))
                found[kind] = model._replace(prior=model.prior.to(device))
            else:
                found[kind] = trained_model(
                    self.training(kind, seed), recordings, device=device, resume=resume
                )
        return found


def of_spectra(models: Mapping[str, SpeechModel]) -> BySource:
    """Return priors of powers as one prior of complex spectra, a source each."""
    priors = []
    for kind, model in models.items():
        emission = model.prior.emission
        if not isinstance(emission, Spectral):
            given = type(emission).__name__
            raise SpecError(mismatch(f"prior of {kind}", given=given, expected="one of powers"))
        priors.append(model.prior.with_emission(Complex.of(emission)))
    return BySource(priors).eval()
