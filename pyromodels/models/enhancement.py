"""Speech in noise: a deep prior of the speech, a model of the noise, and what was heard."""

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyromodels.batch import SequenceBatch
from pyromodels.distributions.path import diagonal_normal
from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.emissions.complex import Complex, power_of
from pyromodels.errors import SpecError, mismatch, misshapen
from pyromodels.noise.base import NoiseModel, Sizes
from pyromodels.pyro_support.param_store import register
from pyromodels.pyro_support.plates import MAX_PLATE_NESTING, batch_plate, source_plate
from pyromodels.pyro_support.site_labels import Layout
from pyromodels.registry import DYNAMICS, MODELS, NOISES


@MODELS.register("enhancement")
class Enhancement(nn.Module):
    r"""p(x, s, z) = \prod_t p(z_t) N_c(s_t; 0, v_s,t(z)) N_c(x_t; \sqrt{g_t} s_t, v_n,t(p_t))

    x is what a microphone heard, s the clean speech in the units of its prior, g_t how loud that
    was. Given z everything is Gaussian, and the posterior of s is a Wiener filter.

    ======  =======  ====================  ======================
    symbol  site     shape                 unit
    ======  =======  ====================  ======================
    z       "s_z"    (B, 1, 1, T, L)       1
    s       "s"      (B, 1, 1, T, 2 F)     of the prior
    x       "x"      (B, 1, 1, T, 2 F)     of the spectrum
    v_s     -        (*, B, T, F)          of the spectrum, squared; g included
    v_n     -        (*, B, T, F)          of the spectrum, squared
    ======  =======  ====================  ======================

    Spectra are real numbers, two parts a bin, as in the `Complex` emission.

    Reference: Lin, 2024 (thesis), eq. 6.1-6.3 and 6.7-6.10; with a gain: Leglaive et al., 2020.

    Args:
        prior: of clean spectra, a dynamical VAE with the emission `complex` whose frames depend on
            each other through z alone: rvae, vae, dkf; an object, or a table of a registered one.
        noise: of v_n; an object, or a table of a registered network.
        gain: log g, shape (B, T), a parameter of each sequence of the data; None: g = 1.

    Raises:
        SpecError: for a prior that is none of complex spectra, or is fed with its past: its
            posterior given z is no Wiener filter.
        ShapeError: of `forward`, for another number of bins.
    """

    max_plate_nesting = MAX_PLATE_NESTING

    def __init__(
        self,
        prior: DynamicalPrior | Mapping[str, Any],
        noise: NoiseModel | Mapping[str, Any],
        *,
        gain: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        if isinstance(prior, Mapping):
            prior = DYNAMICS.build(prior)
        if not isinstance(prior, DynamicalPrior) or not isinstance(prior.emission, Complex):
            expected = "a dynamical VAE of complex spectra"
            raise SpecError(mismatch("prior", given=type(prior).__name__, expected=expected))
        if prior.feeds_back or prior.global_dim:
            reads = "is fed with its past" if prior.feeds_back else "has a latent of the sequence"
            given = f"{type(prior).__name__}, which {reads}"
            expected = "one whose frames depend on each other through z alone: rvae, vae, dkf"
            raise SpecError(mismatch("prior", given=given, expected=expected))
        if isinstance(noise, Mapping):
            noise = NOISES.build(noise, Sizes(0, 0, prior.cell.source_dim, prior.latent_dim))
        self.prior, self.noise, self.emission = prior, noise, prior.emission
        self.register_parameter("log_gain", gain)

    def forward(self, batch: SequenceBatch, *, generate: bool = False) -> Tensor:
        """Run the program; returns s, shape (*, B, 1, 1, T, 2 F). `generate` draws x as well."""
        register(self)
        mask, shape = batch.mask[:, None, None], torch.Size((batch.num_sequences, 1, 1))
        pair = self.prior.pair(batch.num_frames, mask=mask, batch_shape=shape)
        with batch_plate(batch.num_sequences), source_plate(1):
            z = pyro.sample("s_z", pair.latent)  # p(z)
            s = pyro.sample("s", pair.source(z))  # p(s | z)
            pair.teach(s)
            # p(x | s, p): the speech, as loud as it is, and the noise
            noise = self.noise_variance(batch, z[..., 0, 0, :, :])[..., None, None, :, :]
            law = dist.Normal(
                self.root_gain(batch) * s, (noise / 2).sqrt().repeat_interleave(2, -1)
            )
            heard = law.mask(mask.unsqueeze(-1)).to_event(2)
            pyro.sample("x", heard, obs=None if generate else batch.x[:, None, None])
        return s

    def layout(self, batch: SequenceBatch) -> Layout:
        """Return names of dimensions, and which frames there are."""
        frames = batch.mask.unsqueeze(1)  # of the one source
        return Layout(
            sequences="batch",
            event_dims={
                "s_z": ("frame", "latent"), "s": ("frame", "feature"), "x": ("frame", "feature")
            },
            present={"s_z": frames, "s": frames, "x": frames},
        )

    def root_gain(self, batch: SequenceBatch) -> Tensor | float:
        """Return sqrt(g), shape (B, 1, 1, T, 1)."""
        if self.log_gain is None:
            return 1.0
        if self.log_gain.shape != batch.mask.shape:
            raise misshapen("batch", batch.mask.shape, f"{tuple(self.log_gain.shape)}, its gain's")
        return (self.log_gain / 2).exp()[:, None, None, :, None]

    def variances(
        self,
        batch: SequenceBatch,
        z: Tensor,  # shape: (*, B, T, L)
    ) -> tuple[Tensor, Tensor]:  # v_s as heard, its gain included, and v_n, each (*, B, T, F)
        """Return what x is made of, given z: x ~ N_c(0, v_s + v_n)."""
        outputs = self.prior.cell.all_outputs(z, self._nothing(z), batch.mask)
        log_variance = self.emission.log_variance(outputs)
        if self.log_gain is not None:
            log_variance = log_variance + self.log_gain.unsqueeze(-1)
        return log_variance.exp(), self.noise_variance(batch, z)

    def latent_law(
        self,
        z: Tensor,  # shape: (*, T, L)
    ) -> dist.TorchDistribution:  # batch (*, T), event (L,)
        """Return p(z_t | z_<t)."""
        mean, log_variance = self.prior.cell.all_latents(z, self._nothing(z))
        return diagonal_normal(mean, (log_variance / 2).exp())

    def noise_variance(
        self,
        batch: SequenceBatch,
        z: Tensor,  # shape: (*, B, T, L)
    ) -> Tensor:  # shape: broadcastable to (*, B, T, F)
        """Return v_n."""
        if batch.x.shape[-1] != self.prior.source_dim:
            raise misshapen("x", batch.x.shape, f"(B, T, {self.prior.source_dim})")
        tiny = torch.finfo(z.dtype).tiny
        return self.noise(power_of(batch.x), z, batch.mask).clamp_min(tiny)

    def _nothing(self, z: Tensor) -> Tensor:  # shape: (*, T, F)
        """Return what stands for the past of s before networks that do not read it."""
        return z.new_zeros(()).expand(*z.shape[:-1], self.prior.cell.source_dim)
