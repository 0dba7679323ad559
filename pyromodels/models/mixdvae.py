"""MixDVAE: sources with dynamics of their own, observations that do not say whose they are."""

import math
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor, nn

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.visibility import BinaryChain
from pyromodels.dynamics.base import SourcePrior
from pyromodels.emissions.clutter import BoxClutter
from pyromodels.errors import ShapeError, SpecError, mismatch
from pyromodels.models.mixdvae_labels import mixdvae_layout
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


@dataclass(frozen=True)
class Detector:
    """How often a detector fires: on a source it sees, on one it does not see, on nothing.

    Rates are expected detections a frame. A source is hidden and seen again as a Markov chain,
    because misses come in bursts; with `hide = 0` every source is visible throughout.

    Args:
        visible_rate: detections a frame of a visible source.
        hidden_rate: detections a frame of a hidden source.
        clutter_rate: false detections a frame.
        hide: probability a frame that a visible source hides.
        reappear: probability a frame that a hidden source is seen again.
    """

    visible_rate: float = 0.95
    hidden_rate: float = 0.02
    clutter_rate: float = 0.3
    hide: float = 0.02
    reappear: float = 0.1

    def __post_init__(self) -> None:
        for name in ("visible_rate", "hidden_rate", "clutter_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    mismatch(name, given=getattr(self, name), expected="a positive rate")
                )
        for name in ("hide", "reappear"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    mismatch(name, given=getattr(self, name), expected="a probability below 1")
                )

    def log_rates(self, visible: Tensor) -> Tensor:
        """Return the log rate of sources of the given visibility (0, 1, or its probability)."""
        high, low = math.log(self.visible_rate), math.log(self.hidden_rate)
        return low + (high - low) * visible

    def rates(self, visible: Tensor) -> Tensor:
        """Return the rate of sources of the given visibility (0, 1, or its probability)."""
        return self.hidden_rate + (self.visible_rate - self.hidden_rate) * visible

    def visibility(self, num_steps: int, like: Tensor) -> BinaryChain:
        """Return p(v_{1:T}): every source starts visible."""
        # filled there, not copied there: on a GPU a copy from the host could not be captured
        rates = [like.new_full((), rate) for rate in (self.reappear, 1 - self.hide)]
        transition = torch.stack(rates).expand(num_steps - 1, 2)
        return BinaryChain(like.new_ones(()), transition, validate_args=False)


