"""Running Pyro programs for many draws at once, whatever model or guide they are.

A program is a callable of one batch. Draws have two shapes. That of the program keeps every batch
dimension that Pyro counts, `(n, *batch dims, *event)`; ours leaves out those of no plate,
`(n, *plates, *event)`.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.inspect import site_is_deterministic
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import constraints

from pyromodels.batch import rows_of
from pyromodels.errors import mismatch, misshapen
from pyromodels.pyro_support.random_state import restored_random_state

Program = Callable[[Any], Any]
Draws = dict[str, Tensor]
"""Draws by site name, in our shapes: dimension 0 counts draws."""

DRAW_PLATE = "_draws"


class Site(NamedTuple):
    """One random variable of a program, as a single run of it shows."""

    name: str
    value: Tensor
    support: constraints.Constraint
    event_dim: int
    plates: tuple[Any, ...]  # frames, outermost first
    observed: bool
    enumerable: bool  # discrete, with a support that Pyro can list

    @property
    def batch_dim(self) -> int:
        """Batch dimensions of a single run."""
        return self.value.dim() - self.event_dim

    @property
    def kept(self) -> tuple[int, ...]:
        """Batch dimensions of our shape, leftmost first: plates, and sizes that no plate has."""
        plates = {frame.dim for frame in self.plates}
        sizes = {dim - self.event_dim: dim for dim in range(-self.batch_dim, 0)}
        loose = {dim for at, dim in sizes.items() if self.value.shape[at] > 1}
        return tuple(sorted(plates | loose))

    @property
    def discrete(self) -> bool:
        """Whether values are discrete."""
        return self.support.is_discrete

    def dim_of(self, plate: str) -> int | None:
        """Dimension of a plate in draws of our shape; None outside it."""
        dims = [frame.dim for frame in self.plates if frame.name == plate]
        return 1 + self.kept.index(dims[0]) if dims else None

    def of_one(self, value: Tensor, nesting: int) -> Tensor:
        """From a value of a single run to the program's shape, the draws' dimension left out."""
        return leading(value, nesting + self.event_dim)

    def inward(self, value: Tensor, nesting: int) -> Tensor:
        """From the program's shape (n, `nesting` batch dims, *event) to ours."""
        at = (1 + nesting + dim for dim in range(-nesting, 0) if dim not in self.kept)
        return value.squeeze(tuple(at)) if nesting else value

    def outward(self, value: Tensor, nesting: int) -> Tensor:
        """From our shape to the program's.

        Raises:
            ShapeError: where the value has another number of dimensions.
        """
        if value.dim() != 1 + len(self.kept) + self.event_dim:
            expected = ("n", *(self.value.shape[dim - self.event_dim] for dim in self.kept))
            event = tuple(self.value.shape[self.value.dim() - self.event_dim :])
            raise misshapen(f"draws of {self.name!r}", value.shape, (*expected, *event))
        for dim in range(-nesting, 0):
            if dim not in self.kept:
                value = value.unsqueeze(1 + nesting + dim)
        return value


def sites_of(program: Program, batch: Any) -> dict[str, Site]:  # noqa: ANN401
    """Run a program once and return its random variables; torch's random state is left as it was.

    Auxiliary variables of a guide are left out.
    """
    with restored_random_state(), torch.no_grad(), quietly():
        trace = poutine.trace(program).get_trace(batch)
    return {
        name: Site(
            name,
            node["value"].detach(),
            node["fn"].support,
            node["fn"].event_dim,
            tuple(frame for frame in node["cond_indep_stack"] if frame.vectorized),
            node["is_observed"],
            node["fn"].has_enumerate_support,
        )
        for name, node in random_nodes(trace).items()
        if not node["infer"].get("is_auxiliary")
    }


def latent_sites(program: Program, batch: Any) -> dict[str, Site]:  # noqa: ANN401
    """The sites of a model that are not observed."""
    return {name: site for name, site in sites_of(program, batch).items() if not site.observed}


def guided_sites(model: Program, batch: Any, guide: str) -> dict[str, Site]:  # noqa: ANN401
    """Return the continuous latents of a model; its other latents Pyro must be able to enumerate.

    Args:
        model: the program.
        batch: the data.
        guide: what is asked, for the message.

    Raises:
        ValueError: naming the site that can neither be guided nor enumerated.
    """
    sites = latent_sites(model, batch)
    for name, site in sites.items():
        if site.discrete and not site.enumerable:
            raise ValueError(
                f"{guide} cannot serve the site {name!r}, which is discrete and which Pyro cannot "
                "enumerate: marginalise it, or write a guide with that site; guides of a MixDVAE "
                "that have it: mean_field, chain"
            )
    continuous = {name: site for name, site in sites.items() if not site.discrete}
    if not continuous:
        raise ValueError(f"{guide}: the model has no continuous latent site to be a guide of")
    return continuous


