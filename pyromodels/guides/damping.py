"""Damped updates: a step of part of the way, in natural parameters, factor by factor."""

import torch
from torch import Tensor

from pyromodels.distributions.chain import GaussianChain, Natural, chain_of, natural
from pyromodels.distributions.visibility import BinaryChain, log_potentials, normalised


def damped_assignment(
    old: Tensor,  # eta, zero where nothing is observed, shape: (B, T, K, J)
    new: Tensor,  # shape: (B, T, K, J)
    rate: float,
) -> Tensor:
    """old^(1 - rate) new^rate, normalised."""
    if rate == 1:
        return new
    tiny = torch.finfo(old.dtype).tiny
    logits = torch.lerp(old.clamp_min(tiny).log(), new.clamp_min(tiny).log(), rate)
    return logits.softmax(-1) * (new.sum(-1, keepdim=True) > 0)


def damped_sources(old: GaussianChain, new: GaussianChain, rate: float) -> GaussianChain:
    """old^(1 - rate) new^rate, normalised."""
    if rate == 1:
        return new
    pairs = zip(natural(old), natural(new), strict=True)
    return chain_of(Natural(*(torch.lerp(*pair, rate) for pair in pairs)))


def damped_visibility(old: BinaryChain, new: BinaryChain, rate: float) -> BinaryChain:
    """old^(1 - rate) new^rate, normalised."""
    if rate == 1:
        return new
    pairs = zip(log_potentials(old), log_potentials(new), strict=True)
    return normalised(*(torch.lerp(*pair, rate) for pair in pairs))

