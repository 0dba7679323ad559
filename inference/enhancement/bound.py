"""The bound of `Enhancement`, speech summed out."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from pyromodels.batch import SequenceBatch
from pyromodels.emissions.complex import power_of
from pyromodels.guides.denoising import Denoising
from pyromodels.models.enhancement import Enhancement


class EnhancementBound:
    r"""E_q[log p(x | z)] - KL(q(z) || p(z)), by draws of z; pathwise gradients.

        log p(x | z) = \sum_tf -log(pi v_tf) - |x_tf|^2 / v_tf,     v = v_s(z) + v_n

    Since p(s | z, x) is exact, that is log p(x, s, z) - log q(s, z) of the program, whatever s is
    drawn (thesis, eq. 6.15 and 6.16).

    Args:
        num_draws: of z.
    """

    def __init__(self, num_draws: int = 1) -> None:
        self.num_draws = num_draws

    def __call__(
        self,
        model: Enhancement,
        guide: Denoising,
        batch: SequenceBatch,
        *,
        known: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return the bound of every sequence, nats, shape (B,)."""
        law = guide.latents(batch)
        z = law.rsample(torch.Size([self.num_draws]))
        divergence = kl_divergence(law.conditionals(z), model.latent_law(z))[..., 0, 0, :]
        speech, noise = model.variances(batch, z[..., 0, 0, :, :])
        evidence = log_density(power_of(batch.x), speech + noise)
        return ((evidence - divergence) * batch.mask).sum(-1).mean(0)


def log_density(
    power: Tensor,  # |x|^2, shape: (*, F)
    variance: Tensor,  # v, shape: (*, F)
) -> Tensor:  # nats, shape: (*)
    """Return log N_c(x; 0, v), summed over bins."""
    return -((math.pi * variance).log() + power / variance).sum(-1)
