"""What the report knows of a MixDVAE beyond any program: owners summed out, draws, forecasts.

=========  =============================================================  =====================
block      in the ratio                                                   integrated out
=========  =============================================================  =====================
s          s, and v and the prior's z where the model has them             w, exactly
w          w                                                              s and v, exactly
=========  =============================================================  =====================

"w" needs a linear-Gaussian prior: given the owners the rest is a Kalman smoother, whose evidence is
known. A q(w) that has ruled out the right owners leaves the joint ratio constant, its k-hat small;
"s" sums over all owners and sees it.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.errors import SpecError
from pyromodels.guides.factorised import FactorisedGuide
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.adequacy.family import FAMILIES, Family, LogWeights
from pyromodels.inference.adequacy.protocols import Draws, Fit, PosteriorLike, Simulate
from pyromodels.inference.adequacy.simulation import Forecast, simulated
from pyromodels.inference.adequacy.statistics import crps, mixture_pit
from pyromodels.inference.adequacy.verdict import Advice
from pyromodels.inference.mixture.bound import closed_form_elbo
from pyromodels.inference.mixture.updates import SourceUpdate, VisibilityUpdate
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.models.additive import Additive
from pyromodels.models.mixdvae import MixDVAE


@FAMILIES.register("mixdvae")
class MixtureFamily(Family):
    """Posteriors of a MixDVAE."""

    blocks_are_exact = True
    narrow = Advice.NARROW_PATHS
    posterior: Any  # a Posterior, whose program is a MixDVAE

    @classmethod
    def holds(cls, posterior: PosteriorLike) -> bool:
        """Whether the program is a MixDVAE."""
        return isinstance(posterior, Posterior) and isinstance(posterior.model, MixDVAE)

    def blocks(self, draws: Draws, joint: Tensor) -> LogWeights | None:
        """Return the blocks of the table above; None where q(w) is no factor of the guide."""
        model, guide, batch = self.posterior.model, self.posterior.guide, self.posterior.batch
        eta = guide.responsibilities_of(batch) if isinstance(guide, FactorisedGuide) else None
        if "w" not in draws or eta is None:
            return None
        others = tuple(name for name in draws if name != "w")
        weights = {others: joint + _owner_correction(model, batch, draws, eta)}
        if model.prior.message_is_exact and not _has_own_noise(model.prior):
            evidence = owner_evidence(model, batch, draws["w"])
            weights[("w",)] = evidence.log_evidence - _gathered(eta.log(), draws["w"], batch)
        return weights

    def simulator(self, number: int) -> Simulate | None:
        """Return `mixture_simulator`; None with a detector."""
        model = self.posterior.model
        return None if model.detector else mixture_simulator(model, self.posterior.batch, number)

    def forecasts(
        self, fit: Fit, horizons: tuple[int, ...], seed: int
    ) -> dict[int, Forecast] | None:
        """Return `forecasts`; None with a detector, to which an empty frame says something."""
        if self.posterior.model.detector is not None:
            return None
        return forecasts(fit, self.posterior.batch, horizons=horizons, seed=seed)


def _has_own_noise(prior: torch.nn.Module) -> bool:
    """Whether sequences have process noises of their own, which go with no other sequence."""
    return isinstance(prior, LinearGaussian) and prior.process_std.dim() > 2


class OwnerEvidence(NamedTuple):
    """What is known once every observation has its owner."""

    log_evidence: Tensor  # log p(o, w), nats, shape: (n, B)
    guide: MeanField  # p(s, v | o, w) of every assignment that differs
    rows: Tensor  # which of the guide's sequences it is, shape: (n, B)


def owner_evidence(
    model: MixDVAE,
    batch: MixtureBatch,
    w: Tensor,  # owners, -1 where no observation is; shape: (n, B, T, K)
) -> OwnerEvidence:
    """log p(o, w) with s and v integrated out: given its owners, the bound of a chain is tight."""
    sequences = torch.arange(batch.num_sequences, device=w.device)
    keys = torch.cat((sequences.expand(w.shape[:2]).unsqueeze(-1), w.flatten(2)), -1)
    keys, rows = torch.unique(keys.flatten(0, 1), dim=0, return_inverse=True)
    copies = batch.take(keys[:, 0])
    guide = MeanField(model, copies)
    owners = keys[:, 1:].unflatten(-1, w.shape[2:]).clamp_min(0)
    eta = torch.nn.functional.one_hot(owners, guide.responsibilities.shape[-1])
    guide.responsibilities = eta.to(copies.observations) * copies.mask[..., None]
    for update in (SourceUpdate(), VisibilityUpdate()):
        update(model, guide, copies)
    rows = rows.unflatten(0, w.shape[:2])
    return OwnerEvidence(closed_form_elbo(model, guide, copies)[rows], guide, rows)


def _owner_correction(
    model: MixDVAE, batch: MixtureBatch, draws: Draws, eta: Tensor
) -> Tensor:  # nats, shape: (n, B)
    r"""log q(w) - log p(w | o, s, v): added to the joint ratio it leaves that of s and v alone."""
    log_parts = model.with_clutter(batch, model.observation.log_prob(batch, draws["s"]))
    score = model.log_weights(batch, draws.get("v")) + log_parts
    log_ratio = eta.log() - score.log_softmax(-1)
    return _gathered(log_ratio, draws["w"], batch)


def _gathered(table: Tensor, w: Tensor, batch: MixtureBatch) -> Tensor:
    """Sum table[..., w] over the observations that are there, (*, B, T, K, J) -> (n, B)."""
    table = table.expand(*w.shape, table.shape[-1])
    taken = table.gather(-1, w.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return taken.masked_fill(~batch.mask, 0.0).sum((-1, -2))


def mixture_simulator(
    model: MixDVAE | Additive, batch: MixtureBatch, num_sequences: int
) -> Simulate:
    """Return a simulator of sources: the anchors, masks and variances of a batch, new the rest.

    Raises:
        SpecError: with a detector, where the number of observations is random as well.
    """
    if isinstance(model, MixDVAE) and model.detector is not None:
        raise SpecError("simulate: a model with a detector has no simulator yet; give your own")
    rows = torch.arange(num_sequences, device=batch.mask.device) % batch.num_sequences
    template = batch.take(rows)

    def simulate(seed: int) -> tuple[MixtureBatch, dict[str, Tensor]]:
        drawn = simulated(model, template, seed)
        o, w = drawn.pop("o"), drawn.pop("w", None)
        truth = {name: value.squeeze(1) for name, value in drawn.items()}
        if w is not None:
            truth["w"] = w.masked_fill(~template.mask, -1)
        return dataclasses.replace(template, observations=o), truth

    return simulate


def forecasts(
    fit: Fit,
    batch: MixtureBatch,
    *,
    horizons: tuple[int, ...] = (1, 3),
    num_draws: int = 200,
    seed: int = 0,
) -> dict[int, Forecast]:
    """Predict o_{t+h-1} from frames < t, later ones masked; every start t is a fit of its own.

    All starts from a third of the frames on are one batch. The predictive is the mixture, over
    draws and over the sources that may own the observation, of N(P s, Phi): its PIT is exact given
    the draws. Of the observations of a frame, which share its draws, one coordinate goes into
    `independent_pit`: one-step PITs of successive frames are independent under the right law.
    """
    num_frames, rng = batch.num_frames, np.random.default_rng(seed)
    first = max(1, num_frames // 3)
    starts = torch.arange(first, num_frames, device=batch.mask.device)
    seen = torch.arange(num_frames, device=batch.mask.device) < starts.unsqueeze(-1)
    seen = seen.repeat_interleave(batch.num_sequences, 0).unsqueeze(-1)  # starts outside
    copies = batch.repeat(len(starts))
    held_back = dataclasses.replace(copies, mask=copies.mask & seen)
    posterior = fit(held_back, seed)
    model = posterior.model
    s = posterior.sample(num_draws)["s"]
    owner = torch.randint(batch.num_sources, s.shape[:1], device=s.device)
    found = {}
    for horizon in (h for h in horizons if first + h <= num_frames):
        frame = (starts + horizon - 1).repeat_interleave(batch.num_sequences)
        rows = (frame < num_frames).nonzero().squeeze(-1)
        at = frame[rows]
        law = model.observation
        location = law.project(s[:, rows, :, at].movedim(0, 1))  # (n, R, N, K or 1, X)
        scale = law.variance(copies)[rows, at].sqrt()
        observed, mask = copies.observations[rows, at], copies.mask[rows, at].cpu().numpy()
        location = location.expand(*location.shape[:3], *observed.shape[1:])
        pit = mixture_pit(observed, location.transpose(1, 2).flatten(0, 1), scale)
        drawn = location[torch.arange(num_draws), :, owner] + scale * torch.randn_like(
            location[:, :, 0]
        )
        pairs = zip(pit, mask, strict=True)
        picks = [rng.choice(values[there].ravel()) for values, there in pairs if there.any()]
        score = crps(drawn, observed)[mask].ravel()
        found[horizon] = Forecast(pit[mask].ravel(), np.array(picks), score)
    return found
