"""A guide that is made of draws: what samplers return."""

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyromodels.errors import ShapeError, mismatch
from pyromodels.guides.base import Guide
from pyromodels.pyro_support.vectorised_runs import (
    Program,
    latent_sites,
    nesting_of,
    plates_of,
    refuse_minibatch,
)
from pyromodels.registry import GUIDES

INDEX = "_empirical_index"


@GUIDES.register("empirical")
class Empirical(Guide):
    """Draws of a sampler, in chains; as a program it draws one of them, all alike probable.

    Sites that it has no draws of are left to enumeration in the model. It has no density.

    Args:
        model: the program.
        batch: the data.
        draws: site -> shape (C, n, *plates of the site, *event), C chains of n draws.

    Raises:
        ShapeError: where draws have not the shape of their site, or sites differ in C and n.
        ValueError: where a site is none of the model's, or, when run, for a minibatch.

    Example:
        >>> def model(x):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        >>> guide = Empirical(model, torch.tensor(1.0), {"mean": torch.zeros(2, 50)})
        >>> guide.num_chains, guide.num_stored
        (2, 100)
    """

    has_density = False

    def __init__(
        self,
        model: Program,
        batch: Any,  # noqa: ANN401
        draws: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        latents = latent_sites(model, batch)
        for name in draws:
            if name not in latents:
                known = ", ".join(latents)
                raise ValueError(mismatch("draws", given=f"a site {name!r}", expected=known))
        if not draws or any(value.dim() < 2 for value in draws.values()):
            given = {name: tuple(value.shape) for name, value in draws.items()}
            raise ShapeError(mismatch("draws", given=given, expected="(C, n, ...) of each site"))
        sizes = {name: tuple(value.shape[:2]) for name, value in draws.items()}
        if len(set(sizes.values())) != 1:
            raise ShapeError(mismatch("draws", given=sizes, expected="one (C, n) of all sites"))
        self._sites = {name: latents[name] for name in draws}
        self.max_plate_nesting = nesting_of(model, sites=latents.values())
        self.num_chains, length = next(iter(sizes.values()))
        self.num_stored = self.num_chains * length
        for name, site in self._sites.items():
            value = site.outward(draws[name].detach().flatten(0, 1), self.max_plate_nesting)
            like = site.of_one(site.value, self.max_plate_nesting)
            if value.shape[1:] != like.shape:
                given, expected = tuple(value.shape[1:]), tuple(like.shape)
                raise ShapeError(mismatch(f"draws[{name!r}]", given=given, expected=expected))
            self.register_buffer(f"draws_{name}", value)

    def in_order(self) -> dict[str, Tensor]:
        """Return what makes a run of `num_stored` draws return them all, chain after chain."""
        stored = self.get_buffer(f"draws_{next(iter(self._sites))}")
        index = torch.arange(self.num_stored, device=stored.device)
        return {INDEX: index.reshape(-1, *[1] * self.max_plate_nesting)}

    def forward(self, batch: Any) -> dict[str, Tensor]:  # noqa: ANN401
        """Run the guide; returns the draw."""
        refuse_minibatch("an Empirical", batch)
        plates: dict[str, pyro.plate] = {}
        stored = {name: self.get_buffer(f"draws_{name}") for name in self._sites}
        device = next(iter(stored.values())).device
        logits = torch.zeros(self.num_stored, device=device)
        index = pyro.sample(INDEX, dist.Categorical(logits=logits), infer={"is_auxiliary": True})
        index = index.reshape(index.shape[: max(0, index.dim() - self.max_plate_nesting)])
        result = {}
        for name, site in self._sites.items():
            value = stored[name][index]
            with plates_of(site, plates):
                result[name] = pyro.sample(name, dist.Delta(value, event_dim=site.event_dim))
        return result
