"""Marginal data association: which detection is whose, when each source fires at most once a frame."""

import torch
from torch import Tensor

FORBIDDEN = -1e4
"""Log weight of an impossible pairing: finite, so that differences of it stay numbers."""


def _log_sum_of_others(x: Tensor) -> Tensor:
    """log(1 + sum of exp over the other entries of the last dimension), for each entry."""
    size = x.shape[-1]
    others = x.unsqueeze(-2).expand(*x.shape, size).clone()
    others.diagonal(dim1=-2, dim2=-1).fill_(FORBIDDEN)
    return torch.nn.functional.pad(others, (0, 1)).logsumexp(-1)


def association_marginals(
    log_odds: Tensor,  # of "k comes from n" against "n missed and k clutter", shape: (*, K, N)
    mask: Tensor,  # True where detection k is there, shape: (*, K)
    num_iterations: int = 15,
) -> Tensor:  # p(w_k = n), the last column clutter, shape: (*, K, N + 1)
    """Marginals of joint data association by loopy belief propagation, in the log domain.

    The sum over all one-to-one pairings is exponential; belief propagation on the bipartite graph is close
    to it, always converges, and is a handful of tensor operations for all sequences at once.

    Reference: Williams and Lau, 2014, Approximate evaluation of marginal association probabilities with
    belief propagation.
    """
    log_odds = torch.where(mask.unsqueeze(-1), log_odds.clamp_min(FORBIDDEN), FORBIDDEN)
    to_source = torch.zeros_like(log_odds)
    for _ in range(num_iterations):
        to_detection = log_odds - _log_sum_of_others((log_odds + to_source).mT).mT
        to_source = -_log_sum_of_others(to_detection)
    beliefs = torch.nn.functional.pad(to_detection, (0, 1))
    return beliefs.softmax(-1) * mask.unsqueeze(-1)
