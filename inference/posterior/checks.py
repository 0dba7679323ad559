"""Whether a model and a guide can be used together, and for many draws at once."""

from collections.abc import Iterable
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine

from pyromodels.errors import ShapeError, mismatch
from pyromodels.inference.posterior.model_and_guide import ModelAndGuide, auxiliary_drawn
from pyromodels.pyro_support.random_state import restored_random_state
from pyromodels.pyro_support.vectorised_runs import Program, Site, quietly, random_nodes, run, total

BROADCAST = (
    "it does not run for many draws at once; count dimensions from the right (`x[..., 0]`, not "
    "`x[0]`; sum(-1), not sum()), as Pyro's vectorised particles need it too"
)


def check_sites(both: ModelAndGuide) -> None:
    """Raise `ValueError` where the guide has a site too many, one too few, or of another shape."""
    if unknown := sorted(set(both.guided) - set(both.latents)):
        known = ", ".join(sorted(both.latents)) or "none"
        raise ValueError(f"guide: samples {unknown}, which the model has not; it has: {known}")
    for name in both.enumerated:
        if not both.sites[name].enumerable:
            raise ValueError(
                f"guide: does not sample {name!r}, which Pyro cannot enumerate in the model; "
                f"the guide samples: {', '.join(sorted(both.guided)) or 'none'}"
            )
    for name, site in both.guided.items():
        given, expected = (tuple(one.value.shape) for one in (site, both.sites[name]))
        if _without_ones(given) != _without_ones(expected):
            hint = "Was the guide made for data of another size?"
            what = f"guide: shape of {name!r}"
            raise ShapeError(mismatch(what, given=given, expected=expected, hint=hint))


def check_broadcast(both: ModelAndGuide) -> None:
    """Raise `ValueError` where model or guide, run for two draws at once, is not itself twice.

    `x[0]` is the first part of one draw, and the first of many draws: nothing else would say.
    Guides without a density and those with auxiliary sites (Pyro's own) are not checked.
    """
    with torch.no_grad(), restored_random_state(), quietly():
        _check_broadcast(both, "model", both.model, both.latents.values())
        if both.own_guide.has_density:
            _check_broadcast(both, "guide", both.guide, both.guided.values())


def _check_broadcast(
    both: ModelAndGuide, what: str, program: Program, sites: Iterable[Site]
) -> None:
    alone = [poutine.trace(program).get_trace(both.batch) for _ in range(2)]
    if what == "guide" and auxiliary_drawn(random_nodes(alone[0])):
        return
    expected = torch.stack([torch.as_tensor(one.log_prob_sum()) for one in alone])
    given = {
        site.name: torch.stack(
            [site.of_one(one.nodes[site.name]["value"], both.nesting) for one in alone]
        )
        for site in sites
        # a point that the program computes may round otherwise for two
        if not _is_point(alone[0].nodes[site.name]["fn"])
    }
    try:
        nodes = run(program, both.batch, 2, both.nesting, given)
        together = total(nodes, 2, both.nesting)
    except (ValueError, RuntimeError, IndexError) as error:
        raise ValueError(f"{what}: {BROADCAST}; it raised: {error}") from error
    close = {"rtol": 1e-3, "atol": 1e-3, "equal_nan": True}
    if not torch.allclose(together, expected.to(together), **close):
        density = "p" if what == "model" else "q"
        raise ValueError(
            f"{what}: {BROADCAST}; log {density} of two draws is {together.tolist()} together and "
            f"{expected.tolist()} one by one"
        )


def _is_point(law: Any) -> bool:  # noqa: ANN401
    while hasattr(law, "base_dist"):
        law = law.base_dist
    return isinstance(law, dist.Delta)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the ones on its left, which batch dimensions of no plate have."""
    return shape[next((i for i, size in enumerate(shape) if size != 1), len(shape)) :]
