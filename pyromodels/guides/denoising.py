"""Guides of `Enhancement`: q(z | x), and the Wiener filter that z leaves no choice of."""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar

import pyro
import torch
from torch import Tensor

from pyromodels.batch import SequenceBatch
from pyromodels.distributions.path import IndependentFrames, PathDistribution
from pyromodels.errors import SpecError, mismatch, misshapen
from pyromodels.guides.base import Guide
from pyromodels.guides.free_form import FreeForm
from pyromodels.models.enhancement import Enhancement
from pyromodels.noise.base import subtracted
from pyromodels.pyro_support.param_store import register
from pyromodels.pyro_support.plates import batch_plate, source_plate
from pyromodels.registry import GUIDES


class Denoising(Guide, ABC):
    r"""q(z) p(s | z, x): the second factor is exact (thesis, eq. 6.12 and 6.13).

        p(s_t | z, x)  =  N_c( v_s / (v_s + v_n) x,  v_s v_n / (v_s + v_n) )          of \sqrt{g} s

    Args:
        model: the program.

    Raises:
        SpecError: for another program.
    """

    max_plate_nesting = Enhancement.max_plate_nesting
    model: Enhancement

    def __init__(self, model: Enhancement) -> None:
        if not isinstance(model, Enhancement):
            given = type(model).__name__
            raise SpecError(mismatch("model", given=given, expected="an Enhancement"))
        super().__init__()
        object.__setattr__(self, "model", model)

    @abstractmethod
    def latents(self, batch: SequenceBatch) -> PathDistribution:
        """Return q(z), batch (B, 1, 1), event (T, L)."""

    def latent_draws(self, batch: SequenceBatch) -> Iterator[Tensor]:  # each (B, T, L)
        """Yield draws of q(z), without end."""
        law = self.latents(batch)
        while True:
            yield law.rsample()[..., 0, 0, :, :]

    def forward(self, batch: SequenceBatch) -> None:
        """Run the guide."""
        register(self)
        with batch_plate(batch.num_sequences), source_plate(1):
            z = pyro.sample("s_z", self.latents(batch))  # q(z)
            pyro.sample("s", self.wiener(batch, z))  # p(s | z, x)

    def wiener(
        self,
        batch: SequenceBatch,
        z: Tensor,  # shape: (*, B, 1, 1, T, L)
    ) -> IndependentFrames:  # batch (*, B, 1, 1), event (T, 2 F)
        """Return the exact law of s given z."""
        speech, noise = self.model.variances(batch, z[..., 0, 0, :, :])
        share = speech / (speech + noise)
        root = self.model.root_gain(batch)
        gain, scale = (
            part.repeat_interleave(2, -1)[..., None, None, :, :] / root
            for part in (share, (share * noise / 2).sqrt())
        )
        heard, mask = batch.x[:, None, None], batch.mask[:, None, None]
        return IndependentFrames(gain * heard, scale, mask=mask)


@GUIDES.register("encoded_speech")
class EncodedSpeech(Denoising):
    """q(z | x) of the prior's own encoder, which hears the noise too and has to learn to (6.14).

    Beside noise that is told relative to the level of quiet frames it hears what is left once that
    is taken off. Its parameters are the model's.

    Args:
        model: the program.
    """

    def latents(self, batch: SequenceBatch) -> PathDistribution:
        """Return q(z | x)."""
        heard = subtracted(batch) if self.model.noise.relative else batch
        return self.model.prior.posterior(heard.x[:, None, None], mask=batch.mask[:, None, None])


@GUIDES.register("free_speech")
class FreeSpeech(Denoising, FreeForm):
    r"""q(z) = \prod_t N(m_t, diag v_t), held for every sequence; starts where the encoder hears z.

    Sequences do not share a parameter, so that many are enhanced at once.

    Args:
        model: the program.
        batch: the data.
        init_scale: standard deviation at the start.
    """

    factors: ClassVar[Mapping[str, str]] = {"moments": "_loc"}

    def __init__(
        self, model: Enhancement, batch: SequenceBatch, *, init_scale: float = 0.3
    ) -> None:
        super().__init__(model)
        with torch.no_grad():
            loc = model.prior.infer(batch.x, noise=None, mask=batch.mask).z
        self.register_buffer("_loc", loc)
        self.register_buffer("_log_scale", torch.full_like(loc, math.log(init_scale)))

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        """m and log of the standard deviation, each (B, T, L)."""
        return self._loc, self._log_scale

    @moments.setter
    def moments(self, value: tuple[Tensor, Tensor]) -> None:
        self._loc, self._log_scale = value

    def between(
        self, factor: str, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], rate: float
    ) -> tuple[Tensor, Tensor]:
        """Return the moments whose natural parameters are part of the way from old to new."""
        (old_precision, new_precision) = ((-2 * log_scale).exp() for _, log_scale in (old, new))
        precision = (1 - rate) * old_precision + rate * new_precision
        loc = (1 - rate) * old_precision * old[0] + rate * new_precision * new[0]
        return loc / precision, -precision.log() / 2

    def latents(self, batch: SequenceBatch) -> IndependentFrames:
        """Return q(z)."""
        loc, log_scale = self.moments
        if loc.shape[:2] != batch.mask.shape:
            raise misshapen("batch", batch.mask.shape, f"{tuple(loc.shape[:2])}, the guide's")
        parts = (part[:, None, None] for part in (loc, log_scale.exp()))
        return IndependentFrames(*parts, mask=batch.mask[:, None, None])


@GUIDES.register("sampled_speech")
class SampledSpeech(FreeSpeech):
    r"""q(z) as R draws of every sequence, which a sampler sets; starts with draws of `FreeSpeech`.

    As a law, which has a density and a bound, it is \prod_t N(m_t, diag v_t) of the draws' own
    mean and variance; what is averaged over z, `latent_draws`, is averaged over the draws.

    Args:
        model: the program.
        batch: the data.
        num_draws: R.
        init_scale: standard deviation at the start.
    """

    factors: ClassVar[Mapping[str, str]] = {"draws": "_draws"}

    def __init__(
        self,
        model: Enhancement,
        batch: SequenceBatch,
        *,
        num_draws: int = 10,
        init_scale: float = 0.3,
    ) -> None:
        super().__init__(model, batch, init_scale=init_scale)
        loc = self._loc.unsqueeze(1).expand(-1, num_draws, -1, -1)
        self.register_buffer("_draws", loc + init_scale * torch.randn_like(loc))

    @property
    def draws(self) -> Tensor:
        """z, shape (B, R, T, L)."""
        return self._draws

    @draws.setter
    def draws(self, value: Tensor) -> None:
        self._draws = value
        least = 1e-6  # of a variance, where all draws are the same
        variance = value.var(1, correction=0).clamp_min(least)
        self.moments = (value.mean(1), variance.log() / 2)

    def between(self, factor: str, old: Tensor, new: Tensor, rate: float) -> Tensor:
        """Refused: there are no draws part of the way from some to others."""
        expected = "1, beside a guide that is made of draws"
        raise ValueError(mismatch("damping", given=rate, expected=expected))

    def latent_draws(self, batch: SequenceBatch) -> Iterator[Tensor]:  # each (B, T, L)
        """Yield the draws in their order, again and again."""
        self.latents(batch)  # which refuses another batch
        return itertools.cycle(self.draws.unbind(1))
