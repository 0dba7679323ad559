"""Power spectrograms: frames of a zero-mean circular complex Gaussian."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from pyromodels.distributions.message import Anchor
from pyromodels.distributions.spectral import PowerSpectrum
from pyromodels.emissions.base import DecodedEmission, Outputs
from pyromodels.errors import check_positive, mismatch
from pyromodels.registry import EMISSIONS


@EMISSIONS.register("spectral")
@dataclass(frozen=True)
class Spectral(DecodedEmission):
    r"""Powers |s_t|^2 of s_t ~ N_c(0, v_t).

    A trajectory is a power spectrogram (*, T, F), linear, not in decibels. With `sees="power"`, as
    published, networks see it as it is and their output is log v_t. Over the thirteen decades of
    peak-normalised speech all they see and say is of order one in logarithms (`sees="log_power"`):

        x_t = (log(P_t + floor) - centre) / spread,     log v_t = centre + spread * output_t

    Reference: Lin, 2024 (thesis), eq. 7.3.

    Args:
        sees: "power" or "log_power".
        floor: added before the logarithm, in units of power.
        centre: a usual log power.
        spread: a usual deviation from it.

    Example:
        >>> import torch
        >>> Spectral("log_power").see(torch.ones(5, 513)).abs().max() < 1e-6
        tensor(True)
    """

    outputs: ClassVar[tuple[str, ...]] = ("log_variance",)
    takes_anchor: ClassVar[bool] = False
    contract_specs: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"sees": "log_power"})

    sees: Literal["power", "log_power"] = "power"
    floor: float = 1e-8
    centre: float = 0.0
    spread: float = 4.0

    def __post_init__(self) -> None:
        if self.sees not in ("power", "log_power"):
            raise ValueError(
                mismatch("sees", given=repr(self.sees), expected="power or log_power")
            )
        check_positive(self, "floor", "spread")

    def see(self, s: Tensor, history: Tensor | None = None) -> Tensor:
        """Return x of a whole spectrogram."""
        return self.relative(s, None)

    def relative(self, s: Tensor, previous: Tensor | None) -> Tensor:
        """Return x_t; nothing is relative to the frame before."""
        if self.sees == "power":
            return s
        return ((s + self.floor).log() - self.centre) / self.spread

    def log_variance(
        self,
        outputs: Outputs,  # (*, F)
    ) -> Tensor:  # shape: (*, F)
        """Return log v."""
        (output,) = outputs
        return output if self.sees == "power" else self.centre + self.spread * output

    def conditionals(
        self, outputs: Outputs, history: Tensor, anchor: Anchor | None
    ) -> PowerSpectrum:
        """Return p(|s_t|^2 | past) of every frame."""
        refuse_anchor(anchor)
        return PowerSpectrum(self.log_variance(outputs), validate_args=False)

    def expected(self, outputs: Outputs, previous: Tensor | None) -> Tensor:
        """Return v_t."""
        return self.log_variance(outputs).exp()

    def draw(self, outputs: Outputs, noise: Tensor, previous: Tensor | None) -> Tensor:
        """Return |s_t|^2 at the same quantile as the noise."""
        return PowerSpectrum.from_noise(self.log_variance(outputs).exp(), noise)


def refuse_anchor(anchor: Anchor | None) -> None:
    """Raise `ValueError` where a spectrogram is told how to start."""
    if anchor is not None:
        hint = "A spectrogram starts wherever its model says."
        raise ValueError(mismatch("anchor", given="an Anchor", expected=None, hint=hint))
