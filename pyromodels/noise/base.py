"""What a noise model states: the variance of every bin of the noise."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from pyromodels.batch import SequenceBatch
from pyromodels.emissions.complex import power_of

FLOOR = 1e-10
"""Power that digital silence is taken to have: its noise would vanish, and what divides by it."""


class Sizes(NamedTuple):
    """What a noise model is made for."""

    num_sequences: int  # B
    num_frames: int  # T
    num_bins: int  # F
    latent_dim: int  # L


class NoiseModel(nn.Module, ABC):
    r"""n_t ~ N_c(0, v_n,t), v_n a function of what the model reads: p_t of the thesis.

    Reference: Lin, 2024 (thesis), eq. 6.8 and 6.10.
    """

    of_sequences: ClassVar[bool] = False
    """Whether it has parameters for every sequence of its data, rather than a network for any."""
    relative: bool = False
    """Whether v_n is told relative to the level of quiet frames, and an encoder spared that."""

    @abstractmethod
    def forward(
        self,
        power: Tensor,  # |x|^2 of what was heard, shape: (B, T, F)
        z: Tensor,  # latents of the speech, shape: (*, B, T, L)
        mask: Tensor,  # True where a frame is there, shape: (B, T)
    ) -> Tensor:  # v_n, of the power, shape: broadcastable to (*, B, T, F)
        """Return the variance of the noise at every bin."""

    def begin(self, power: Tensor, mask: Tensor) -> None:
        """Start where a first look at the noisy power puts the noise; networks stay as they are."""


def quiet_level(
    power: Tensor,  # shape: (B, T, F)
    mask: Tensor,  # shape: (B, T)
    quantile: float = 0.2,
) -> Tensor:  # shape: (B, F)
    """Return how loud every bin is when it is quiet, taken for the noise; speech has pauses.

    A power of a complex Gaussian is exponential: its quantile is turned into its mean.
    """
    missing = torch.where(mask.unsqueeze(-1), power, torch.nan)
    level = missing.nanquantile(quantile, dim=1)
    return level / -math.log1p(-quantile)


def subtracted(batch: SequenceBatch) -> SequenceBatch:
    """Return what is left once the level of quiet frames is taken off, at least a hundredth."""
    power = power_of(batch.x)
    level = 1.5 * quiet_level(power, batch.mask).unsqueeze(1)
    share = (1 - level / power.clamp_min(1e-12)).clamp(0.01, 1)
    return SequenceBatch(batch.x * share.sqrt().repeat_interleave(2, -1), batch.mask)