@MODELS.register("mixdvae")
class MixDVAE(nn.Module):
    r"""Mixture of dynamical models: p(o, w, s, z) = p(o | w, s) p(w) p(s, z)          (3.1)

        s_n, z_n  ~ the prior of one source, independently for n = 1..N                 (3.6)
        w_tk      ~ uniform over the sources                                            (3.5)
        o_tk | w_tk = n, s ~ N(P s_tn, Phi_tk)                                  (3.3, note 2)

    With a `detector` the sources are seen and hidden in turn, and some observations are clutter,
    w_tk = N:

        v_n   ~ Markov chain over {hidden, visible}
        K_t   ~ Poisson(sum_n rate(v_tn) + clutter_rate)
        w_tk  = n with probability proportional to rate(v_tn), or N to clutter_rate
        o_tk | w_tk = N ~ clutter

    ======  =====================  ==================  =======================
    symbol  site                   shape               unit
    ======  =====================  ==================  =======================
    s, z    "s", and the prior's   (B, 1, N, T, D)     as the data
    v       "v"                    (B, 1, N, T)        0 or 1
    K       "count"                (B, T, 1)           observations
    w       "w", enumerated        (B, T, K)           0..N-1, N for clutter
    o       "o"                    (B, T, K, X)        as the data
    ======  =====================  ==================  =======================

    Departure: visibility and clutter are not in the thesis, which assumes that every detection
    belongs to a source; on scenes with occlusions and false detections they are most of the
    accuracy.

    Reference: Lin, 2024 (thesis), chapter 3.

    Args:
        prior: the dynamics of one source, which may start at an anchor. One without a Gaussian
            message (`tvnf`, mixtures) has no closed-form engine; SVI fits it.
        projection: P, shape (X, D), or one P_k for each observation slot, shape (K, X, D); None is
            the prior's own (positions of a linear prior), or the identity. A row reads one block of
            the prior's coordinates.
        noise_scale: Phi is this squared times the batch's variance; a parameter, 1 where Phi is
            known.
        detector: visibility and clutter; None is the model of the thesis.
    """

    max_plate_nesting = MAX_PLATE_NESTING

    def __init__(
        self,
        prior: SourcePrior,
        *,
        projection: Tensor | None = None,
        detector: Detector | None = None,
        noise_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if not prior.takes_anchor:
            raise SpecError(
                mismatch(
                    "prior of MixDVAE",
                    given=f"{type(prior).__name__} whose trajectories cannot start at an anchor",
                    expected='one that can, e.g. of emission = "gaussian"',
                )
            )
        if projection is None:
            projection = getattr(prior, "projection", torch.eye(prior.source_dim))
        if projection.dim() not in (2, 3) or projection.shape[-1] != prior.source_dim:
            raise ShapeError(
                mismatch(
                    "projection",
                    given=f"shape {tuple(projection.shape)}",
                    expected=f"(X, D) or (K, X, D) with D = {prior.source_dim}",
                )
            )
        if (projection.unflatten(-1, (-1, prior.block_dim)).any(-1).sum(-1) > 1).any():
            raise ValueError(
                "projection: a row reads several blocks of the prior's coordinates, so that q(s) "
                f"would not factorise; give each row one block of {prior.block_dim} coordinates"
            )
        if detector is not None and projection.shape[-2] != 4:
            raise ShapeError(
                mismatch(
                    "projection with a detector",
                    given=f"{projection.shape[-2]} observed coordinates",
                    expected="4, a box",
                    hint="Clutter is boxes; give detector=None for anything else.",
                )
            )
        if not noise_scale > 0:
            raise ValueError(
                mismatch("noise_scale", given=noise_scale, expected="a positive number")
            )
        self.prior, self.detector = prior, detector
        self.register_buffer(
            "projection", projection if projection.dim() == 3 else projection[None]
        )
        self.log_noise_scale = nn.Parameter(torch.tensor(float(noise_scale)).log())

    @property
    def num_extra(self) -> int:
        """Components of w beside the sources: 1 with clutter, 0 without."""
        return 0 if self.detector is None else 1

    def variance(self, batch: MixtureBatch) -> Tensor:
        """Return the diagonal of Phi, shape (B, T, K, X)."""
        return batch.variance * (2 * self.log_noise_scale).exp()

    def clutter(self, batch: MixtureBatch) -> BoxClutter:
        """Return p(o | clutter), its sizes those of the anchors."""
        return BoxClutter(self.project(batch.anchor.loc)[..., 0, 2:].mean((0, 1)).detach())

    def project(self, s: Tensor) -> Tensor:
        """Return P_k s, shape (*, D) -> (*, K, X), K = 1 where all slots share one P."""
        return torch.einsum("...d,kxd->...kx", s, self.projection.to(s))

    def layout(self, batch: MixtureBatch) -> Layout:
        """Return names of dimensions, owners that do not exist, and the observations' mixture."""
        return mixdvae_layout(self, batch)

    def forward(self, batch: MixtureBatch, *, generate: bool = False) -> Tensor:
        """Run the program; returns s, shape (*, B, 1, N, T, D). `generate` draws o as well."""
        register(self)
        num_sequences, num_frames, num_slots, _ = batch.observations.shape
        num_sources = batch.num_sources
        anchor = type(batch.anchor)(*(part.unsqueeze(1) for part in batch.anchor))
        sequences = batch_plate(num_sequences)
        with sequences, source_plate(num_sources):
            # p(s, z): one trajectory for each source
            s = self.prior.sample_sources("s", num_frames, anchor=anchor)
            log_weight = None
            if self.detector is not None:
                # p(v): is the source seen?
                chain = self.detector.visibility(num_frames, batch.anchor.loc)
                visible = pyro.sample("v", chain)
                log_weight = self._log_weight(visible)
        with sequences, frame_plate(num_frames):
            if self.detector is not None:
                # p(K_t | v): how many detections there are
                count = batch.mask.sum(-1, keepdim=True).to(s)
                rate = log_weight.exp().sum(-1)
                pyro.sample("count", dist.Poisson(rate), obs=None if generate else count)
            with observation_plate(num_slots):
                # p(w_tk | v)
                if log_weight is None:
                    log_weight = s.new_zeros(num_sources)
                w = pyro.sample(
                    "w", owner(log_weight, batch.mask), infer={"enumerate": "parallel"}
                )
                # p(o_tk | w_tk, s): the assigned source, or clutter
                position = self.project(s).squeeze(-5).movedim(-4, -2)  # (*, B, T, K, N, X)
                is_clutter = w == num_sources
                location = Vindex(position)[..., w.clamp_max(num_sources - 1), :]
                observation = dist.Normal(location, self.variance(batch).sqrt()).to_event(1)
                if self.detector is not None:
                    observation = dist.MaskedMixture(is_clutter, observation, self.clutter(batch))
                with pyro.poutine.mask(mask=batch.mask):
                    pyro.sample("o", observation, obs=None if generate else batch.observations)
        return s

    def _log_weight(self, visible: Tensor) -> Tensor:
        """Log rates of the sources and of clutter, shape (*, B, 1, N, T) -> (*, B, T, 1, N + 1)."""
        rates = self.detector.log_rates(visible).movedim(-1, -3)
        clutter = rates.new_full((*rates.shape[:-1], 1), math.log(self.detector.clutter_rate))
        return torch.cat((rates, clutter), -1)


def owner(
    logits: Tensor,  # unnormalised log probabilities, shape: broadcastable to (*, B, T, K, J)
    mask: Tensor,  # shape: (B, T, K)
) -> dist.Categorical:
    """Return the law of w, which is 0 where no observation is, so that a sum over w is one there.

    Masking w would count a missing observation as J equally possible ones under enumeration.
    """
    only_first = logits.new_full(logits.shape[-1:], math.log(torch.finfo(logits.dtype).tiny))
    only_first[0] = 0.0
    return dist.Categorical(logits=torch.where(mask[..., None], logits, only_first))
