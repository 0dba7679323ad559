"""Sources that add up: what a microphone hears."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyromodels.batch import MixtureBatch
from pyromodels.dynamics.base import SourcePrior
from pyromodels.errors import SpecError, mismatch
from pyromodels.pyro_support.param_store import register
from pyromodels.pyro_support.plates import (
    MAX_PLATE_NESTING,
    batch_plate,
    frame_plate,
    observation_plate,
    source_plate,
)
from pyromodels.pyro_support.site_labels import Layout
from pyromodels.registry import MODELS


@MODELS.register("additive")
class Additive(nn.Module):
    r"""p(o, s, z) = \prod_n p(s_n, z_n) \prod_tf N_c(o_tf; \sum_n s_n,tf, phi_tf)

    No bin belongs to one source: what `MixDVAE` assigns, this one adds. Given the variances v_n
    that the priors say, the posterior of all sources is Gaussian, `WienerPaths`.

    ======  =====================  ==================  ===========================
    symbol  site                   shape               unit
    ======  =====================  ==================  ===========================
    s, z    "s", and the prior's   (B, 1, N, T, 2 F)   of the spectrum
    o       "o"                    (B, T, F, 2)        of the spectrum
    ======  =====================  ==================  ===========================

    Reference: Lin, 2024 (thesis), eq. 6.1-6.5, of two or more sources.

    Args:
        prior: of one source, or one for each (`BySource`), of complex spectra.

    Raises:
        SpecError: for a prior that needs an anchor.
    """

    max_plate_nesting = MAX_PLATE_NESTING

    def __init__(self, prior: SourcePrior) -> None:
        super().__init__()
        if prior.needs_anchor or not prior.has_gaussian_message:
            expected = "one of complex spectra, e.g. srnn with the emission complex"
            raise SpecError(mismatch("prior", given=type(prior).__name__, expected=expected))
        self.prior = prior

    def forward(self, batch: MixtureBatch, *, generate: bool = False) -> Tensor:
        """Run the program; returns s, shape (*, B, 1, N, T, 2 F). `generate` draws o as well."""
        register(self)
        shape = torch.Size((batch.num_sequences, 1, batch.num_sources))
        start: dict[str, Any] = {"anchor": None, "batch_shape": shape}
        sequences, frames = batch_plate(batch.num_sequences), frame_plate(batch.num_frames)
        with sequences, source_plate(batch.num_sources):
            # p(s_n, z_n): the spectrogram of one source
            s = self.prior.sample_sources("s", batch.num_frames, **start)
        total = s.sum(-3).squeeze(-3).unflatten(-1, (-1, 2))  # (*, B, T, F, 2)
        with sequences, frames, observation_plate(batch.num_slots):
            # p(o_tf | s): the sum of the sources and a little noise
            law = dist.Normal(total, batch.variance.sqrt()).to_event(1)
            with pyro.poutine.mask(mask=batch.mask):
                pyro.sample("o", law, obs=None if generate else batch.observations)
        return s

    def layout(self, batch: MixtureBatch) -> Layout:
        """Return names of dimensions, and which bins there are."""
        return Layout(
            sequences="batch",
            event_dims={
                "s": ("frame", "coordinate"), "s_z": ("frame", "latent"), "o": ("feature",)
            },
            present={"o": batch.mask},
            observed=("o",),
        )
