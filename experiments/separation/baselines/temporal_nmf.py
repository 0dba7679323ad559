"""Non-negative matrix factorisation whose activations go on from frame to frame."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from pyromodels.experiments.separation.baselines.nmf import NMF, divergence


class TemporalNMF:
    r"""`NMF` with a price on steps of the activations: a note or a vowel lasts for many frames.

        D_KL(X || W H) + \sum_k lambda_k \sum_t (h_kt - h_k,t-1)^2,
        lambda_k = continuity * \bar h_k / \bar{h_k^2}

    Means are over the frames of a mixture, so that faint and loud atoms pay alike, and a louder
    mixture is taken apart as a softer one. Dictionaries are those of `NMF`.

    Departure: lambda_k is held at the activations of half of the updates, made without the price;
    there it is a function of h, and the multiplicative updates need not descend. Dictionaries are
    learnt without it.

    Reference: Virtanen, 2007, Monaural sound source separation by nonnegative matrix factorization
    with temporal continuity and sparseness criteria.

    Args:
        learnt: dictionaries.
        continuity: price of a step as large as an activation, in units of it.
    """

    def __init__(self, learnt: NMF, *, continuity: float = 3.0) -> None:
        self.learnt, self.continuity = learnt, continuity

    def masks(
        self,
        mixture: Tensor,  # complex, shape: (B, T, F)
        updates: int = 150,
    ) -> Tensor:  # shape: (B, N, T, F)
        """Return the share of every source in the modelled power."""
        w, h = self.learnt.activations(mixture, updates // 2)
        h = h.unflatten(1, mixture.shape[:2])
        prices = prices_of(h, self.continuity)
        h = go_on(mixture.abs().movedim(-1, 0), w, h, prices, updates - updates // 2)
        return self.learnt.shares(h.flatten(1), mixture.shape[:2])


def prices_of(
    activations: Tensor,  # H, shape: (K, B, T)
    continuity: float,
) -> Tensor:  # lambda, shape: (K, B, 1)
    """Return what a squared step of every atom costs."""
    power = activations.square().mean(-1, keepdim=True)
    tiny = torch.finfo(power.dtype).tiny
    return continuity * activations.mean(-1, keepdim=True) / power.clamp_min(tiny)


def objective(
    magnitude: Tensor,  # X, shape: (F, B, T)
    dictionary: Tensor,  # W, shape: (F, K)
    activations: Tensor,  # H, shape: (K, B, T)
    prices: Tensor,  # lambda, shape: (K, B, 1)
) -> Tensor:  # shape: ()
    """Return what `go_on` lowers."""
    model = (dictionary @ activations.flatten(1)).view_as(magnitude)
    steps = activations.diff(dim=-1).square()
    return divergence(magnitude, model) + (prices * steps).sum()


def go_on(
    magnitude: Tensor,  # X, shape: (F, B, T)
    dictionary: Tensor,  # W, shape: (F, K)
    activations: Tensor,  # H, shape: (K, B, T)
    prices: Tensor,  # lambda, shape: (K, B, 1)
    updates: int,
    *,
    eps: float = 1e-10,
) -> Tensor:  # H, shape: (K, B, T)
    r"""Return H after updates of all frames at once; each one lowers the objective.

    With h' the activations of before, a = h' * W'(X / W H') and b = W'1, what is minimised lies
    above the objective, touches it at h', and has a term for every activation of its own:

        -a log h + b h + lambda/2 \sum_{u = t-1, t+1} (2 h - h'_t - h'_u)^2

    Its minimum is the root of a quadratic equation; without a price it is that of `factorise`.

    Reference: Lee and Seung, 2001, for the divergence; De Pierro, 1995, A modified expectation
    maximization algorithm for penalized likelihood estimation, for the steps.
    """
    h, weight = activations, dictionary.sum(0)[:, None, None]
    ends = torch.ones_like(h[0, 0, 1:])
    neighbours = pad(ends, (1, 0)) + pad(ends, (0, 1))  # of a frame: 2, at the ends 1
    for _ in range(updates):
        model = (dictionary @ h.flatten(1)).view_as(magnitude) + eps
        told = h * (dictionary.T @ (magnitude / model).flatten(1)).view_as(h)
        sums = h[..., 1:] + h[..., :-1]
        # square h^2 + linear h - told = 0
        square = 4 * prices * neighbours
        linear = weight - 2 * prices * (pad(sums, (1, 0)) + pad(sums, (0, 1)))
        root = (linear.square() + 4 * square * told).sqrt()
        tiny = torch.finfo(h.dtype).tiny  # of the two forms each is exact where the other is not
        h = torch.where(
            linear > 0, 2 * told / (linear + root).clamp_min(tiny),
            (root - linear) / (2 * square).clamp_min(tiny),
        )
    return h
