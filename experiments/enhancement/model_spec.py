"""What the `[model]` of an enhancement spec says: a prior of clean speech, and the noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.emissions.complex import Complex
from pyromodels.emissions.spectral import Spectral
from pyromodels.errors import SpecError, mismatch, unknown
from pyromodels.experiments.datasets.speech.recordings import SpeechData
from pyromodels.experiments.harness.plain_tables import Plain
from pyromodels.experiments.speech.model_spec import SpeechModelSpec
from pyromodels.experiments.speech.trained_models import SpeechModel, load_model, trained_model
from pyromodels.experiments.speech.training import SpeechInference, SpeechTraining
from pyromodels.registry import DYNAMICS, NOISES


@dataclass(frozen=True)
class EnhancementModelSpec:
    """A prior of clean speech, and a model of the noise.

    Args:
        prior: a dynamical model whose frames depend on each other through latents alone, with
            keyword arguments; {weights = PATH} takes a trained one, as `SpeechModelSpec`.
        size: of its networks.
        epochs: most epochs of training; a prior that was trained before is found again.
        max_seconds: of that training; None: as long as it takes.
        noise: nmf, each sequence its own; or a network: lv, no, nolv.
        gain: whether speech is as loud as it is in every frame; None: beside nmf.
    """

    prior: Plain | str = "rvae"
    size: str = "small"
    epochs: int = 20
    max_seconds: float | None = None
    noise: Plain = field(default_factory=lambda: {"name": "nmf"})
    gain: bool | None = None

    def __post_init__(self) -> None:
        """Check names now, before any data is read."""
        table = self.table
        if "weights" not in table and table.get("name") not in DYNAMICS.names():
            raise SpecError(
                f"model.prior: {unknown('prior', given=table.get('name'), known=DYNAMICS)}"
            )
        if self.gain is None:
            object.__setattr__(self, "gain", not self.noise_is_network)
        if self.gain and self.noise_is_network:
            given = f"gain = true beside {self.noise['name']}, a network for any sequence"
            raise SpecError(mismatch("model", given=given, expected="noise = \"nmf\""))

    @property
    def table(self) -> dict[str, Any]:
        """The prior's."""
        return {"name": self.prior} if isinstance(self.prior, str) else dict(self.prior)

    @property
    def noise_is_network(self) -> bool:
        """Whether the noise model is one for all sequences, to be trained."""
        return not NOISES[self.noise["name"]].of_sequences

    @property
    def speech(self) -> SpeechModelSpec:
        """The prior, as `train dvae` has it."""
        table = self.table
        if "weights" in table:
            return SpeechModelSpec(weights=table["weights"])
        return SpeechModelSpec(prior=table, size=self.size)

    def trained(
        self, data: SpeechData | None, seed: int, device: str, *, resume: bool
    ) -> SpeechModel:
        """Return the prior, loaded, found or trained."""
        spec = self.speech
        if spec.weights is not None:
            found = load_model(Path(spec.weights))
            return found._replace(prior=found.prior.to(device))
        if data is None:
            hint = "Give a prior that is trained: model.prior = {weights = ...}."
            expected = "recordings of clean speech"
            raise SpecError(mismatch("data.recordings", given="none", expected=expected, hint=hint))
        longest = math.inf if self.max_seconds is None else self.max_seconds
        options = SpeechInference(epochs=self.epochs, max_seconds=longest)
        training = SpeechTraining(spec, options, seed)
        return trained_model(training, data, device=device, resume=resume)


def of_spectra(model: SpeechModel) -> DynamicalPrior:
    """Return a prior of powers as one of complex spectra."""
    emission = model.prior.emission
    if not isinstance(emission, Spectral):
        given = type(emission).__name__
        raise SpecError(mismatch("model.prior", given=given, expected="one of powers"))
    return model.prior.with_emission(Complex.of(emission)).eval()