def check_init(init: Mapping[str, Tensor], sites: Iterable[str]) -> None:
    """Raise `ValueError` where a start is given for a site that a guide has not."""
    if unknown := sorted(set(init) - set(sites)):
        raise ValueError(mismatch("init", given=f"sites {unknown}", expected=", ".join(sites)))


def refuse_minibatch(guide: str, batch: Any) -> None:  # noqa: ANN401
    """Raise `ValueError` where a guide that does not look up sequences is given some of them."""
    if rows_of(batch) is not None:
        raise ValueError(
            f"{guide} keeps one value for every sequence of its data and takes no minibatch; "
            "guides that do: mean_field, chain, parametrised_mean_field. For data of their own, "
            "dataclasses.replace(batch, index=None)"
        )


def nesting_of(*programs: Program, sites: Iterable[Site] = ()) -> int:
    """Batch dimensions that the programs use: as they say (`max_plate_nesting`), or as seen."""
    said = [nesting_said(program) for program in programs]
    seen = [max((-frame.dim for frame in site.plates), default=0) for site in sites]
    seen += [site.batch_dim for site in sites]
    return max((number for number in (*said, *seen) if number is not None), default=0)


def nesting_said(program: Program) -> int | None:
    """Return the `max_plate_nesting` of a program that states one, as a model or guide may."""
    return getattr(program, "max_plate_nesting", None)


def run(
    program: Program,
    batch: Any,  # noqa: ANN401
    num_draws: int,
    nesting: int,
    given: Mapping[str, Tensor] | None = None,  # in the program's shapes
) -> dict[str, dict[str, Any]]:
    """Run a program once for all draws, vectorised; sites in `given` take those values."""
    with quietly(), draw_plate(num_draws, nesting), poutine.condition(data=dict(given or {})):
        return random_nodes(poutine.trace(program).get_trace(batch))


def leading(value: Tensor, num_dims: int) -> Tensor:
    """Give a tensor so many dimensions, the new ones on its left."""
    return value[(None,) * (num_dims - value.dim())]


def draw_plate(num_draws: int, nesting: int) -> pyro.plate:
    """The plate of the draws, left of all others."""
    return pyro.plate(DRAW_PLATE, num_draws, dim=-nesting - 1)


def random_nodes(trace: poutine.Trace) -> dict[str, dict[str, Any]]:
    """The random variables of a trace; plates and `pyro.deterministic` are left out."""
    return {
        name: node
        for name, node in trace.nodes.items()
        if node["type"] == "sample"
        and not site_is_subsample(node)
        and not site_is_deterministic(node)
    }


class Uncondition(UnconditionMessenger):
    """`poutine.uncondition`, which would sample a `pyro.deterministic` in a wrong shape too."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not site_is_deterministic(msg):
            super()._pyro_sample(msg)


def total(
    nodes: Mapping[str, Mapping[str, Any]],
    num_draws: int,
    nesting: int,
    sequences: str | None = None,
) -> Tensor:  # nats, shape: (n, B), or (n,)
    """Sum log densities over all but draws and, where every site lies in it, one plate."""
    stacks = [node["cond_indep_stack"] for node in nodes.values()]
    inside = [[frame for frame in stack if frame.name == sequences] for stack in stacks]
    sizes = {0: num_draws}
    if inside and all(inside):
        sizes[1 + nesting + inside[0][0].dim] = inside[0][0].size
    over = [dim for dim in range(1 + nesting) if dim not in sizes]
    parts = []
    for node in nodes.values():
        log_prob = node["fn"].log_prob(node["value"])
        log_prob = leading(scale_and_mask(log_prob, node["scale"], node["mask"]), 1 + nesting)
        log_prob = log_prob.expand([sizes.get(dim, -1) for dim in range(1 + nesting)])
        parts.append(log_prob.sum(over) if over else log_prob)
    return torch.stack(parts).sum(0) if parts else torch.zeros(num_draws)


@contextmanager
def quietly() -> Any:
    """Keep what a program does out of the handlers around and out of Pyro's parameter store.

    Parameters that are in the store are seen; those that a program adds are gone afterwards.
    """
    store = pyro.get_param_store()
    with poutine.block(), store.scope(store.get_state()):
        yield


@contextmanager
def plates_of(site: Site, made: dict[str, pyro.plate]) -> Any:
    """Enter the plates of a site, each made once a run: `made` keeps them."""
    with ExitStack() as stack:
        for frame in site.plates:
            if frame.name not in made:
                made[frame.name] = pyro.plate(frame.name, frame.size, dim=frame.dim)
            stack.enter_context(made[frame.name])
        yield
