"""What the classical Wiener filter makes of noisy speech."""

import torch
from torch import Tensor

from pyromodels.noise.base import quiet_level


def decision_directed(
    power: Tensor,  # |x|^2, shape: (T, F)
    *,
    memory: float = 0.98,
    least: float = 0.003,
) -> Tensor:  # gains, shape: (T, F)
    r"""Return Wiener gains by decision-directed estimates of the signal-to-noise ratio.

        xi_t = memory g_{t-1}^2 |x_{t-1}|^2 / N + (1 - memory) max(|x_t|^2 / N - 1, 0),
        g_t  = xi_t / (1 + xi_t)

    N, the noise, is the level of quiet frames.

    Reference: Ephraim and Malah, 1984, Speech enhancement using a minimum mean-square error
    short-time spectral amplitude estimator.
    """
    frames = torch.ones(1, len(power), dtype=torch.bool, device=power.device)
    noise = quiet_level(power[None], frames)[0].clamp_min(1e-12)
    ratio, gains = power / noise, []
    kept = torch.zeros_like(noise)
    for now in ratio:  # each frame reads the gain of the one before
        prior = memory * kept + (1 - memory) * (now - 1).clamp_min(0)
        gain = prior.clamp_min(least) / (1 + prior.clamp_min(least))
        gains.append(gain)
        kept = gain.square() * now
    return torch.stack(gains)
