"""Variational EM of speech in low-rank noise: gradients for z, multiplicative updates for v_n."""

from itertools import islice

import torch
from torch import Tensor

from pyromodels.batch import SequenceBatch
from pyromodels.emissions.complex import power_of
from pyromodels.errors import SpecError, mismatch
from pyromodels.guides.denoising import Denoising, FreeSpeech
from pyromodels.inference.engines.coordinate_ascent import CoordinateAscent, Update
from pyromodels.inference.enhancement.bound import EnhancementBound
from pyromodels.models.enhancement import Enhancement
from pyromodels.noise.base import FLOOR
from pyromodels.noise.nmf import LowRankNoise


class LatentUpdate(Update):
    """E step: a step of Adam on m and v of q(z), the noise held.

    Args:
        learning_rate: of Adam.
        num_draws: of z.
    """

    changes_model = False

    def __init__(self, *, learning_rate: float = 0.1, num_draws: int = 1) -> None:
        self.learning_rate, self.bound = learning_rate, EnhancementBound(num_draws)
        self.adam: torch.optim.Adam | None = None
        self.moments: list[Tensor] = []

    def __call__(self, model: Enhancement, guide: FreeSpeech, batch: SequenceBatch) -> None:
        """Set the guide's moments."""
        if self.adam is None:
            self.moments = [part.clone().requires_grad_() for part in guide.moments]
            self.adam = torch.optim.Adam(self.moments, lr=self.learning_rate)
        for own, held in zip(self.moments, guide.moments, strict=True):
            own.data.copy_(held)  # which damping, or whoever set it, may have moved
        with torch.enable_grad():
            guide.moments = (self.moments[0], self.moments[1])
            loss = -self.bound(model, guide, batch).sum()
            slopes = torch.autograd.grad(loss, self.moments)
        for own, slope in zip(self.moments, slopes, strict=True):
            own.grad = slope
        self.adam.step()
        guide.moments = (self.moments[0].detach().clone(), self.moments[1].detach().clone())


class NoiseUpdate(Update):
    r"""M step: w, h and g by multiplicative updates, each of which raises the bound at its draws.

        h <- h * sqrt( \sum_r (|x|^2 / v^2) w'  /  \sum_r (1 / v) w' ),         w likewise,
        g <- g * sqrt( \sum_rf |x|^2 v_s / v^2  /  \sum_rf v_s / v ),           v = g v_s + h w

    Reference: Leglaive, Alameda-Pineda, Girin and Horaud, 2020, A recurrent variational autoencoder
    for speech enhancement.

    Args:
        num_draws: r = 1..R of z.
        times: the updates are made with the same draws.
    """

    def __init__(self, *, num_draws: int = 1, times: int = 1) -> None:
        self.num_draws, self.times = num_draws, times

    def __call__(self, model: Enhancement, guide: Denoising, batch: SequenceBatch) -> None:
        """Set the model's noise and gain."""
        z = torch.stack([*islice(guide.latent_draws(batch), self.num_draws)])
        speech, _ = model.variances(batch, z)  # as loud as the gain says
        power = power_of(batch.x).clamp_min(FLOOR)
        for _ in range(self.times):
            speech = self.updated(model, speech, power, batch.mask)

    @staticmethod
    def updated(
        model: Enhancement,
        speech: Tensor,  # shape: (R, B, T, F)
        power: Tensor,  # |x|^2, shape: (B, T, F)
        mask: Tensor,  # shape: (B, T)
    ) -> Tensor:  # shape: (R, B, T, F)
        """Update w, then h, then g; return the speech at its new gain."""
        noise, present = model.noise, mask.unsqueeze(-1)

        def weights() -> tuple[Tensor, Tensor]:  # |x|^2 / v^2 and 1 / v, each (R, B, T, F)
            v = (speech + noise.activations @ noise.spectra).clamp_min(FLOOR)
            one = present / v
            return power * one.square(), one

        up, down = (part.sum(0) for part in weights())
        w, h = noise.spectra, noise.activations
        noise.put(w, h * ratio(up @ w.mT, down @ w.mT))
        up, down = (part.sum(0) for part in weights())
        h = noise.activations
        noise.put(noise.spectra * ratio(h.mT @ up, h.mT @ down), h)
        if model.log_gain is None:
            return speech
        up, down = weights()
        rise = ratio((up * speech).sum((0, -1)), (down * speech).sum((0, -1)))
        rise = torch.where(mask, rise, 1.0)
        model.log_gain.add_(rise.log())
        return speech * rise.unsqueeze(-1)


def ratio(up: Tensor, down: Tensor) -> Tensor:
    """Return the factor of a multiplicative update, sqrt(up / down)."""
    return (up.clamp_min(1e-20) / down.clamp_min(1e-20)).sqrt()


def enhancement_em(
    model: Enhancement,
    guide: FreeSpeech,
    *,
    learning_rate: float = 0.1,
    num_draws: int = 1,
    noise_updates: int = 3,
) -> CoordinateAscent:
    """Return the engine that alternates the two steps.

    Args:
        model: the program, its noise of low rank.
        guide: its guide.
        learning_rate: of Adam, which makes a step on q(z) a sweep.
        num_draws: of z, in either step.
        noise_updates: of the noise, a sweep.

    Raises:
        SpecError: for noise that is not of low rank.
    """
    check_noise(model, "variational EM")
    latents = LatentUpdate(learning_rate=learning_rate, num_draws=num_draws)
    noise = NoiseUpdate(num_draws=num_draws, times=noise_updates)
    bound = EnhancementBound(num_draws)
    return CoordinateAscent(model, guide, [latents, noise], bound=bound)


def check_noise(model: Enhancement, method: str) -> None:
    """Raise `SpecError` for noise that is not of low rank, which the M step is about."""
    if not isinstance(model.noise, LowRankNoise):
        given = type(model.noise).__name__
        raise SpecError(mismatch(f"noise of {method}", given=given, expected="nmf"))
