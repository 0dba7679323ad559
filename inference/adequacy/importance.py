"""Importance ratios of a posterior, joint and block by block, with the discrete latents summed out.

A joint of hundreds of dimensions has heavy-tailed ratios however good its parts are. What one wants
to know of each part is p(o, part) / q(part), the rest integrated out:

=========  =============================================================  =====================
block      in the ratio                                                   integrated out
=========  =============================================================  =====================
joint      every latent                                                   nothing
s          s, and v and the prior's z where the model has them             w, exactly
w          w                                                              s and v, exactly
a site     that site of any other program                                 the others, by draws
=========  =============================================================  =====================

"w" needs a linear-Gaussian prior: given the owners the rest is a Kalman smoother, whose evidence is
known. A q(w) that has ruled out the right owners leaves the joint ratio constant, its k-hat small;
"s" sums over all owners and sees it. "A site" averages p / q over other draws of the other sites,
and needs a guide under which it is independent of them.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.distributions import Normal

from pyromodels.batch import MixtureBatch
from pyromodels.errors import ShapeError, mismatch
from pyromodels.guides.factorised import FactorisedGuide
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.mixture.bound import closed_form_elbo
from pyromodels.inference.mixture.updates import SourceUpdate, VisibilityUpdate
from pyromodels.models.mixdvae import MixDVAE

Draws = Mapping[str, Tensor]
"""Draws by site name, each (n, B, ...)."""

LogWeights = dict[tuple[str, ...], Tensor]
"""The sites of a block -> log p - log q of n draws, nats, (n, B). The joint one comes first."""


class PosteriorLike(Protocol):
    """What the report asks of a fitted guide, ours or anybody's."""

    def sample(self, num_samples: int) -> Draws:
        """Draw from q; every site (n, B, ...)."""

    def log_prob(self, draws: Draws) -> Tensor:
        """Return log q(latents), nats, (n, B)."""

    def log_joint(self, draws: Draws) -> Tensor:
        """Return log p(o, latents), nats, (n, B)."""


@dataclasses.dataclass(frozen=True)
class OneSequence:
    """The posterior of a program without a plate of sequences, (n, ...) made (n, 1, ...)."""

    posterior: PosteriorLike

    def sample(self, num_samples: int) -> Draws:
        """Draw from q; every site (n, 1, ...)."""
        draws = self.posterior.sample(num_samples)
        return {name: value.unsqueeze(1) for name, value in draws.items()}

    def log_prob(self, draws: Draws) -> Tensor:
        """Return log q(latents), nats, (n, 1)."""
        return self.posterior.log_prob(self._inner(draws)).unsqueeze(1)

    def log_joint(self, draws: Draws) -> Tensor:
        """Return log p(o, latents), nats, (n, 1)."""
        return self.posterior.log_joint(self._inner(draws)).unsqueeze(1)

    def _inner(self, draws: Draws) -> Draws:
        return {name: value.squeeze(1) for name, value in draws.items()}


def with_sequences(posterior: PosteriorLike) -> PosteriorLike:
    """Return a posterior whose draws have a dimension of sequences, of size one if need be."""
    density = posterior.log_joint(posterior.sample(2))
    if density.dim() == 2:
        return posterior
    if density.dim() == 1:
        return OneSequence(posterior)
    given = f"shape {tuple(density.shape)} of 2 draws"
    raise ShapeError(mismatch("posterior.log_joint", given=given, expected="(2, B) or (2,)"))


def mixture_of(posterior: PosteriorLike) -> tuple[MixDVAE, MixtureBatch] | None:
    """Return the model and the batch of the posterior of a MixDVAE; None for any other program."""
    model, batch = getattr(posterior, "model", None), getattr(posterior, "batch", None)
    ours = isinstance(model, MixDVAE) and isinstance(batch, MixtureBatch)
    return (model, batch) if ours else None


