"""What every guide is: a Pyro program of a batch, and what else it may say of itself."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from pyromodels.pyro_support.vectorised_runs import (
    Draws,
    Program,
    Site,
    nesting_of,
    nesting_said,
    run,
    sites_of,
    total,
)


class Guide(nn.Module):
    """q(x) of the latents x of a model, given one batch.

    A guide states `forward(batch)`, Pyro statements that sample the model's latents under its
    names, shapes and plates; discrete ones that Pyro can enumerate may be left to the model. It
    counts dimensions from the right, so that a plate around it draws many times. Everything else
    has a default here.

    **Its start.** A guide stands somewhere when it is made, as its class says: at the data, at the
    prior, at a draw. One whose start can be given takes two keywords in its constructor:

    ==============  ==========================================================================
    `init`          site -> where its mean starts, a value of one run of the model in the
                    model's shape; sites left out start as the class says
    `init_scale`    standard deviation at the start, in the unit of the unconstrained values
    ==============  ==========================================================================

    (see `start_keywords`). An engine begins from the guide that it is handed and sets nothing back.

    **Minibatches.** A guide that keeps values for every sequence of its data looks up those that
    `batch.index` names, or refuses (`refuse_minibatch`).

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> class Normal(Guide):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.loc = nn.Parameter(torch.zeros(()))
        ...     def forward(self, batch):
        ...         pyro.sample("mean", dist.Normal(self.loc, 1.0))
        >>> guide = Normal()
        >>> draws = guide.sample(None, 5)
        >>> draws["mean"].shape, guide.log_prob(None, draws).shape
        (torch.Size([5]), torch.Size([5]))
    """

    max_plate_nesting: int | None = None
    """Batch dimensions that it uses; None: as many as a run shows."""
    has_density: bool = True
    """Whether log q can be evaluated."""
    init_scale: float = 1.0
    """Its deviation at the start: the unit that gradient steps are measured in."""
    num_chains: int = 1
    """Chains of the draws that it is made of; 1 for a law."""
    num_stored: int | None = None
    """How many draws it is made of; None for a law, which has as many as one wants."""

    def forward(self, batch: Any) -> Any:  # noqa: ANN401
        """Run the guide."""
        raise NotImplementedError(f"{type(self).__name__} states no `forward(batch)`")

    def sites(self, batch: Any) -> dict[str, Site]:  # noqa: ANN401
        """Return its random variables, auxiliary ones left out."""
        return sites_of(self, batch)

    @torch.no_grad()
    def sample(self, batch: Any, num_samples: int) -> Draws:  # noqa: ANN401
        """Draw from q, each site (n, *plates, *event)."""
        sites = self.sites(batch)
        nesting = nesting_of(self, sites=sites.values())
        nodes = run(self, batch, num_samples, nesting)
        return {name: site.inward(nodes[name]["value"], nesting) for name, site in sites.items()}

    @torch.no_grad()
    def log_prob(
        self,
        batch: Any,  # noqa: ANN401
        draws: Mapping[str, Tensor],  # as `sample` returns them
    ) -> Tensor:  # nats, shape: (n,)
        """Return log q of all its sites and sequences together.

        Raises:
            NotImplementedError: where it has no density.
        """
        if not self.has_density:
            raise NotImplementedError(f"log_prob: a guide of {type(self).__name__} has no density")
        sites = self.sites(batch)
        nesting = nesting_of(self, sites=sites.values())
        given = {name: site.outward(draws[name], nesting) for name, site in sites.items()}
        num_draws = len(next(iter(given.values())))
        nodes = run(self, batch, num_draws, nesting, self.auxiliary(given))
        return total(nodes, num_draws, nesting)

    def auxiliary(
        self,
        values: Mapping[str, Tensor],  # of every site, in the program's shapes
    ) -> Mapping[str, Tensor]:
        """Return what a run must be given to draw `values`: those of auxiliary sites too."""
        return values

    def in_order(self) -> dict[str, Tensor]:
        """Return what makes a run of `num_stored` draws return them all, chain after chain."""
        raise NotImplementedError(f"in_order: a guide of {type(self).__name__} is a law, not draws")

    def parametrised(self) -> "Guide":
        """Return the same law with parameters that gradients can move: itself, if it has them."""
        return self

    def responsibilities_of(self, batch: Any) -> Tensor | None:  # noqa: ANN401
        """Return q(w) of owners w, (B, T, K, J), where the guide holds them as a table."""
        return None


class ForeignGuide(Guide):
    """Any Pyro program as a guide, everything but its statements by default.

    Args:
        program: a function, or a module of Pyro's; its parameters stay its own.
    """

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.__dict__["program"] = program  # no submodule
        self.max_plate_nesting = nesting_said(program)

    def forward(self, batch: Any) -> Any:  # noqa: ANN401
        """Run the program."""
        return self.program(batch)


def as_guide(program: Program) -> Guide:
    """Return a program as a guide: itself, where it is one of `Guide`."""
    return program if isinstance(program, Guide) else ForeignGuide(program)


def start_keywords(
    component: Callable[..., Guide],
    init: Mapping[str, Tensor],
    init_scale: float,
) -> dict[str, Any]:
    """Return those keywords of a start that a guide's constructor takes, see `Guide`."""
    given = {"init": dict(init), "init_scale": init_scale}
    taken = signature(component).parameters
    return {name: value for name, value in given.items() if name in taken}
