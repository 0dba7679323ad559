"""MixDVAE: sources with dynamics of their own, observations that do not say whose they are."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.base import SourcePrior
from pyromodels.errors import SpecError, mismatch
from pyromodels.observations.base import ObservationLaw
from pyromodels.observations.detector import Detector
from pyromodels.observations.gaussian import GaussianObservations
from pyromodels.pyro_support.param_store import register
from pyromodels.pyro_support.plates import (
    MAX_PLATE_NESTING,
    batch_plate,
    frame_plate,
    observation_plate,
    source_plate,
)
from pyromodels.pyro_support.site_labels import Labels, Layout
from pyromodels.registry import MODELS


@MODELS.register("mixdvae")
class MixDVAE(nn.Module):
    r"""Mixture of dynamical models: p(o, w, s, z) = p(o | w, s) p(w) p(s, z)          (3.1)

        s_n, z_n  ~ the prior of one source, independently for n = 1..N                 (3.6)
        w_tk      ~ uniform over the sources                                            (3.5)
        o_tk | w_tk = n, s ~ the observation law, N(P s_tn, Phi_tk)             (3.3, note 2)

    With a `detector` the sources are seen and hidden in turn, v, a frame has K observations, and
    some of them are clutter, w_tk = N: `Detector` states their laws.

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
        prior: the dynamics of one source. One without a Gaussian message (`tvnf`, mixtures) has no
            closed-form engine; SVI fits it.
        observation: p(o | w, s); None is Gaussian around the prior's positions, of known Phi.
        detector: visibility and clutter; None is the model of the thesis.
    """

    max_plate_nesting = MAX_PLATE_NESTING

    def __init__(
        self,
        prior: SourcePrior,
        observation: ObservationLaw | None = None,
        *,
        detector: Detector | None = None,
    ) -> None:
        super().__init__()
        self.observation = GaussianObservations(prior) if observation is None else observation
        self.prior, self.detector = prior, detector
        if detector is not None:
            detector.check(self.observation.num_features)

    def forward(self, batch: MixtureBatch, *, generate: bool = False) -> Tensor:
        """Run the program; returns s, shape (*, B, 1, N, T, D). `generate` draws o as well."""
        register(self)
        sequences, sources = batch_plate(batch.num_sequences), source_plate(batch.num_sources)
        frames, slots = frame_plate(batch.num_frames), observation_plate(batch.num_slots)
        with sequences, sources:
            # p(s_n, z_n): the trajectory of one source                                 (3.6)
            s = self.prior.sample_sources("s", batch.num_frames, **self.start(batch))
        v = None
        if self.detector is not None:
            v = self.detector.sample(batch, sequences, sources, frames, generate=generate)
        with sequences, frames, slots:
            # p(w_tk): uniform over the sources                                         (3.5)
            law = owner(self.log_weights(batch, v), batch.mask)
            w = pyro.sample("w", law, infer={"enumerate": "parallel"})
            # p(o_tk | w_tk = n, s) = N(P s_tn, Phi_tk)                                 (3.3)
            law = self.likelihood(batch, s, w)
            with pyro.poutine.mask(mask=batch.mask):
                pyro.sample("o", law, obs=None if generate else batch.observations)
        return s

    # ---- p(w | v) and p(o | w, s), which the bound, the updates and the filter ask as well

    @property
    def num_extra(self) -> int:
        """Components of w beside the sources: 1 with clutter, 0 without."""
        return 0 if self.detector is None else 1

    def log_weights(
        self,
        batch: MixtureBatch,
        v: Tensor | None,  # visibility or its mean, shape: (*, B, N, T); None without a detector
    ) -> Tensor:  # nats, shape: broadcastable to (*, B, T, K, N [+ 1 for clutter])
        """log p(w_tk | v), with a detector up to its constant: then they are log rates."""
        if self.detector is None:
            like, num = batch.observations, batch.num_sources
            return like.new_full((1, 1, 1, num), 1 / num).log()
        return self.detector.log_weights(v)

    def likelihood(
        self,
        batch: MixtureBatch,
        s: Tensor,  # shape: (*, B, 1, N, T, D)
        w: Tensor,  # shape: broadcastable to (*, B, T, K)
    ) -> dist.Distribution:  # batch (*, B, T, K), event (X,)
        """Return p(o_tk | w_tk, s)."""
        law = self.observation.assigned(batch, s, w)
        if self.detector is None:
            return law
        return dist.MaskedMixture(w == batch.num_sources, law, self.clutter(batch))

    def with_clutter(
        self,
        batch: MixtureBatch,
        log_parts: Tensor,  # log p(o_tk | w_tk = n, s) or its expectation, (*, B, T, K, N)
    ) -> Tensor:  # nats, shape: (*, B, T, K, N [+ 1 for clutter])
        """Append log p(o_tk | w_tk = N), where there is clutter."""
        if self.detector is None:
            return log_parts
        clutter = self.log_clutter(batch).expand(log_parts.shape[:-1])
        return torch.cat((log_parts, clutter.unsqueeze(-1)), -1)

    def log_clutter(self, batch: MixtureBatch) -> Tensor:
        """log p(o_tk | w_tk = N), nats, shape (B, T, K)."""
        return self.clutter(batch).log_prob(batch.observations)

    def clutter(self, batch: MixtureBatch) -> dist.Distribution:
        """Return p(o | clutter)."""
        return self.detector.clutter(self.observation.project(batch.anchor.loc)[..., 0, :])

    # ---- the start of the sources, and the labels of the sites

    def start(self, batch: MixtureBatch) -> dict[str, Any]:
        """Return what the prior is told of s_1: an anchor, or the batch shape where it needs none.

        Raises:
            SpecError: where the batch has an anchor that the prior does not take, or none that it
                needs.
        """
        if batch.anchor is None and not self.prior.needs_anchor and self.detector is None:
            shape = torch.Size((batch.num_sequences, 1, batch.num_sources))
            return {"anchor": None, "batch_shape": shape}
        if batch.anchor is not None and self.prior.takes_anchor:
            return {"anchor": Anchor(*(part.unsqueeze(1) for part in batch.anchor))}
        name = type(self.prior).__name__
        if batch.anchor is None:
            given, what = "none", f"{name} starts at" if self.prior.needs_anchor else "clutter has"
            expected = f"one, which {what}"
        else:
            given, expected = "one", f"none: {name} has its own law of s_1, e.g. of a power"
        raise SpecError(mismatch("anchor of a MixtureBatch", given=given, expected=expected))

    def layout(self, batch: MixtureBatch) -> Layout:
        """Return names of dimensions, owners that do not exist, and the observations' mixture.

        Draws of w are -1 where no observation is. `s` is split into the observed coordinates
        (feature) and what the prior carries with each (component: position, velocity, ...).
        """
        slot, start = ("batch", "frame", "observation"), ("batch", "source", "state")
        observed = self.prior.source_dim // self.prior.block_dim == batch.observations.shape[-1]
        variance = self.observation.variance(batch).masked_fill(~batch.mask[..., None], torch.nan)
        constants = {"mask": (slot, batch.mask), "variance": ((*slot, "feature"), variance)}
        if batch.anchor is not None:
            constants |= {
                "anchor_loc": (start, batch.anchor.loc),
                "anchor_variance": (start, batch.anchor.variance),
            }
        return Layout(
            sequences="batch",
            event_dims={
                "s": ("frame", "feature" if observed else "coordinate", "component"),
                "s_z": ("frame", "latent"),
                "s_w": ("global_latent",),
                "v": ("frame",),
                "o": ("feature",),
            },
            blocks={"s": self.prior.block_dim},
            coords={} if self.detector is None else {"feature": self.detector.feature_names},
            present={"w": batch.mask, "o": batch.mask},
            absent={"w": -1},
            dtypes={"w": "int16", "v": "int8"},
            observed=("o",),
            constants=constants,
            components={"o": partial(self.components, batch)},
            labels=Labels(plate="source", path="s", owners=("w",)),
        )

    def components(
        self,
        batch: MixtureBatch,
        draws: Mapping[str, Tensor],  # s is read, and v with a detector
    ) -> tuple[Tensor, Tensor]:  # nats, each broadcastable to (n, B, T, K, N [+ 1 for clutter])
        """Return log p(w_tk | v) and log p(o_tk | w_tk, s)."""
        log_weight = self.log_weights(batch, draws.get("v")).log_softmax(-1)
        return log_weight, self.with_clutter(batch, self.observation.log_prob(batch, draws["s"]))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load, also what was written when P and the scale of Phi were the model's own."""
        for name in ("projection", "log_noise_scale"):
            if prefix + name in state_dict:
                state_dict[f"{prefix}observation.{name}"] = state_dict.pop(prefix + name)
        super()._load_from_state_dict(state_dict, prefix, *args)


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
