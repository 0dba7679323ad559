"""Distances between signals, in closed form: RMSE and SI-SDR."""

import torch
from torch import Tensor

from pyromodels.errors import ShapeError, mismatch

_ROUNDING = torch.finfo(torch.float64).eps


def scaled_rmse(
    reference: Tensor,                # shape: (*, n)
    estimate: Tensor,                 # shape: (*, n)
) -> Tensor:                          # float64, shape: (*)
    r"""Return the root mean squared error after the gain that makes it least.

    .. math:: \min_g \Big[\tfrac1n \sum_i (x_i - g \hat x_i)^2\Big]^{1/2}, \qquad
              g = \langle x, \hat x \rangle / \langle \hat x, \hat x \rangle
    """
    x, y = checked_pair(reference, estimate)
    gain = (x * y).sum(-1) / y.square().sum(-1)
    return (x - gain[..., None] * y).square().mean(-1).sqrt()


def si_sdr(
    reference: Tensor,                # shape: (*, n)
    estimate: Tensor,                 # shape: (*, n)
) -> Tensor:                          # decibels, float64, shape: (*)
    r"""Return the scale-invariant signal-to-distortion ratio; no mean is removed.

    .. math:: 10 \log_{10} \frac{\|a x\|^2}{\|a x - \hat x\|^2}, \qquad
              a = \langle x, \hat x \rangle / \langle x, x \rangle

    A distortion below rounding counts as rounding, so the figure ends at 156.5 dB.

    Reference:
        J. Le Roux, S. Wisdom, H. Erdogan, J. R. Hershey, "SDR - half-baked or well done?", ICASSP
        2019, eq. 4.
    """
    x, y = checked_pair(reference, estimate)
    target = x * ((x * y).sum(-1) / x.square().sum(-1))[..., None]
    rounding = _ROUNDING * y.square().sum(-1)
    kept = target.square().sum(-1).clamp_min(rounding)
    return 10 * torch.log10(kept / (target - y).square().sum(-1).clamp_min(rounding))


def checked_pair(
    reference: Tensor,                # shape: (*, n)
    estimate: Tensor,                 # shape: (*, n)
) -> tuple[Tensor, Tensor]:           # float64, the same shapes
    """Return both in double precision, once each holds finite signals, none of them silent.

    Raises:
        ShapeError: for different shapes.
        ValueError: for a signal that is not finite, or is digital silence.
    """
    if reference.shape != estimate.shape or reference.ndim == 0:
        raise ShapeError(mismatch("reference, estimate", given=f"{tuple(reference.shape)}, "
                                  f"{tuple(estimate.shape)}", expected="equal shapes (*, n)"))
    pair = reference.detach().double(), estimate.detach().double()
    for name, signal in zip(("reference", "estimate"), pair, strict=True):
        energy = signal.square().sum(-1)
        if not (torch.isfinite(energy) & (energy > 0)).all():
            raise ValueError(f"{name} is digital silence or not finite; no figure is defined")
    return pair
