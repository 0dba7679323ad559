"""Complex spectra of mixtures: each bin of a frame is an observation of one source's bin."""

import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.chain import GaussianChain
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.base import SourcePrior
from pyromodels.errors import ShapeError, mismatch
from pyromodels.observations.base import ObservationLaw
from pyromodels.registry import OBSERVATIONS


@OBSERVATIONS.register("complex_spectra")
class ComplexSpectra(ObservationLaw):
    r"""p(o_tf | w_tf = n, s) = N_c(o_tf; s_n,tf, phi_tf), parts of a bin side by side      (5.2)

    K = F observations a frame, X = 2 (real and imaginary part), slot f sees bin f of its source:
    D = 2 F. The batch's variance is that of either part, phi / 2. Everything is elementwise: no
    matrix of the size of a spectrum, whichever source.

    Reference: Lin, 2024 (thesis), chapter 5 and eq. A.34-A.37.

    Args:
        prior: of the sources, of complex spectra.
        noise_scale: see `ObservationLaw`.

    Raises:
        ShapeError: for a prior of an odd number of coordinates.

    Example:
        >>> from pyromodels.dynamics.vae import VAE
        >>> law = ComplexSpectra(VAE(source_dim=3, emission="complex"))
        >>> law.project(torch.arange(6.0)).shape  # F = 3
        torch.Size([3, 2])
    """

    num_features = 2
    contract_specs = ({}, {"noise_scale": 2.0})

    def __init__(self, prior: SourcePrior, *, noise_scale: float = 1.0) -> None:
        super().__init__(noise_scale=noise_scale)
        if prior.source_dim % 2:
            expected = "an even number, two for each bin"
            raise ShapeError(mismatch("source_dim", given=prior.source_dim, expected=expected))
        self.block_dim = prior.block_dim

    def project(self, s: Tensor) -> Tensor:
        """Return the bins of a frame, shape (*, 2 F) -> (*, F, 2)."""
        return s.unflatten(-1, (-1, 2))

    def moments(self, sources: GaussianChain) -> tuple[Tensor, Tensor]:
        """Return m and V of every bin, each (B, T, F, N, 2)."""
        variance = sources.covariance.diagonal(dim1=-2, dim2=-1).flatten(-2)
        return self.project(sources.loc).movedim(1, 3), self.project(variance).movedim(1, 3)

    def pseudo_observations(
        self, batch: MixtureBatch, assigned: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return eta / Phi and eta o / Phi of both parts of every bin, in blocks of the prior."""
        precision = assigned.unsqueeze(-1) / self.variance(batch).unsqueeze(-2)  # (B, T, F, N, 2)
        information = precision * batch.observations.unsqueeze(-2)
        precision, information = (
            part.movedim(3, 1).flatten(-2).unflatten(-1, (-1, self.block_dim))
            for part in (precision, information)
        )
        return torch.diag_embed(precision), information


def spectra_batch(
    mixture: Tensor,  # complex, shape: (B, T, F)
    num_sources: int,
    *,
    ratio: float = 0.03,
    floor: float = 1e-12,
    anchor: Anchor | None = None,
) -> MixtureBatch:
    r"""Return complex spectra as observations, phi_tf = ratio |o_tf|^2 + floor.

    Args:
        mixture: o.
        num_sources: N.
        ratio: of phi to the power of a bin; the published code has 0.03, the thesis 1e-4.
        floor: of phi, in units of power, for digital silence.
        anchor: p(s_1), fields of shape (B, N, 2 F), for priors that need one.
    """
    observations = torch.view_as_real(mixture)
    phi = ratio * observations.square().sum(-1, keepdim=True) + floor
    mask = torch.ones(mixture.shape, dtype=torch.bool, device=mixture.device)
    variance = (phi / 2).expand_as(observations)
    return MixtureBatch(observations, mask, variance, anchor, num_sources=num_sources)
