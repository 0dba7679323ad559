"""Observations of a MixDVAE as information about its sources."""

import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.models.mixdvae import MixDVAE


def pseudo_observations(
    model: MixDVAE,
    batch: MixtureBatch,
    assigned: Tensor,  # eta, shape: (B, T, K, N)
) -> tuple[Tensor, Tensor]:  # precision (B, N, T, G, d, d), information (B, N, T, G, d)
    r"""Return \sum_k eta P' Phi^{-1} P and \sum_k eta P' Phi^{-1} o, as each source sees them."""
    projection = model.projection.to(assigned)
    projection = projection.unflatten(-1, (-1, model.prior.block_dim))
    precision = assigned.unsqueeze(-1) / model.variance(batch).unsqueeze(-2)  # (B, T, K, N, X)
    information = precision * batch.observations.unsqueeze(-2)
    if len(projection) == 1:
        precision, information = precision.sum(2, keepdim=True), information.sum(2, keepdim=True)
    squared = projection.unsqueeze(-1) * projection.unsqueeze(-2)  # (K, X, G, d, d)
    return (
        torch.einsum("btknx,kxgij->bntgij", precision, squared),
        torch.einsum("btknx,kxgi->bntgi", information, projection),
    )