@torch.no_grad()
def log_weights(posterior: PosteriorLike, draws: Draws, *, num_inner: int = 30) -> LogWeights:
    """Return log p - log q of draws, joint and for every block of the table above that there is.

    Args:
        posterior: what `draws` were drawn from.
        draws: of `posterior.sample`.
        num_inner: draws that integrate out the other sites of a program that is no MixDVAE.
    """
    sites = tuple(draws)
    joint = posterior.log_joint(draws) - posterior.log_prob(draws)
    weights: LogWeights = {sites: joint}
    mixture = mixture_of(posterior)
    if mixture is not None and "w" in sites and _has_owners(posterior):
        model, batch = mixture
        others = tuple(name for name in sites if name != "w")
        eta = posterior.guide.of(batch).responsibilities
        weights[others] = joint + _owner_correction(model, batch, draws, eta)
        shared_noise = getattr(model.prior, "process_std", joint).dim() <= 2
        if model.prior.message_is_exact and shared_noise:
            evidence = owner_evidence(model, batch, draws["w"])
            weights[("w",)] = evidence.log_evidence - _gathered(eta.log(), draws["w"], batch)
    elif len(sites) > 1 and _factorises(posterior, draws):
        for name in sites:
            weights[(name,)] = _averaged(posterior, draws, name, num_inner)
    return weights


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
    copies = take(batch, keys[:, 0])
    guide = MeanField(model, copies)
    owners = keys[:, 1:].unflatten(-1, w.shape[2:]).clamp_min(0)
    eta = torch.nn.functional.one_hot(owners, guide.responsibilities.shape[-1])
    guide.responsibilities = eta.to(copies.observations) * copies.mask[..., None]
    for update in (SourceUpdate(), VisibilityUpdate()):
        update(model, guide, copies)
    rows = rows.unflatten(0, w.shape[:2])
    return OwnerEvidence(closed_form_elbo(model, guide, copies)[rows], guide, rows)


def take(batch: MixtureBatch, rows: Tensor) -> MixtureBatch:
    """Return some sequences of a batch, once or more often each, as data of their own."""
    return dataclasses.replace(batch.subset(rows), index=None)


def _has_owners(posterior: PosteriorLike) -> bool:
    """Whether q(w) is a table of responsibilities, independent of the other sites."""
    guide = getattr(posterior, "guide", None)
    return isinstance(guide, FactorisedGuide) and guide.assignment == "mean_field"


def _owner_correction(
    model: MixDVAE, batch: MixtureBatch, draws: Draws, eta: Tensor
) -> Tensor:  # nats, shape: (n, B)
    r"""log q(w) - log p(w | o, s, v): added to the joint ratio it leaves that of s and v alone."""
    location = model.project(draws["s"])  # (n, B, N, T, K or 1, X)
    scale = model.variance(batch).sqrt().unsqueeze(1)
    score = Normal(location, scale).log_prob(batch.observations.unsqueeze(1))
    score = score.sum(-1).movedim(2, -1)  # (n, B, T, K, N)
    if model.detector is not None:
        score = score + model.detector.log_rates(draws["v"]).mT.unsqueeze(-2)
        clutter = model.clutter(batch).log_prob(batch.observations)
        clutter = clutter + math.log(model.detector.clutter_rate)
        clutter = clutter.expand(score.shape[:-1]).unsqueeze(-1)
        score = torch.cat((score, clutter), -1)
    log_ratio = eta.log() - score.log_softmax(-1)
    return _gathered(log_ratio, draws["w"], batch)


def _gathered(table: Tensor, w: Tensor, batch: MixtureBatch) -> Tensor:
    """Sum table[..., w] over the observations that are there, (*, B, T, K, J) -> (n, B)."""
    table = table.expand(*w.shape, table.shape[-1])
    taken = table.gather(-1, w.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return taken.masked_fill(~batch.mask, 0.0).sum((-1, -2))


def _factorises(posterior: PosteriorLike, draws: Draws) -> bool:
    """Whether every site is independent of the others under q: log q(a, b) = log q(a) + log q(b).

    Then exchanging one site between two draws leaves the sum of their log q.
    """
    halves = [{k: v[i : len(v) - 1 + i] for k, v in draws.items()} for i in (0, 1)]
    total = sum(posterior.log_prob(half) for half in halves)
    for name in draws:
        mixed = [{**a, name: b[name]} for a, b in (halves, halves[::-1])]
        other = sum(posterior.log_prob(half) for half in mixed)
        if not torch.allclose(other, total, rtol=1e-4, atol=1e-3):
            return False
    return True


def _averaged(posterior: PosteriorLike, draws: Draws, name: str, num_inner: int) -> Tensor:
    """log E_q(rest)[p(o, site, rest) / q(rest)] - log q(site), the rest from other draws."""
    ratios = []
    for shift in range(min(num_inner, len(draws[name]))):
        mixed = {k: v if k == name else v.roll(shift, 0) for k, v in draws.items()}
        ratios.append(posterior.log_joint(mixed) - posterior.log_prob(mixed))
    return torch.stack(ratios).logsumexp(0) - math.log(len(ratios))
