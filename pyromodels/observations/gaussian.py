"""Gaussian observations of a projection of their source, of known covariance up to a scale."""

import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.chain import GaussianChain
from pyromodels.dynamics.base import SourcePrior
from pyromodels.errors import misshapen
from pyromodels.observations.base import ObservationLaw
from pyromodels.observations.detector import Detector
from pyromodels.registry import OBSERVATIONS


@OBSERVATIONS.register("gaussian")
class GaussianObservations(ObservationLaw):
    r"""p(o_tk | w_tk = n, s) = N(o_tk; P_k s_tn, Phi_tk), P a matrix (eq. 3.3, note 2).

    Args:
        prior: of the sources that are observed.
        projection: P, shape (X, D), or one P_k for each observation slot, shape (K, X, D); None is
            the prior's own (positions of a linear prior), or the identity. A row reads one block of
            the prior's coordinates.
        noise_scale: see `ObservationLaw`.

    Raises:
        ShapeError: for a projection of another number of coordinates.
        ValueError: for a row that reads several blocks.

    Example:
        >>> from pyromodels.dynamics.linear import LinearGaussian
        >>> law = GaussianObservations(LinearGaussian(num_coordinates=1))
        >>> law.project(torch.tensor([2.0, 0.5]))  # position 2, velocity 0.5
        tensor([[2.]])
    """

    contract_specs = ({}, {"noise_scale": 2.0})

    def __init__(
        self, prior: SourcePrior, *, projection: Tensor | None = None, noise_scale: float = 1.0
    ) -> None:
        super().__init__(noise_scale=noise_scale)
        if projection is None:
            projection = getattr(prior, "projection", torch.eye(prior.source_dim))
        if projection.dim() not in (2, 3) or projection.shape[-1] != prior.source_dim:
            expected = f"(X, D) or (K, X, D) with D = {prior.source_dim}"
            raise misshapen("projection", projection.shape, expected)
        if (projection.unflatten(-1, (-1, prior.block_dim)).any(-1).sum(-1) > 1).any():
            raise ValueError(
                "projection: a row reads several blocks of the prior's coordinates, so that q(s) "
                f"would not factorise; give each row one block of {prior.block_dim} coordinates"
            )
        self.num_features, self.block_dim = projection.shape[-2], prior.block_dim
        self.register_buffer(
            "projection", projection if projection.dim() == 3 else projection[None]
        )

    def of(self, prior: SourcePrior) -> "GaussianObservations":
        """Return the law of what another prior's own projection sees, of the same noise."""
        scale = self.log_noise_scale.exp().item()
        return GaussianObservations(prior, noise_scale=scale)

    def detector(self) -> Detector:
        """Return one of boxes, which observations are unless a model says otherwise."""
        return Detector()

    def project(self, s: Tensor) -> Tensor:
        """Return P_k s, shape (*, D) -> (*, K, X), K = 1 where all slots share one P."""
        return torch.einsum("...d,kxd->...kx", s, self.projection.to(s))

    def moments(self, sources: GaussianChain) -> tuple[Tensor, Tensor]:
        """Return E[P s] and diag(P V P'), each (B, T, K or 1, N, X)."""
        projection = self._blocks(sources.loc_blocks)
        mean = torch.einsum("kxgi,bntgi->btknx", projection, sources.loc_blocks)
        squared = projection.unsqueeze(-1) * projection.unsqueeze(-2)  # (K, X, G, d, d)
        return mean, torch.einsum("kxgij,bntgij->btknx", squared, sources.covariance)

    def pseudo_observations(
        self, batch: MixtureBatch, assigned: Tensor
    ) -> tuple[Tensor, Tensor]:
        r"""Return \sum_k eta P' Phi^{-1} P and \sum_k eta P' Phi^{-1} o, as each source sees them.

        Shapes (B, N, T, G, d, d) and (B, N, T, G, d).
        """
        projection = self._blocks(assigned)
        precision = assigned.unsqueeze(-1) / self.variance(batch).unsqueeze(-2)  # (B, T, K, N, X)
        information = precision * batch.observations.unsqueeze(-2)
        if len(projection) == 1:
            precision = precision.sum(2, keepdim=True)
            information = information.sum(2, keepdim=True)
        squared = projection.unsqueeze(-1) * projection.unsqueeze(-2)  # (K, X, G, d, d)
        return (
            torch.einsum("btknx,kxgij->bntgij", precision, squared),
            torch.einsum("btknx,kxgi->bntgi", information, projection),
        )

    def _blocks(self, like: Tensor) -> Tensor:
        """P by blocks of the prior, shape (K, X, G, d)."""
        return self.projection.to(like).unflatten(-1, (-1, self.block_dim))
