"""What whoever knows the sources makes of a mixture."""

import torch
from torch import Tensor


def ideal_binary_mask(
    sources: Tensor,  # spectra, complex, shape: (B, N, T, F)
) -> Tensor:  # shape: (B, N, T, F)
    """Return one where a source is the loudest: an oracle."""
    return torch.nn.functional.one_hot(sources.abs().argmax(1), sources.shape[1]).movedim(-1, 1)


def oracle_wiener(
    sources: Tensor,  # spectra, complex, shape: (B, N, T, F)
) -> Tensor:  # shape: (B, N, T, F)
    """Return the share of every source in the power: an oracle."""
    power = sources.abs().square()
    return power / power.sum(1, keepdim=True).clamp_min(torch.finfo(power.dtype).tiny)
