"""What the `[model]` of a speech spec says: a prior of spectrograms, and the transform."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pyromodels.audio.stft import STFT
from pyromodels.errors import SpecError, mismatch, unknown
from pyromodels.experiments.harness.plain_tables import Plain
from pyromodels.registry import DYNAMICS


@dataclass(frozen=True)
class SpeechModelSpec:
    """A model of power spectrograms.

    Args:
        prior: a dynamical model, with keyword arguments of its constructor beside the `size`.
        size: of its networks, "small", "paper", or another of the prior's `sizes`.
        emission: of its frames; what the networks read, "power", as published, or "log_power", is
            its `sees`.
        window: of the short-time Fourier transform, samples.
        hop: samples.
        weights: trained ones, in place of all that, which is None then: the folder of a run or of
            `train dvae`, a `.safetensors`, or published weights (`.pt`).

    Raises:
        SpecError: a prior that is none of spectrograms, or an unknown size.
    """

    prior: Plain | None = field(default_factory=lambda: {"name": "vae"})
    size: str | None = "small"
    emission: Plain | None = field(
        default_factory=lambda: {"name": "spectral", "sees": "log_power"}
    )
    window: int | None = 1024
    hop: int | None = 256
    weights: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no model can be made of; beside weights nothing else is said."""
        if self.weights is None:
            self.prior_table()
            return
        for other in ("prior", "size", "emission", "window", "hop"):
            object.__setattr__(self, other, None)

    @property
    def stft(self) -> STFT:
        """The transform of the spectrograms."""
        return STFT(self.window, self.hop)

    @property
    def prior_name(self) -> str:
        """The registry key of the prior, or the file of its weights."""
        return self.prior["name"] if self.weights is None else Path(self.weights).stem

    def feeds_back(self) -> bool:
        """Whether the model is fed with its past: then scheduled sampling is something to it."""
        with torch.random.fork_rng(devices=[]):
            return DYNAMICS.build(self.prior_table()).feeds_back

    def prior_table(self) -> dict[str, Any]:
        """Return the registry's spec of the prior."""
        name = self.prior["name"]
        sizes = getattr(DYNAMICS[name], "sizes", {})
        if not sizes:
            expected = f"one of {', '.join(speech_priors())}"
            raise SpecError(mismatch("model.prior", given=name, expected=expected))
        if self.size not in sizes:
            raise SpecError(unknown(f"size of {name}", given=self.size, known=sizes))
        said = {key: value for key, value in self.prior.items() if key != "name"}
        emission = dict(self.emission)
        return {"name": name, "source_dim": self.stft.num_bins, "emission": emission,
                **sizes[self.size], **said}


def speech_priors() -> list[str]:
    """Return the names of the models that have sizes for spectrograms."""
    return [name for name in DYNAMICS if getattr(DYNAMICS[name], "sizes", {})]
