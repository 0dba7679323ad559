"""The ELBO of models over trajectories: closed-form KL between conditionals, frame by frame."""

from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.util import is_validation_enabled, torch_item
from pyro.poutine import Trace
from pyro.util import warn_if_nan
from torch import Tensor
from torch.distributions import kl_divergence

from pyromodels.distributions.path import PathDistribution
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
from pyromodels.pyro_support.shared_work import one_evaluation


class PathELBO(TraceMeanField_ELBO):
    r"""E_q[log p(x | z)] - kl_weight KL(q || p), the KL of a path in closed form at every frame.

        KL = E_q \sum_t KL(q(z_t | z_{<t}, .) || p(z_t | z_{<t}, .))

    where both distributions of a latent site are `PathDistribution`s; the conditionals are those
    along the sampled path. At any other latent site it is log q - log p at the sample, as in
    `Trace_ELBO`, and so it is where mask or scale of model and guide differ. The value is that of
    one Pyro site for every frame under `TraceMeanField_ELBO`, gradient included, without the sites.

    As there, the closed form needs a guide in which nothing that p(z_t | z_<t, .) depends on is
    drawn from z_t.

    Works as any ELBO of Pyro's: with `pyro.infer.SVI`, or as a module, `PathELBO()(model, guide)`.

    Args:
        num_particles: draws that are averaged.
        vectorize_particles: draw them at once, in a plate outside all others.
        max_plate_nesting: plates of the model, the deepest dimension.
        kl_weight: weight of the KL term, an attribute for schedules to set; 1 is the bound.

    Raises:
        NotImplementedError: at a latent site that is enumerated, has no pathwise gradient, or is
            missing in the guide.

    Example:
        >>> from pyromodels.batch import SequenceBatch
        >>> from pyromodels.distributions.message import Anchor
        >>> from pyromodels.dynamics.srnn import SRNN
        >>> from pyromodels.guides.amortised import Amortised
        >>> from pyromodels.models.dvae import DynamicalVAE
        >>> model = DynamicalVAE(SRNN(source_dim=2))
        >>> x = torch.zeros(3, 20, 2)
        >>> batch = SequenceBatch(x, x[..., 0] == 0, Anchor(x[:, 0], 1 + x[:, 0]))
        >>> loss = PathELBO()(model, Amortised(model))
        >>> loss(batch).shape
        torch.Size([])
        >>> PathELBO().per_sequence(model, Amortised(model), batch).shape
        torch.Size([3])
    """

    def __init__(
        self,
        *,
        num_particles: int = 1,
        vectorize_particles: bool = False,
        max_plate_nesting: int = MAX_PLATE_NESTING,
        kl_weight: float = 1.0,
    ) -> None:
        super().__init__(
            num_particles=num_particles,
            vectorize_particles=vectorize_particles,
            max_plate_nesting=max_plate_nesting,
        )
        self.kl_weight = kl_weight

    def per_sequence(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:  # nats, shape: (B,)
        """Return the differentiable loss, minus the bound, of every index of the plate "batch".

        Raises:
            ValueError: for a site outside that plate.
        """
        total = 0.0
        for traces in self._get_traces(model, guide, args, kwargs):
            for site, term in _terms(Traces(*traces)):
                total = total - sum_to_plates((BATCH,), site, term)
        return total / self.num_particles

    def _get_trace(
        self, model: Program, guide: Program, args: tuple, kwargs: dict[str, Any]
    ) -> Traces:
        with one_evaluation():  # model and guide share what both compute of the data
            traces = run(model, guide, args, kwargs, max_plate_nesting=self.max_plate_nesting)
            self._weigh(traces)
        return traces

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:  # nats, shape: ()
        """Return minus the bound, differentiable; unlike Pyro's, it does not wait for a device."""
        value = surrogate = 0.0
        for traces in self._get_traces(model, guide, args, kwargs):
            loss = -sum(term.sum() for _, term in _terms(Traces(*traces)))
            value = value + loss.detach().double() / self.num_particles
            surrogate = surrogate + loss / self.num_particles
        if is_validation_enabled():
            warn_if_nan(surrogate, "loss")
        return value.to(surrogate.dtype) + (surrogate - surrogate.detach())

    def _differentiable_loss_particle(self, *traces: Trace) -> tuple[float, Tensor]:
        loss = -sum(term.sum() for _, term in _terms(Traces(*traces)))
        return torch_item(loss), loss

    def _weigh(self, traces: Traces) -> None:
        """Note beside every site what it adds to the bound, in the batch shape of the site."""
        for name, site in samples(traces.model):
            if site["is_observed"]:
                site["bound"] = log_prob(site)
            else:
                site["bound"] = -self.kl_weight * kl(site, traces.guide.nodes[name])
        for name, site in samples(traces.guide):
            if name not in traces.model.nodes:  # auxiliary
                site["bound"] = -self.kl_weight * log_prob(site)


def _terms(traces: Traces) -> list[tuple[Site, Tensor]]:
    """Return the sites that add to the bound, and what they add."""
    sites = [site for trace in traces for _, site in samples(trace)]
    return [(site, site["bound"]) for site in sites if "bound" in site]


def kl(
    model_site: Site, guide_site: Site
) -> Tensor:  # nats, shape: batch shape of the site
    """Return KL(q || p) of a latent site at the sampled path, or log q - log p at the sample."""
    p, q, value = model_site["fn"], guide_site["fn"], guide_site["value"]
    paths = isinstance(p, PathDistribution) and isinstance(q, PathDistribution)
    if not paths or not (
        same(model_site["scale"], guide_site["scale"])
        and same(model_site["mask"], guide_site["mask"])
        and same(p.time_mask, q.time_mask)
    ):
        return log_prob(guide_site) - log_prob(model_site)
    try:
        per_frame = kl_divergence(q.conditionals(value), p.conditionals(value))
    except NotImplementedError:  # conditionals of families with no closed form between them
        return log_prob(guide_site) - log_prob(model_site)
    if q.time_mask is not None:
        per_frame = torch.where(q.time_mask, per_frame, 0.0)
    total = per_frame.sum(-1)
    total = total.expand(torch.broadcast_shapes(total.shape, q.batch_shape))
    return scale_and_mask(total, guide_site["scale"], guide_site["mask"])
