"""Complex spectra: frames of a zero-mean circular complex Gaussian, phase included."""

import math
from dataclasses import asdict, dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from pyromodels.distributions.message import Anchor, FrameMessage, GaussianMessage
from pyromodels.distributions.path import diagonal_normal
from pyromodels.emissions.base import Outputs
from pyromodels.emissions.spectral import Spectral, refuse_anchor
from pyromodels.registry import EMISSIONS


@EMISSIONS.register("complex")
@dataclass(frozen=True)
class Complex(Spectral):
    r"""s_t ~ N_c(0, v_t), as real numbers: D = 2 F, the two parts of each bin side by side.

        log p(s_t | v_t) = \sum_f -log(pi v_tf) - |s_tf|^2 / v_tf

    Networks see the power |s_t|^2 of the frames before and say log v_t, as those of `Spectral` do
    and with the same parameters: weights that were trained on powers are weights of this. Phases
    are uniform. Given its past a frame is Gaussian, so that a source can be one of `MixDVAE`.

    Reference: Lin, 2024 (thesis), eq. 5.1 and appendix A.3.

    Example:
        >>> from pyromodels.dynamics.vae import VAE
        >>> prior = VAE(source_dim=33, emission="complex")
        >>> prior.sample_sources("s", 5, batch_shape=torch.Size([2])).shape
        torch.Size([2, 5, 66])
    """

    has_gaussian_message: ClassVar[bool] = True
    expects_mean: ClassVar[bool] = False

    @classmethod
    def of(cls, powers: Spectral) -> "Complex":
        """Return the law of spectra whose powers follow this law."""
        return cls(**asdict(powers))

    def frame_dim(self, source_dim: int) -> int:
        """Return 2 F."""
        return 2 * source_dim

    def iterate(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Return a frame of the expected power, E|s|^2 = |m|^2 + V.

        |m|^2 alone is smaller by what is not known of s, and a model of powers that is told of it
        takes a source for quieter at every sweep.
        """
        return (mean.square() + variance).sqrt()

    def relative(self, s: Tensor, previous: Tensor | None) -> Tensor:
        """Return what networks see of a power."""
        return super().relative(power_of(s), None)

    def conditionals(
        self, outputs: Outputs, history: Tensor, anchor: Anchor | None
    ) -> dist.TorchDistribution:
        """Return p(s_t | past) of every frame."""
        refuse_anchor(anchor)
        deviation = self.deviation(outputs)
        return diagonal_normal(torch.zeros_like(deviation), deviation)

    def expected(self, outputs: Outputs, previous: Tensor | None) -> Tensor:
        """Return a frame of the expected power, of phase zero: networks see its power alone."""
        variance = self.log_variance(outputs).exp()
        return torch.stack((variance.sqrt(), torch.zeros_like(variance)), -1).flatten(-2)

    def draw(self, outputs: Outputs, noise: Tensor, previous: Tensor | None) -> Tensor:
        """Return s_t."""
        return self.deviation(outputs) * noise

    def message(self, outputs: Outputs, history: Tensor, anchor: Anchor) -> GaussianMessage:
        """Return N(0, v_t / 2) of either part of every bin, which nothing but v ties to the past.
        """
        refuse_anchor(anchor)
        variance = self.deviation(outputs).square()
        return FrameMessage.of(torch.zeros_like(variance), variance)

    def deviation(self, outputs: Outputs) -> Tensor:  # shape: (*, 2 F)
        """Return that of either part of every bin."""
        half = 0.5 * (self.log_variance(outputs) - math.log(2))
        return half.exp().repeat_interleave(2, -1)


def spectra_of(
    s: Tensor,  # parts side by side, shape: (*, 2 F)
) -> Tensor:  # complex, shape: (*, F)
    """Return s as complex numbers."""
    return torch.view_as_complex(s.unflatten(-1, (-1, 2)).contiguous())


def power_of(
    s: Tensor,  # parts side by side, shape: (*, 2 F)
) -> Tensor:  # shape: (*, F)
    """Return |s|^2."""
    return s.unflatten(-1, (-1, 2)).square().sum(-1)
