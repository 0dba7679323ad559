"""Importance ratios of a posterior, joint and block by block.

A joint of hundreds of dimensions has heavy-tailed ratios however good its parts are. What one wants
to know of each part is p(o, part) / q(part), the rest integrated out:

=========  =============================================================  =====================
block      in the ratio                                                   integrated out
=========  =============================================================  =====================
joint      every latent                                                   nothing
a site     that site                                                      the others, by draws
=========  =============================================================  =====================

"A site" averages p / q over other draws of the other sites, and needs a guide under which it is
independent of them. A family of models may have blocks that are integrated out exactly, see
`Family.blocks`.
"""

import math

import torch
from torch import Tensor

from pyromodels.inference.adequacy.family import LogWeights, family_of
from pyromodels.inference.adequacy.protocols import Draws, PosteriorLike


@torch.no_grad()
def log_weights(posterior: PosteriorLike, draws: Draws, *, num_inner: int = 30) -> LogWeights:
    """Return log p - log q of draws, joint and for every block that there is.

    Args:
        posterior: what `draws` were drawn from.
        draws: of `posterior.sample`.
        num_inner: draws that integrate out the other sites of a program of no family.
    """
    sites = tuple(draws)
    joint = posterior.log_joint(draws) - posterior.log_prob(draws)
    blocks = family_of(posterior).blocks(draws, joint)
    if blocks is None:
        by_site = len(sites) > 1 and _factorises(posterior, draws)
        names = sites if by_site else ()
        blocks = {(name,): _averaged(posterior, draws, name, num_inner) for name in names}
    return {sites: joint, **blocks}


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
