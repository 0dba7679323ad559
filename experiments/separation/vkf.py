"""The variational Kalman filter of spectra: sources that walk at random, told apart by MixDVAE."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.errors import check_positive
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.mixture.updates import AssignmentUpdate, ProcessNoiseUpdate, SourceUpdate
from pyromodels.inference.mixture.vem import VEM
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.observations.spectra import ComplexSpectra


@dataclass(frozen=True)
class Walks:
    r"""p(s_n): either part of every bin a random walk, whose noise variational EM learns.

        s_1,nf ~ N_c(0, \bar P_f),    s_t,nf ~ N(s_{t-1,nf}, Lambda_nf),    Lambda = r^2 \bar P / 2

    \bar P_f is the power of the mixture in bin f, in the mean over its frames, and \bar P in the
    mean over bins as well. Lambda is that of either part, and what it starts with: M sets it to the
    maximum of the bound, bin by bin. E-S is a Kalman smoother of all bins at once. Nothing is known
    of a source but what the first q(w) says of it.

    ======  ===========  =====================  ==================================
    symbol  name         shape                  unit
    ======  ===========  =====================  ==================================
    s       s            (B, N, T, 2 F)         as the mixture; parts side by side
    Lambda               (B, N, 2 F, 1)         squared units of s
    r       process_std  ()                     1
    ======  ===========  =====================  ==================================

    Departure: Lambda is shared over frames, where the thesis has one of every frame, which is
    estimated from a single step.

    Reference: Lin, 2024 (thesis), sections 4.4.5 and 5.4.5.

    Args:
        process_std: r, before the first M step.

    Raises:
        ValueError: where r is not above zero.

    Example:
        >>> mixture = torch.randn(2, 5, 3, dtype=torch.complex64)
        >>> Walks().prior(mixture, num_sources=2).process_std.shape
        torch.Size([2, 2, 6, 1])
    """

    process_std: float = 1.0

    def __post_init__(self) -> None:
        check_positive(self, "process_std")

    def prior(
        self,
        mixture: Tensor,  # complex, shape: (B, T, F)
        num_sources: int,
    ) -> LinearGaussian:
        """Return p(s) of N sources of every mixture, Lambda as it is before the first M step."""
        level = (mixture.abs().square().mean((-2, -1)) / 2 + POWER_FLOOR).sqrt()
        std = (self.process_std * level)[:, None, None, None]
        num_coordinates = 2 * mixture.shape[-1]
        std = std.expand(-1, num_sources, num_coordinates, 1)
        return LinearGaussian(num_coordinates=num_coordinates, order=1, process_std=std)

    def anchor(
        self,
        mixture: Tensor,  # complex, shape: (B, T, F)
        num_sources: int,
    ) -> Anchor:  # fields of shape (B, N, 2 F)
        """Return p(s_1)."""
        power = mixture.abs().square().mean(-2) / 2 + POWER_FLOOR
        variance = power.repeat_interleave(2, -1).unsqueeze(1).expand(-1, num_sources, -1)
        return Anchor(torch.zeros_like(variance), variance)


POWER_FLOOR = 1e-12
"""Of a variance, in units of power, for digital silence."""


def kalman_em(
    walks: Walks,
    batch: MixtureBatch,
    share: Tensor,  # q(w) to start with, shape: (B, T, F, N)
    *,
    damping: float = 1.0,
) -> VEM:
    """Return variational EM of walks, E-S, E-W and M in this order.

    Args:
        walks: p(s).
        batch: mixtures, see `spectra_batch`, with the anchor that the walks say.
        share: where the first E-S takes its observations from.
        damping: see `VEM`.
    """
    prior = walks.prior(torch.view_as_complex(batch.observations), share.shape[-1])
    model = MixDVAE(prior, ComplexSpectra(prior))
    guide = MeanField(model, batch)
    guide.responsibilities = share
    noise = ProcessNoiseUpdate(prior.process_std.detach(), strength=0.0, by_source=True)
    return VEM(model, guide, [SourceUpdate(), AssignmentUpdate(), noise], damping=damping)
