"""Noise of low rank: a few spectra, each as loud as it is in every frame."""

import torch
from torch import Tensor, nn

from pyromodels.errors import mismatch, misshapen
from pyromodels.noise.base import FLOOR, NoiseModel, Sizes, quiet_level
from pyromodels.registry import NOISES


@NOISES.register("nmf")
class LowRankNoise(NoiseModel):
    r"""v_n,tf = \sum_k h_tk w_kf: non-negative matrix factorisation, each sequence its own.

    ======  ============  ===========  ============
    symbol  name          shape        unit
    ======  ============  ===========  ============
    w       spectra       (B, K, F)    1, sum one
    h       activations   (B, T, K)    of the power
    ======  ============  ===========  ============

    Reference: Leglaive, Alameda-Pineda, Girin and Horaud, 2020, A recurrent variational
    autoencoder for speech enhancement.

    Args:
        sizes: B, T and F are read.
        rank: K.

    Example:
        >>> noise = LowRankNoise(Sizes(2, 5, 9, 1), rank=3)
        >>> noise(torch.ones(2, 5, 9), torch.zeros(2, 5, 1), torch.ones(2, 5).bool()).shape
        torch.Size([2, 5, 9])
    """

    of_sequences = True

    def __init__(self, sizes: Sizes, *, rank: int = 8) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(mismatch("rank", given=rank, expected="at least 1"))
        self.log_spectra = nn.Parameter(torch.zeros(sizes.num_sequences, rank, sizes.num_bins))
        shape = (sizes.num_sequences, sizes.num_frames, rank)
        self.log_activations = nn.Parameter(torch.zeros(shape))

    @property
    def spectra(self) -> Tensor:
        """w, shape (B, K, F)."""
        return self.log_spectra.exp()

    @property
    def activations(self) -> Tensor:
        """h, shape (B, T, K)."""
        return self.log_activations.exp()

    def forward(self, power: Tensor, z: Tensor, mask: Tensor) -> Tensor:
        """Return h w."""
        if power.shape[:2] != self.log_activations.shape[:2]:
            raise misshapen("power", power.shape, f"{tuple(self.log_activations.shape[:2])} + (F,)")
        return self.activations @ self.spectra

    @torch.no_grad()
    def begin(self, power: Tensor, mask: Tensor) -> None:
        """Start at the level of quiet frames, with a little chance: equal spectra stay equal."""
        level = quiet_level(power, mask).clamp_min(FLOOR)
        rank = self.log_spectra.shape[1]
        spread = torch.rand(len(power), rank, power.shape[-1]).to(power) + 0.5
        self.put(level.unsqueeze(1) * spread, torch.full_like(self.log_activations, 1 / rank))

    @torch.no_grad()
    def put(self, spectra: Tensor, activations: Tensor) -> None:
        """Set w and h, scaled so that every spectrum sums to one."""
        total = spectra.sum(-1).clamp_min(1e-20)
        self.log_spectra.copy_((spectra / total.unsqueeze(-1)).clamp_min(1e-20).log())
        self.log_activations.copy_((activations * total.unsqueeze(1)).clamp_min(1e-20).log())
