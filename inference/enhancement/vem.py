"""Variational EM of speech in low-rank noise: gradients for z, multiplicative updates for v_n."""

import torch
from torch import Tensor

from pyromodels.batch import SequenceBatch
from pyromodels.emissions.complex import power_of
from pyromodels.errors import SpecError, mismatch
from pyromodels.guides.denoising import FreeSpeech
from pyromodels.inference.engines.coordinate_ascent import CoordinateAscent, Update
from pyromodels.inference.enhancement.bound import EnhancementBound
from pyromodels.models.enhancement import Enhancement
from pyromodels.noise.nmf import LowRankNoise


class LatentUpdate(Update):
    """E step: a few steps of Adam on m and v of q(z), the noise held.

    Args:
        steps: of Adam.
        learning_rate: of Adam.
        num_draws: of z, for each step.
    """

    changes_model = False

    def __init__(
        self, *, steps: int = 5, learning_rate: float = 0.05, num_draws: int = 1
    ) -> None:
        self.steps, self.learning_rate = steps, learning_rate
        self.bound = EnhancementBound(num_draws)
        self.adam: torch.optim.Adam | None = None
        self.moments: list[Tensor] = []

    def __call__(self, model: Enhancement, guide: FreeSpeech, batch: SequenceBatch) -> None:
        """Set the guide's moments."""
        if self.adam is None:
            self.moments = [part.clone().requires_grad_() for part in guide.moments]
            self.adam = torch.optim.Adam(self.moments, lr=self.learning_rate)
        with torch.enable_grad():
            for _ in range(self.steps):
                guide.moments = (self.moments[0], self.moments[1])
                loss = -self.bound(model, guide, batch).sum()
                for part, slope in zip(
                    self.moments, torch.autograd.grad(loss, self.moments), strict=True
                ):
                    part.grad = slope
                self.adam.step()
        guide.moments = (self.moments[0].detach().clone(), self.moments[1].detach().clone())


class NoiseUpdate(Update):
    r"""M step: w, h and g by multiplicative updates, each of which raises the bound at its draws.

        h <- h * sqrt( \sum_r (|x|^2 / v^2) w'  /  \sum_r (1 / v) w' ),         w likewise,
        g <- g * sqrt( \sum_rf |x|^2 v_s / v^2  /  \sum_rf v_s / v ),           v = g v_s + h w

    Reference: Leglaive, Alameda-Pineda, Girin and Horaud, 2020, A recurrent variational autoencoder
    for speech enhancement, eq. 20-22.

    Args:
        num_draws: r = 1..R of z.
    """

    def __init__(self, *, num_draws: int = 4) -> None:
        self.num_draws = num_draws

    def __call__(self, model: Enhancement, guide: FreeSpeech, batch: SequenceBatch) -> None:
        """Set the model's noise and gain."""
        noise = model.noise
        z = guide.latents(batch).rsample((self.num_draws,))[..., 0, 0, :, :]
        speech, _ = model.variances(batch, z)
        power, present = power_of(batch.x), batch.mask.unsqueeze(-1)

        def weights(speech: Tensor) -> tuple[Tensor, Tensor]:  # each (R, B, T, F)
            v = (speech + noise.activations @ noise.spectra).clamp_min(1e-20)
            return torch.where(present, power / v.square(), 0.0), torch.where(present, 1 / v, 0.0)

        up, down = (part.sum(0) for part in weights(speech))
        w = noise.spectra
        noise.put(w, noise.activations * ratio(up @ w.mT, down @ w.mT))
        up, down = (part.sum(0) for part in weights(speech))
        h = noise.activations
        noise.put(noise.spectra * ratio(h.mT @ up, h.mT @ down), h)
        if model.log_gain is not None:
            up, down = weights(speech)
            rise = ratio((up * speech).sum((0, -1)), (down * speech).sum((0, -1)))
            model.log_gain.add_(torch.where(batch.mask, rise.log(), 0.0))


def ratio(up: Tensor, down: Tensor) -> Tensor:
    """Return the factor of a multiplicative update, sqrt(up / down)."""
    return (up.clamp_min(1e-20) / down.clamp_min(1e-20)).sqrt()


def enhancement_em(
    model: Enhancement,
    guide: FreeSpeech,
    *,
    steps: int = 5,
    learning_rate: float = 0.05,
    num_draws: int = 4,
    damping: float = 1.0,
) -> CoordinateAscent:
    """Return the engine that alternates the two steps.

    Raises:
        SpecError: for noise that is not of low rank.
    """
    if not isinstance(model.noise, LowRankNoise):
        given = type(model.noise).__name__
        raise SpecError(mismatch("noise of variational EM", given=given, expected="nmf"))
    updates = [LatentUpdate(steps=steps, learning_rate=learning_rate),
               NoiseUpdate(num_draws=num_draws)]
    return CoordinateAscent(
        model, guide, updates, bound=EnhancementBound(num_draws), damping=damping
    )
