"""What the `[model]` of an enhancement spec says: a prior of clean speech, and the noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from pyromodels.errors import SpecError, mismatch, unknown
from pyromodels.experiments.datasets.speech.recordings import SpeechData
from pyromodels.experiments.harness.plain_tables import Plain
from pyromodels.experiments.speech.model_spec import SpeechModelSpec
from pyromodels.experiments.speech.trained_models import SpeechModel, load_or_train
from pyromodels.experiments.speech.training import SpeechInference
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
        files: pattern of the names of the recordings of speech that it learns from, e.g.
            "libri_*": those of one corpus, or one room.
        noise: nmf, each sequence its own; or a network: lv, no, nolv.
        gain: whether speech is as loud as it is in every frame; None: beside nmf.
    """

    prior: Plain | str = "rvae"
    size: str = "small"
    epochs: int = 20
    max_seconds: float | None = None
    files: str = "*"
    noise: Plain = field(default_factory=lambda: {"name": "nmf"})
    gain: bool | None = None

    def __post_init__(self) -> None:
        """Check names now, before any data is read."""
        table = self.table
        if "weights" not in table and table.get("name") not in DYNAMICS.names():
            raise SpecError(
                f"model.prior: {unknown('prior', given=table.get('name'), known=DYNAMICS)}"
            )
        if "weights" in table and self.files != "*":
            given = f"{self.files!r} beside weights, which have learnt already"
            raise SpecError(mismatch("model.files", given=given, expected="'*'"))
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
        longest = math.inf if self.max_seconds is None else self.max_seconds
        options = SpeechInference(epochs=self.epochs, max_seconds=longest)
        data = data and data.named(self.files)
        return load_or_train(self.speech, data, options, seed, device, resume=resume)
