"""What the `[model]` of a separation spec says: a prior for each kind of source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pyromodels.audio.stft import STFT
from pyromodels.dynamics.by_source import BySource
from pyromodels.errors import SpecError, mismatch, unknown
from pyromodels.experiments.datasets.mixtures.mixtures import MixtureData
from pyromodels.experiments.harness.plain_tables import Plain
from pyromodels.experiments.separation.vkf import Walks
from pyromodels.experiments.speech.model_spec import SpeechModelSpec
from pyromodels.experiments.speech.trained_models import (
    SpeechModel,
    load_or_train,
    of_spectra,
)
from pyromodels.experiments.speech.training import SpeechInference
from pyromodels.registry import DYNAMICS


@dataclass(frozen=True)
class SeparationModelSpec:
    """Priors of power spectrograms, one for each kind of source.

    Args:
        prior: of every kind that `priors` leaves out: a dynamical model with keyword arguments.
            With "linear" all sources walk at random, see `Walks`, and nothing is trained.
        start_prior: beside "linear", what the start "encoders" hears with in its place.
        priors: kind -> prior; a table {weights = PATH} takes trained ones, as `SpeechModelSpec`.
        size: of their networks.
        epochs: most epochs of training; priors that were trained before are found again.
        max_seconds: of the training of each; None: as long as it takes.
        fraction: of the files of the recordings that they learn from, drawn at random by the seed
            of the run, a smaller part within a larger one.
    """

    prior: Plain | str = "vae"
    start_prior: Plain | str | None = None
    priors: Plain = field(default_factory=dict)
    size: str = "small"
    epochs: int = 20
    max_seconds: float | None = None
    fraction: float = 1.0

    def __post_init__(self) -> None:
        """Check names now, before any data is read."""
        if not 0 < self.fraction <= 1:
            expected = "a number in (0, 1]"
            raise SpecError(mismatch("model.fraction", given=self.fraction, expected=expected))
        tables = map(_table, (self.prior, *self.priors.values()))
        if self.fraction < 1 and any("weights" in table for table in tables):
            given = f"{self.fraction} beside weights, which have learnt already"
            raise SpecError(mismatch("model.fraction", given=given, expected="1"))
        linear = self.walks is not None
        if self.start_prior is not None and not linear:
            expected = "none: model.prior is not linear, and hears the mixture itself"
            given = self.start_prior
            raise SpecError(mismatch("model.start_prior", given=given, expected=expected))
        others = () if linear and self.start_prior is None else ("any other",)
        for kind in (*others, *self.priors):
            self.of(kind)

    @property
    def walks(self) -> Walks | None:
        """The walks of all sources, or None where each has networks of its own."""
        table = _table(self.prior)
        if table.get("name") != "linear":
            return None
        known = ("process_std",)
        said = {key: value for key, value in table.items() if key != "name"}
        if others := set(said) - set(known):
            raise SpecError(f"model.prior: {unknown('key', given=min(others), known=known)}")
        return Walks(**said)

    @property
    def stft(self) -> STFT:
        """The transform."""
        return STFT()

    def of(self, kind: str) -> SpeechModelSpec:
        """Return the model of one kind of source, or what it is heard with where sources walk.

        Raises:
            SpecError: for no prior, and where sources walk and nothing hears them.
        """
        field = "prior" if self.walks is None else "start_prior"
        said = self.priors.get(kind, getattr(self, field))
        if said is None:
            expected = 'a model to hear the mixture with, e.g. "vae", for inference.start=encoders'
            raise SpecError(mismatch("model.start_prior", given="none", expected=expected))
        table = _table(said)
        if "weights" in table:
            return SpeechModelSpec(weights=table["weights"])
        if table.get("name") not in DYNAMICS.names():
            where = f"model.priors.{kind}" if kind in self.priors else f"model.{field}"
            raise SpecError(f"{where}: {unknown('prior', given=table.get('name'), known=DYNAMICS)}")
        return SpeechModelSpec(prior=table, size=self.size)

    def inference(self) -> SpeechInference:
        """Return how the priors are trained."""
        longest = math.inf if self.max_seconds is None else self.max_seconds
        return SpeechInference(epochs=self.epochs, max_seconds=longest)

    def trained(
        self, data: MixtureData, seed: int, device: str, *, resume: bool
    ) -> dict[str, SpeechModel]:
        """Return the prior of every kind, loaded, found or trained."""
        return {
            kind: load_or_train(
                self.of(kind), recordings and recordings.part(self.fraction, seed),
                self.inference(), seed, device, resume=resume,
            )
            for kind, recordings in data.recordings.items()
        }


def training_figures(models: Mapping[str, SpeechModel]) -> dict[str, float]:
    """Return the losses of every prior at its best epoch, nats a frame, and seconds an epoch.

    Nothing is returned of priors whose training is not on record.
    """
    found = {}
    for kind, model in models.items():
        for epoch in model.history:
            if epoch["epoch"] == model.record["best_epoch"]:
                found[f"{kind}/prior_train_loss"] = epoch["train_loss"]
                found[f"{kind}/prior_valid_loss"] = epoch["valid_loss"]
        if model.history:
            each = [epoch["seconds"] for epoch in model.history]
            found[f"{kind}/prior_seconds_per_epoch"] = sum(each) / len(each)
    return found


def _table(said: Plain | str) -> Plain:
    return {"name": said} if isinstance(said, str) else dict(said)


def of_sources(models: Mapping[str, SpeechModel]) -> BySource:
    """Return priors of powers as one prior of complex spectra, a source each."""
    return BySource([of_spectra(model) for model in models.values()]).eval()
