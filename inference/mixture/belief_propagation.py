"""Marginal data association: whose is a detection, when each source fires at most once a frame."""

import torch
from torch import Tensor

LARGEST_LOG_ODDS = 600.0
"""Larger log odds count as this one: sums and products of such odds still fit in a double."""


def association_marginals(
    log_odds: Tensor,  # of "k comes from n" against "n missed and k clutter", shape: (*, K, N)
    mask: Tensor,  # True where detection k is there, shape: (*, K)
    num_iterations: int = 15,
) -> Tensor:  # p(w_k = n), the last column clutter, shape: (*, K, N + 1)
    """Marginals of joint data association by loopy belief propagation.

    The sum over all one-to-one pairings is exponential; belief propagation on the bipartite graph
    is close to it, always converges, is exact where K = 1 or N = 1, and takes a handful of tensor
    operations for all sequences at once.

    Messages are odds in double precision. They only meet in sums of positive terms ("all others"
    is a product with 1 - I, never a difference), so that every one keeps its relative precision
    from exp(-600) to exp(600), as it would in the log domain.

    Reference: Williams and Lau, 2014, Approximate evaluation of marginal association probabilities
    with belief propagation.
    """
    odds = log_odds.double().clamp_max(LARGEST_LOG_ODDS).exp() * mask.unsqueeze(-1)
    other_detections, other_sources = (1 - torch.eye(size).to(odds) for size in odds.shape[-2:])
    to_source = torch.ones_like(odds)
    to_detection = odds
    for _ in range(num_iterations):
        to_detection = odds / (1 + other_detections @ (odds * to_source))
        to_source = 1 / (1 + to_detection @ other_sources)
    beliefs = torch.nn.functional.pad(to_detection, (0, 1), value=1.0)
    beliefs = beliefs / beliefs.sum(-1, keepdim=True)
    return (beliefs * mask.unsqueeze(-1)).to(log_odds.dtype)
