"""A guide that is one point."""

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import biject_to

from pyromodels.errors import ShapeError, mismatch
from pyromodels.guides.base import Guide
from pyromodels.pyro_support.vectorised_runs import (
    Program,
    check_init,
    guided_sites,
    nesting_of,
    plates_of,
    refuse_minibatch,
)
from pyromodels.registry import GUIDES


@GUIDES.register("point")
class Point(Guide):
    """One value of every continuous latent; discrete ones are left to enumeration in the model.

    Trained with `TraceEnum_ELBO` it goes to the mode of p(x | data), the discrete sites summed out.
    Its log density is 0 at the point, as of a distribution over points: a bound "of" it is
    log p(data, x), in the units of x, and not to be compared with that of a proper density.

    Args:
        model: the program.
        batch: the data.
        init: where to start, site -> a value of one run of the model, in the model's shape.
            Sites left out start at a draw from the prior.

    Raises:
        ShapeError: where a value has not the shape of its site.
        ValueError: where the model has a discrete latent that Pyro cannot enumerate, where `init`
            names no continuous latent, or, when run, for a minibatch.

    Example:
        >>> import torch
        >>> def model(x):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        >>> guide = Point(model, torch.tensor(1.0), init={"mean": torch.tensor(0.5)})
        >>> guide(torch.tensor(1.0))["mean"].item()
        0.5
    """

    def __init__(
        self,
        model: Program,
        batch: Any,  # noqa: ANN401
        *,
        init: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self._sites = guided_sites(model, batch, "a Point")
        check_init(init or {}, self._sites)
        self.max_plate_nesting = nesting_of(model, sites=self._sites.values())
        self.unconstrained = nn.ParameterDict()
        for name, site in self._sites.items():
            value = (init or {}).get(name, site.value)
            if value.shape != site.value.shape:
                given, expected = tuple(value.shape), tuple(site.value.shape)
                raise ShapeError(mismatch(f"init[{name!r}]", given=given, expected=expected))
            start = biject_to(site.support).inv(value.detach()).clone()
            self.unconstrained[name] = nn.Parameter(start)

    def forward(self, batch: Any) -> dict[str, Tensor]:  # noqa: ANN401
        """Run the guide; returns the point."""
        refuse_minibatch("a Point", batch)
        plates: dict[str, pyro.plate] = {}
        point = {}
        for name, site in self._sites.items():
            value = biject_to(site.support)(self.unconstrained[name])
            with plates_of(site, plates):
                point[name] = pyro.sample(name, dist.Delta(value, event_dim=site.event_dim))
        return point
