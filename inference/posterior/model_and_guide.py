"""A model, its guide and a batch: which sites each has, and draws in either's shapes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from pyromodels.errors import mismatch
from pyromodels.guides.base import Guide, as_guide
from pyromodels.inference.posterior.enumeration import draw_discrete, log_marginal
from pyromodels.pyro_support.site_labels import Layout, layout_of
from pyromodels.pyro_support.vectorised_runs import (
    Draws,
    Program,
    Site,
    nesting_of,
    run,
    sites_of,
    total,
)

Nodes = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class ModelAndGuide:
    """Two Pyro programs of one batch.

    Args:
        model: the program.
        guide: its guide.
        batch: the one argument of both.
    """

    model: Program
    guide: Program
    batch: Any

    @cached_property
    def own_guide(self) -> Guide:
        """The guide with what it says of itself; the defaults of any other program."""
        return as_guide(self.guide)

    @cached_property
    def sites(self) -> dict[str, Site]:
        """Random variables of the model, observed ones too."""
        return sites_of(self.model, self.batch)

    @cached_property
    def guided(self) -> dict[str, Site]:
        """Random variables of the guide."""
        return sites_of(self.guide, self.batch)

    @cached_property
    def latents(self) -> dict[str, Site]:
        """Random variables of the model that are not observed."""
        return {name: site for name, site in self.sites.items() if not site.observed}

    @cached_property
    def observed(self) -> dict[str, Site]:
        """Random variables of the model that are data."""
        wanted = self.layout.observed
        observed = {name: site for name, site in self.sites.items() if site.observed}
        return observed if wanted is None else {name: observed[name] for name in wanted}

    @cached_property
    def enumerated(self) -> tuple[str, ...]:
        """Discrete sites that the guide leaves to the model."""
        return tuple(name for name in self.latents if name not in self.guided)

    @cached_property
    def layout(self) -> Layout:
        """What the model says of its variables beside their law."""
        return layout_of(self.model, self.batch)

    @cached_property
    def nesting(self) -> int:
        """Batch dimensions that the programs use."""
        sites = (*self.sites.values(), *self.guided.values())
        return nesting_of(self.model, self.guide, sites=sites)

    # ---- draws and densities

    def draw(self, num_samples: int | None) -> tuple[Draws, Tensor | None]:
        """Draws and, where q has a density, log q of each."""
        given = None
        if num_samples is None:
            num_samples = self.own_guide.num_stored
            if num_samples is None:
                raise ValueError(
                    mismatch("num_samples", given=None, expected="a number: q is a law, not draws")
                )
            given = self.own_guide.in_order()
        elif num_samples < 1:
            raise ValueError(mismatch("num_samples", given=num_samples, expected="at least 1"))
        nodes = run(self.guide, self.batch, num_samples, self.nesting, given)
        draws = self.inward(values_of(nodes), self.guided)
        if self.enumerated:
            drawn = draw_discrete(
                self.model,
                self.batch,
                num_samples,
                self.nesting,
                self.outward(draws),
                [self.sites[name] for name in self.enumerated],
            )
            draws |= self.inward(drawn, self.enumerated)
        return draws, self.log_q(nodes, draws) if self.own_guide.has_density else None

    def log_q(self, nodes: Nodes, draws: Mapping[str, Tensor]) -> Tensor:
        """Log q of a run of the guide and of the discrete sites that it leaves to the model."""
        num_draws = count(draws)
        log_q = self.total(nodes, num_draws)
        if not self.enumerated:
            return log_q
        joint = self.log_joint(draws)
        marginal = log_marginal(
            self.model,
            self.batch,
            num_draws,
            self.nesting,
            self.outward({name: draws[name] for name in self.guided}),
            self.layout.sequences if joint.dim() > 1 else None,
        )
        conditional = joint - marginal
        return log_q + (conditional if log_q.dim() == joint.dim() else conditional.sum(-1))

    def log_joint(self, draws: Mapping[str, Tensor]) -> Tensor:  # nats, shape: (n, B) or (n,)
        """Log p(data, x) at draws in our shapes."""
        num_draws = count(draws)
        return self.total(self.run(self.model, num_draws, draws), num_draws)

    # ---- runs, all draws at once

    def run(
        self, program: Program, num_draws: int, draws: Mapping[str, Tensor] | None = None
    ) -> Nodes:
        """Run a program at draws of every latent in our shapes, or freely.

        Raises:
            ValueError: where a latent is missing, which would silently be drawn from its prior.
        """
        if draws is not None and (missing := sorted(set(self.latents) - set(draws))):
            raise ValueError(
                mismatch("draws", given=f"none of {missing}", expected="every site of `sample`")
            )
        given = None if draws is None else self.outward(draws)
        return run(program, self.batch, num_draws, self.nesting, given)

    def total(self, nodes: Nodes, num_draws: int) -> Tensor:  # nats, shape: (n, B) or (n,)
        """Sum the log densities of a run."""
        return total(nodes, num_draws, self.nesting, self.layout.sequences)

    def outward(self, draws: Mapping[str, Tensor]) -> Draws:
        """From our shapes to the program's; entries that do not exist take a legal value.

        Raises:
            ValueError: where the model has no such site.
        """
        given = {}
        for name, value in draws.items():
            if name not in self.latents:
                known = ", ".join(self.latents)
                raise ValueError(mismatch("draws", given=f"a site {name!r}", expected=known))
            if name in self.layout.absent:
                value = value.clamp_min(0)
            given[name] = self.sites[name].outward(value, self.nesting)
        return given

    def inward(self, values: Mapping[str, Tensor], names: Iterable[str]) -> Draws:
        """From the program's shapes to ours; entries that do not exist are marked."""
        return {
            name: self.mark(
                name,
                self.sites[name].inward(values[name], self.nesting),
                self.layout.absent.get(name, 0),
            )
            for name in names
        }

    def mark(self, name: str, value: Tensor, absent: float) -> Tensor:
        """Set the entries of a site that do not exist."""
        present = self.layout.present.get(name)
        if present is None:
            return value
        present = present[(..., *(None,) * (value.dim() - 1 - present.dim()))]
        return value.masked_fill(~present, absent)


def values_of(nodes: Nodes) -> Draws:
    """Values of a run."""
    return {name: node["value"] for name, node in nodes.items()}


def auxiliary_drawn(nodes: Nodes) -> list[str]:
    """Sites of the guide alone that a run has drawn, whatever values it was given."""
    return [
        name
        for name, node in nodes.items()
        if node["infer"].get("is_auxiliary") and not node["is_observed"]
    ]


def count(draws: Mapping[str, Tensor]) -> int:
    """Number of draws, n.

    Raises:
        ValueError: where there are none, or sites differ in their number.
    """
    sizes = {name: len(value) for name, value in draws.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(mismatch("draws", given=sizes, expected="one number of draws, of a site"))
    return next(iter(sizes.values()))
