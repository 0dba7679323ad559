"""Runs of a guide and a model on its draws, and the terms that their sites add to a bound."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import is_validation_enabled
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match
from torch import Tensor

Site = dict[str, Any]
Program = Callable[..., Any]


class Traces(NamedTuple):
    """One run of both programs, plates left out."""

    model: poutine.Trace
    guide: poutine.Trace


def run(
    model: Program, guide: Program, args: tuple, kwargs: dict[str, Any], *, max_plate_nesting: int
) -> Traces:
    """Run the guide, and the model on its draws; unlike Pyro's, without computing any density.

    Raises:
        NotImplementedError: where the bound or its gradient would silently be another one.
    """
    guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    replayed = poutine.replay(model, trace=guide_trace)
    model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
    pruned = Traces(prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace))
    for name, site in (*latents(pruned.model), *latents(pruned.guide)):
        if site["infer"].get("enumerate"):
            raise NotImplementedError(
                f"site {name!r} is enumerated, and this ELBO takes a sample; use TraceEnum_ELBO"
            )
    for name, _ in latents(pruned.model):
        if name not in pruned.guide.nodes:
            raise NotImplementedError(f"site {name!r} is in the model and not in the guide")
    for name, site in latents(pruned.guide):
        if not site["fn"].has_rsample:
            raise NotImplementedError(
                f"site {name!r}: {type(site['fn']).__name__} has no pathwise gradient; use "
                "Trace_ELBO, or TraceEnum_ELBO where it can be enumerated"
            )
    if is_validation_enabled():
        check_model_guide_match(model_trace, guide_trace, max_plate_nesting)
    return pruned


def samples(trace: poutine.Trace) -> list[tuple[str, Site]]:
    """Return all sites with a density."""
    return [(name, site) for name, site in trace.nodes.items() if site["type"] == "sample"]


def latents(trace: poutine.Trace) -> list[tuple[str, Site]]:
    """Return the sites that are not observed."""
    return [(name, site) for name, site in samples(trace) if not site["is_observed"]]


def log_prob(
    site: Site, *, scaled: bool = True
) -> Tensor:  # nats, shape: batch shape of the site
    """Return the log density of a site, its mask and, if `scaled`, its scale applied."""
    density = site["fn"].log_prob(site["value"])
    return scale_and_mask(density, site["scale"] if scaled else 1.0, site["mask"])


def same(left: object, right: object) -> bool:
    """Whether two masks, or two scales, are one."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        if left.shape != right.shape or left is right:
            return left is right
        return left.is_set_to(right) or torch.equal(left, right)  # the first asks no device
    return left is right or (type(left) is type(right) and left == right)


def sum_to_plates(
    plates: tuple[str, ...], site: Site, term: Tensor
) -> Tensor:  # shape: the sizes of the plates, in the order of their dimensions
    """Sum a site's term over all its batch dimensions but those of the named plates.

    Raises:
        ValueError: for a site outside one of them.
    """
    dims = {frame.name: frame.dim for frame in site["cond_indep_stack"]}
    for plate in plates:
        if plate not in dims:
            raise ValueError(
                f"site {site['name']!r} is outside the plate {plate!r}, and so belongs to no "
                "one sequence"
            )
    kept = [dims[plate] for plate in plates]
    summed = [dim for dim in range(-term.dim(), 0) if dim not in kept]
    return term.sum(summed) if summed else term
