"""Small source priors, and runs of their programs, for the contract suite."""

import inspect
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.base import SourcePrior
from pyromodels.errors import SpecError, mismatch
from pyromodels.pyro_support.plates import batch_plate, source_plate
from pyromodels.registry import DYNAMICS, Registry

BATCH = (2, 1, 3)
"""Batch shape of a trajectory in a tracking program: sequences, frames (none), sources."""


def source_prior_specs() -> list[dict[str, Any]]:
    """Specs of all registered source priors, one for each of their `contract_specs`.

    Raises:
        SpecError: naming a registered component that is no source prior.
    """
    specs = []
    for name in DYNAMICS.names():
        component = DYNAMICS[name]
        if not (inspect.isclass(component) and issubclass(component, SourcePrior)):
            raise SpecError(
                mismatch(
                    f"dynamics {name!r}",
                    given=f"{component.__module__}.{component.__qualname__}",
                    expected="a SourcePrior",
                    hint="Derive it from pyromodels.dynamics.base.SourcePrior.",
                )
            )
        specs += specs_of(DYNAMICS, name)
    return specs


def specs_of(registry: Registry, name: str) -> list[dict[str, Any]]:
    """Return a registered component's `contract_specs`, its name among them."""
    return [{"name": name, **keywords} for keywords in registry[name].contract_specs]


def build_source_prior(spec: dict[str, Any]) -> SourcePrior:
    """Build a prior in float64 with weights large enough for every dependence to show."""
    torch.manual_seed(0)
    return amplified(DYNAMICS.build(spec))


def amplified(prior: SourcePrior) -> SourcePrior:
    """Return the prior in float64, its parameters half as large again, and none of them zero."""
    prior, generator = prior.double(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in prior.parameters():
            if parameter.any():
                parameter.mul_(1.5)
            else:
                parameter.normal_(std=0.1, generator=generator)
    return prior


def frames(prior: SourcePrior, number: int) -> int:
    """Return the number-th length of a trajectory that a prior takes."""
    return number * prior.frame_multiple


def example_anchor(prior: SourcePrior, batch_shape: tuple[int, ...] = BATCH) -> Anchor | None:
    """Boxes of plausible sizes where D = 4; anything otherwise; none where a prior takes none."""
    if not prior.takes_anchor:
        return None
    like = next(prior.parameters(), torch.zeros((), dtype=torch.float64))
    generator = torch.Generator().manual_seed(1)
    loc = torch.rand(*batch_shape, prior.source_dim, generator=generator, dtype=torch.float64)
    if prior.source_dim == 4:
        corner, size = loc[..., :2], 0.1 + 0.2 * loc[..., 2:]
        loc = torch.cat((corner, corner + size), -1)
    return Anchor(loc.to(like.dtype), torch.full_like(loc, 1e-4).to(like.dtype))


def start_of(prior: SourcePrior, *, own: bool = False) -> dict[str, Any]:
    """What `sample_sources` must be told of the start: an anchor, or the batch shape alone.

    `own` is a start by the prior's own law of s_1, also where it takes an anchor.
    """
    if own or not prior.takes_anchor:
        return {"anchor": None, "batch_shape": torch.Size(BATCH)}
    return {"anchor": example_anchor(prior)}


def starts_either_way(prior: SourcePrior) -> bool:
    """Whether a trajectory can start at an anchor, and by the prior's own law of s_1."""
    return prior.takes_anchor and not prior.needs_anchor


def run_prior(
    prior: SourcePrior,
    num_steps: int = 5,
    *,
    anchor: Anchor | None = None,
    own_start: bool = False,
    data: dict[str, Tensor] | None = None,
    mask: Tensor | None = None,
) -> poutine.Trace:
    """Trace `sample_sources` inside batch and source plates, at the given values of its sites.

    It starts at the anchor, or as `start_of` says; T is `frames` of the number of steps.
    """
    start = start_of(prior, own=own_start) if anchor is None else {"anchor": anchor}
    program = partial(in_plates, prior, frames(prior, num_steps), mask=mask, **start)
    return poutine.trace(poutine.condition(program, data or {})).get_trace()


def in_plates(prior: SourcePrior, num_steps: int, **start: Any) -> Tensor:
    """Draw s, `sample_sources` inside batch and source plates."""
    with batch_plate(BATCH[0]), source_plate(BATCH[2]):
        return prior.sample_sources("s", num_steps, **start)


def run_guide(
    prior: SourcePrior,
    s: Tensor,  # shape: (*batch, N, T, D)
    *,
    data: dict[str, Tensor] | None = None,
    mask: Tensor | None = None,
) -> poutine.Trace:
    """Trace `guide_sources` inside batch and source plates."""
    anchor = example_anchor(prior)

    def program() -> None:
        with batch_plate(s.shape[-5]), source_plate(s.shape[-3]):
            prior.guide_sources("s", s, anchor=anchor, mask=mask)

    return poutine.trace(poutine.condition(program, data or {})).get_trace()


def of_frames(value: Tensor) -> bool:
    """Whether a site holds a value for every frame, not one for the whole sequence."""
    return value.dim() >= len(BATCH) + 2


def cancels(name: str) -> bool:
    """Whether a parameter is the bias of attention's keys.

    It adds the same to every logit of a softmax: whatever its gradient is, is rounding.
    """
    return name.endswith("attention.key.bias")


def sites(trace: poutine.Trace) -> dict[str, Any]:
    """The random sites of a trace, plates left out."""
    return {
        name: node
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and not site_is_subsample(node)
    }


def values(trace: poutine.Trace) -> dict[str, Tensor]:
    """Values of the random sites, detached."""
    return {name: node["value"].detach() for name, node in sites(trace).items()}


def log_prob(trace: poutine.Trace) -> dict[str, Tensor]:
    """log p of every random site, shape (*batch, N)."""
    trace.compute_log_prob()
    return {name: node["log_prob"] for name, node in sites(trace).items()}


def total_log_prob(trace: poutine.Trace) -> Tensor:
    """log p of all random sites together, shape (*batch, N)."""
    return sum(log_prob(trace).values())
