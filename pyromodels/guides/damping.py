"""Damped updates: a step of part of the way, in natural parameters, factor by factor."""

from typing import Any, TypeVar

import torch
from torch import Tensor

from pyromodels.distributions.chain import GaussianChain, Natural, chain_of, natural
from pyromodels.distributions.visibility import BinaryChain, log_potentials, normalised

Factor = TypeVar("Factor", Tensor, GaussianChain, BinaryChain)
"""Responsibilities, zero where nothing is observed, shape (B, T, K, J); q(s); or q(v)."""


def damped(old: Any, new: Factor, rate: float) -> Factor:  # old of the same kind
    """old^(1 - rate) new^rate, normalised."""
    if rate == 1:
        return new
    if isinstance(new, GaussianChain):
        return chain_of(Natural(*_lerp(natural(old), natural(new), rate)))
    if isinstance(new, BinaryChain):
        return normalised(*_lerp(log_potentials(old), log_potentials(new), rate))
    tiny = torch.finfo(old.dtype).tiny
    logits = torch.lerp(old.clamp_min(tiny).log(), new.clamp_min(tiny).log(), rate)
    return logits.softmax(-1) * (new.sum(-1, keepdim=True) > 0)


def _lerp(old: tuple[Tensor, ...], new: tuple[Tensor, ...], rate: float) -> list[Tensor]:
    return [torch.lerp(*pair, rate) for pair in zip(old, new, strict=True)]
