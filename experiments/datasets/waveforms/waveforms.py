"""Mixtures of toy waveforms, made: their law is known, and the score of it exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pyromodels.audio.waveforms import KINDS, WaveformLaw
from pyromodels.errors import check_choice, check_positive, mismatch
from pyromodels.experiments.datasets import DATASETS


class WaveformMixtures(NamedTuple):
    r"""Mixtures :math:`m = \sum_k \alpha_k s_k` of known sources."""

    mixture: Tensor  # m, shape: (B, length)
    sources: Tensor  # s, shape: (B, N, length)
    weights: Tensor  # alpha, shape: (N,)


@DATASETS.register("waveforms")
@dataclass(frozen=True)
class Waveforms:
    """Periodic toy waveforms, drawn from their law and mixed: Frank and Ilse, 2020; made, not read.

    Args:
        kinds: of the sources, in their order: of "sine", "square", "saw" and "triangle".
        num_mixtures: B, test mixtures.
        length: samples of a mixture.
        mix: "mean" of the sources, as in the paper, or their "sum".
        frequencies: "paper", 26 to 4186 Hz, or "released", 26 to 1102 Hz, as its code draws.
        amplitude: least and greatest, equal for one amplitude.
        band_limited: leave out harmonics at half the rate and above.
        seed: of the mixtures.

    Raises:
        ValueError: for unknown or repeated kinds, another mix, or a size below one.

    Example:
        >>> data = Waveforms(num_mixtures=3, length=64)
        >>> data.draw("saw", 5, 100, torch.Generator().manual_seed(0)).shape
        torch.Size([5, 100])
        >>> data.mixtures().sources.shape
        torch.Size([3, 2, 64])
    """

    kinds: tuple[str, ...] = ("sine", "square")
    num_mixtures: int = 20
    length: int = 1024
    mix: Literal["mean", "sum"] = "mean"
    frequencies: Literal["paper", "released"] = "paper"
    amplitude: tuple[float, float] = (0.8, 1.0)
    band_limited: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            given, expected = self.kinds, "one or more kinds, each once"
            raise ValueError(mismatch("kinds", given=given, expected=expected))
        for kind in self.kinds:
            check_choice("kinds", kind, *KINDS)
        check_choice("mix", self.mix, "mean", "sum")
        check_positive(self, "num_mixtures", "length")

    @property
    def law(self) -> WaveformLaw:
        """The law that every kind shares: of periods, phases and amplitudes."""
        low, high = self.amplitude
        return WaveformLaw(self.frequencies, (low, high), self.band_limited)

    @property
    def weights(self) -> Tensor:  # alpha, float32, shape: (N,)
        """What sources are multiplied by in the mixture."""
        share = 1 / len(self.kinds) if self.mix == "mean" else 1.0
        return torch.full((len(self.kinds),), share)

    def draw(
        self,
        kind: str,
        num: int,
        length: int,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:  # shape: (num, length)
        """Draw waveforms of one kind, e.g. to train on; arguments as of `WaveformLaw.draw`."""
        return self.law.draw(kind, num, length, generator, dtype)

    def mixtures(self, dtype: torch.dtype = torch.float32) -> WaveformMixtures:
        """Return the test mixtures, the same at every call."""
        generator = torch.Generator().manual_seed(self.seed)
        parts = [self.draw(kind, self.num_mixtures, self.length, generator, torch.float64)
                 for kind in self.kinds]
        sources, weights = torch.stack(parts, 1), self.weights.double()
        mixture = torch.einsum("n,bnt->bt", weights, sources)
        return WaveformMixtures(mixture.to(dtype), sources.to(dtype), weights.to(dtype))
