"""What a fitted guide says, as one object: draws, densities, predictions, a file for ArviZ."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pyromodels.distributions.path import PathDistribution
from pyromodels.errors import ShapeError, check_choice, mismatch
from pyromodels.inference.posterior import arviz_io
from pyromodels.inference.posterior.checks import check_broadcast, check_sites
from pyromodels.inference.posterior.inference_data import groups_of
from pyromodels.inference.posterior.model_and_guide import (
    ModelAndGuide,
    auxiliary_drawn,
    count,
    values_of,
)
from pyromodels.pyro_support.vectorised_runs import Draws, Program, Uncondition, leading, run


@dataclass(frozen=True)
class Posterior:
    r"""q(x) of a Pyro model given one batch, whatever fitted the guide: yours or ours.

    A model and a guide are callables of the batch with Pyro statements in them. Discrete sites that
    the guide leaves out and Pyro can enumerate are drawn from p(w | x, data), exactly, and `log_q`
    counts their probability. Draws have shape (n, *plates of the site, *event); of a MixDVAE:

    =========  ======================  =======================================================
    site       shape of n draws        meaning
    =========  ======================  =======================================================
    ``s``      (n, B, N, T, D)         trajectories, as the data
    ``s_z``    (n, B, N, T, L)         latents of a deep prior, drawn from its encoder given s
    ``v``      (n, B, N, T)            visibility, 0 or 1; with a detector only
    ``w``      (n, B, T, K)            owner 0..N-1, N for clutter; -1 where no observation is
    =========  ======================  =======================================================

    Densities are of every sequence where the model's layout names their plate and every site lies
    in it, else of all the data. Draws use torch's global random state: seed it at the edge.

    Args:
        model: the program.
        guide: the guide fitted to `batch`.
        batch: the data, the one argument of both.
        dims: site -> names of all its dimensions, over the model's layout and the default: plate
            names, then `site_dim_0`, ... for the event.

    Raises:
        ShapeError: where the guide was fitted to another batch.
        ValueError: where the sites of guide and model do not fit, or where one of them does not run
            for many draws at once.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("day", 3):
        ...         pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        >>> def guide(x):
        ...     pyro.sample("mean", dist.Normal(0.5, 0.5))
        >>> posterior = Posterior(model, guide, torch.tensor([0.1, 0.7, 1.2]))
        >>> posterior.sample(5)["mean"].shape, posterior.predictive(5)["x"].shape
        (torch.Size([5]), torch.Size([5, 3]))
        >>> posterior.to_inference_data(5)["posterior_predictive"]["x"].dims
        ('chain', 'draw', 'day')
    """

    model: Program
    guide: Program
    batch: Any
    _: KW_ONLY
    dims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_sites(self.model_and_guide)
        check_broadcast(self.model_and_guide)
        for name, named in self.dims.items():
            site = self.model_and_guide.sites.get(name)
            size = None if site is None else len(site.kept) + site.event_dim
            if size != len(named):
                expected = "a site of the model" if site is None else f"{size} names"
                raise ShapeError(mismatch(f"dims[{name!r}]", given=named, expected=expected))

    @cached_property
    def model_and_guide(self) -> ModelAndGuide:
        """Which sites model and guide have, and how they are shaped."""
        return ModelAndGuide(self.model, self.guide, self.batch)

    # ---- draws and densities

    @torch.no_grad()
    def sample(self, num_samples: int | None = None) -> Draws:
        """Draw from q, shapes as in the class docstring.

        None: a guide that is made of draws (`Empirical`) returns them all, chain after chain.
        """
        return self.model_and_guide.draw(num_samples)[0]

    @torch.no_grad()
    def log_prob(
        self,
        draws: Mapping[str, Tensor],  # every site of `sample`, in its shapes
    ) -> Tensor:  # nats, shape: (n, B) or (n,)
        """Return log q: densities of continuous sites, probabilities of discrete ones.

        Raises:
            NotImplementedError: where the guide has no density, or none that can be evaluated.
        """
        if not self.model_and_guide.own_guide.has_density:
            raise NotImplementedError(
                f"log_prob: a guide of {type(self.guide).__name__} is made of draws and has no "
                "density; use log_joint, or a guide with a law of its own"
            )
        both, num_draws = self.model_and_guide, count(draws)
        if missing := sorted(set(both.latents) - set(draws)):
            expected = "every site of `sample`"
            raise ValueError(mismatch("draws", given=f"none of {missing}", expected=expected))
        given = both.outward({name: draws[name] for name in both.guided})
        given = both.own_guide.auxiliary(given)
        nodes = run(self.guide, self.batch, num_draws, both.nesting, given)
        if unknown := auxiliary_drawn(nodes):
            raise NotImplementedError(
                f"log_prob: a guide of {type(self.guide).__name__} draws its auxiliary sites "
                f"{unknown} anew and has no `Guide.auxiliary` that returns them for given draws; "
                "Pyro's automatic guides with a density: pyromodels.guides.auto.AutoGuide"
            )
        return both.log_q(nodes, draws)

    @torch.no_grad()
    def log_joint(
        self,
        draws: Mapping[str, Tensor],  # every site of `sample`, in its shapes
    ) -> Tensor:  # nats, shape: (n, B) or (n,)
        """Return log p(data, x) at the draws and the data of the batch."""
        return self.model_and_guide.log_joint(draws)

    # ---- predictions

    @torch.no_grad()
    def predictive(
        self,
        num_samples: int | None = None,
        *,
        draws: Mapping[str, Tensor] | None = None,
    ) -> Draws:
        """Draw data' ~ p(data' | x) with x ~ q: what could have been observed instead.

        Two stages, both explicit: latents from the guide, discrete ones among them, then data from
        the model given them, whatever data the batch holds. `Predictive(model, guide)` given the
        batch would return the batch, and would draw enumerated sites from their prior.

        Zero where the batch has no observation.

        Args:
            num_samples: n; drawn here.
            draws: use these draws of `sample` in place of new ones.
        """
        if (num_samples is None) == (draws is None):
            raise ValueError("predictive: give either num_samples or draws")
        draws = self.sample(num_samples) if draws is None else draws
        nodes = self.model_and_guide.run(Uncondition()(self.model), count(draws), draws)
        return self.model_and_guide.inward(values_of(nodes), self.model_and_guide.observed)

    @torch.no_grad()
    def prior(self, num_samples: int) -> tuple[Draws, Draws]:  # latents, data
        """Draw x ~ p(x) and data' ~ p(data' | x), whatever data the batch holds."""
        both = self.model_and_guide
        values = values_of(both.run(Uncondition()(self.model), num_samples))
        return both.inward(values, both.latents), both.inward(values, both.observed)

    @torch.no_grad()
    def log_likelihood(
        self,
        draws: Mapping[str, Tensor],  # of `sample`
        *,
        weights: Literal["posterior", "prior"] = "posterior",
    ) -> Draws:  # nats, of each observed site, shape: (n, *plates), of a path (n, *plates, T)
        r"""Return log p(o | x) of every observation and draw; zero where there is none.

        Where the model says that an observation is a mixture over owners w (as MixDVAE does), it is
        log \sum_w weight_w p(o | w, x) in place of the likelihood at the owner that was drawn.

        Args:
            draws: as `sample` returns them.
            weights: of such a mixture. "posterior" takes q(w), which has seen o: how well the fit
                explains the data. "prior" takes p(w | x): the likelihood of the other latents,
                which leave-one-out estimates (`arviz.loo`) need.
        """
        check_choice("weights", weights, "posterior", "prior")
        both, num_draws, result = self.model_and_guide, count(draws), {}
        nodes = both.run(self.model, num_draws, draws)
        for name, site in both.observed.items():
            if name in both.layout.components:
                value = self._mixture(name, draws, weights)
            else:
                law, value = nodes[name]["fn"], nodes[name]["value"]
                path = isinstance(law, PathDistribution)  # a likelihood for every frame
                value = law.log_prob_by_frame(value) if path else law.log_prob(value)
                value = leading(value, 1 + both.nesting + path)
                value = site.inward(value.expand(num_draws, *value.shape[1:]), both.nesting)
            result[name] = both.mark(name, value, 0.0)
        return result

    # ---- ArviZ

    def to_inference_data(self, num_samples: int | None = None, **options: Any) -> Any:
        """Return `arviz.InferenceData`, or from ArviZ 1 on its successor, `xarray.DataTree`.

        Groups: posterior, posterior_predictive, log_likelihood, sample_stats (lp, and where q has a
        density log_q and log_weight = lp - log_q), observed_data, constant_data, bound_trace, prior
        and prior_predictive. Missing observations are NaN in data and predictions, as ArviZ has it.

        Args:
            num_samples: draws, all in one chain: they are independent. None: 100, or every draw of
                a guide that is made of them, in its chains.
            **options: of `pyromodels.inference.posterior.inference_data.groups_of`.
        """
        return arviz_io.inference_data(**groups_of(self, num_samples, **options))

    def to_netcdf(self, path: Path, num_samples: int | None = None, **options: Any) -> Path:
        """Write `to_inference_data(num_samples, **options)` to a file, whole or not at all."""
        return arviz_io.save(self.to_inference_data(num_samples, **options), path)

    def _mixture(self, name: str, draws: Mapping[str, Tensor], weights: str) -> Tensor:
        """Log likelihood of observations whose owner is summed out."""
        log_weight, log_parts = self.model_and_guide.layout.components[name](draws)
        if weights == "posterior":
            eta = self.model_and_guide.own_guide.responsibilities_of(self.batch)
            if eta is not None:
                log_weight = eta.clamp_min(torch.finfo(eta.dtype).tiny).log()
            else:  # q(w | x) of an enumerated site is its exact conditional
                log_weight = (log_weight + log_parts).log_softmax(-1)
        return (log_weight + log_parts).logsumexp(-1)
