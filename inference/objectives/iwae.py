"""The importance-weighted bound."""

import math
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor

from pyromodels.inference.objectives.elbo_terms import (
    Program,
    Site,
    Traces,
    log_prob,
    run,
    same,
    samples,
    sum_to_plates,
)
from pyromodels.pyro_support.plates import BATCH, MAX_PLATE_NESTING

PARTICLES = "num_particles_vectorized"
"""Pyro's name of the plate of vectorised particles."""


class ImportanceELBO(ELBO):
    r"""E log 1/K \sum_k p(x, z_k) / q(z_k | x), z_k ~ q: between the ELBO (K = 1) and log p(x).

    Weights are those of one sequence, an index of the plate "batch" in which every site must be;
    the bound is the sum over sequences, each times its scale. A mask leaves densities out.

    `pyro.infer.RenyiELBO(alpha=0)` has the same value and gradient where nothing is scaled. A scale
    it puts inside, log-mean w^scale, which is no bound; and it is no loss for torch's optimisers.

    Reference: Burda, Grosse and Salakhutdinov, 2016, Importance weighted autoencoders, section 3.

    Args:
        num_particles: K.
        vectorize_particles: draw them at once, in a plate outside all others.
        max_plate_nesting: plates of the model, the deepest dimension.

    Raises:
        NotImplementedError: at a latent site that is enumerated, has no pathwise gradient, or is
            missing in the guide.
        ValueError: for a site outside the plate "batch", or scales that differ between the sites
            or within a sequence.

    Example:
        >>> from pyromodels.batch import SequenceBatch
        >>> from pyromodels.distributions.message import Anchor
        >>> from pyromodels.dynamics.srnn import SRNN
        >>> from pyromodels.guides.amortised import Amortised
        >>> from pyromodels.models.dvae import DynamicalVAE
        >>> model = DynamicalVAE(SRNN(source_dim=2))
        >>> x = torch.zeros(3, 20, 2)
        >>> batch = SequenceBatch(x, x[..., 0] == 0, Anchor(x[:, 0], 1 + x[:, 0]))
        >>> ImportanceELBO(num_particles=8).per_sequence(model, Amortised(model), batch).shape
        torch.Size([3])
    """

    def __init__(
        self,
        *,
        num_particles: int = 2,
        vectorize_particles: bool = True,
        max_plate_nesting: int = MAX_PLATE_NESTING,
    ) -> None:
        super().__init__(
            num_particles=num_particles,
            vectorize_particles=vectorize_particles,
            max_plate_nesting=max_plate_nesting,
        )

    def per_sequence(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:  # nats, shape: (B,)
        """Return the differentiable loss, minus the bound, of every sequence."""
        weights, scale = [], 1.0
        at_once = self.vectorize_particles and self.num_particles > 1
        plates = (PARTICLES, BATCH) if at_once else (BATCH,)
        for traces in self._get_traces(model, guide, args, kwargs):
            model_sites, guide_sites = ([s for _, s in samples(trace)] for trace in traces)
            log_p, log_q = (
                sum(sum_to_plates(plates, s, log_prob(s, scaled=False)) for s in sites)
                for sites in (model_sites, guide_sites)
            )
            weights.append(log_p - log_q)
            scale = _scale(model_sites + guide_sites)
        log_weights = weights[0] if at_once else torch.stack(weights)  # (K, B)
        return -scale * (log_weights.logsumexp(0) - math.log(self.num_particles))

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:  # nats, shape: ()
        """Return the loss of all sequences together."""
        return self.per_sequence(model, guide, *args, **kwargs).sum()

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Return the loss as a number, without a gradient."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Return the loss as a number, its gradient added to the parameters'."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return loss.item()

    def _get_trace(
        self, model: Program, guide: Program, args: tuple, kwargs: dict[str, Any]
    ) -> Traces:
        return run(model, guide, args, kwargs, max_plate_nesting=self.max_plate_nesting)


def _scale(sites: list[Site]) -> Tensor | float:  # shape: (B,), or a number
    """Return the one scale of all sites.

    Raises:
        ValueError: where they differ, or where it varies within a sequence.
    """
    first, *others = sites
    scale = first["scale"]
    if not all(same(scale, site["scale"]) for site in others):
        raise ValueError("scale: sites of different scales have no common importance weight")
    if not isinstance(scale, Tensor) or scale.dim() == 0:
        return scale
    dim = next(f.dim for f in first["cond_indep_stack"] if f.name == BATCH)
    if scale.numel() != (scale.shape[dim] if scale.dim() >= -dim else 1):
        raise ValueError(f'scale: shape {tuple(scale.shape)} varies within the plate "batch"')
    return scale.flatten()
