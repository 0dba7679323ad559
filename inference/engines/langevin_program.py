"""Langevin dynamics on the latents of a Pyro program, its draws as a guide like any other."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to

from pyromodels.densities.base import SmoothedDensity
from pyromodels.errors import mismatch
from pyromodels.guides.empirical import Empirical
from pyromodels.inference.engines.langevin import Langevin, LangevinState, draw
from pyromodels.inference.engines.nuts import frozen
from pyromodels.inference.posterior.enumeration import log_marginal
from pyromodels.inference.training.progress import progress
from pyromodels.pyro_support.vectorised_runs import (
    Program,
    check_init,
    guided_sites,
    latent_sites,
    nesting_of,
    run,
    total,
)

BEST_ACCEPTANCE = 0.574
"""Of Metropolis-adjusted Langevin steps in many dimensions: Roberts and Rosenthal, 1998."""


class ProgramDensity(SmoothedDensity):
    r"""p(x, data) of a program as a density of its unconstrained continuous latents, in one vector.

    .. math:: \log p(x(u), \mathrm{data}) + \log |\det dx / du|

    Discrete latents are summed out. Every row is a run of its own; all run at once.

    Args:
        model: the program.
        batch: the data.

    Raises:
        ValueError: naming the site that is discrete and cannot be enumerated; for a sigma.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        >>> ProgramDensity(model, torch.tensor(1.0)).score(torch.zeros(2, 1))
        tensor([[1.],
                [1.]])
    """

    def __init__(self, model: Program, batch: Any) -> None:
        super().__init__()
        self.program, self.data = (model,), batch  # a tuple: its parameters are not ours
        self.sites = guided_sites(model, batch, "Langevin")
        latents = latent_sites(model, batch)
        self.nesting = nesting_of(model, sites=latents.values())
        self.discrete = len(latents) > len(self.sites)
        self.shapes = {
            name: biject_to(site.support).inv(site.of_one(site.value, self.nesting)).shape
            for name, site in self.sites.items()
        }
        self.num_coordinates = sum(math.prod(shape) for shape in self.shapes.values())

    def values(
        self,
        x: Tensor,  # shape: (n, num_coordinates)
    ) -> tuple[dict[str, Tensor], Tensor]:  # sites in the program's shapes; log |det|, shape: (n,)
        """Return the sites that a vector stands for, and the log Jacobian."""
        found, log_det = {}, x.new_zeros(len(x))
        parts = x.split([math.prod(shape) for shape in self.shapes.values()], -1)
        for part, (name, shape) in zip(parts, self.shapes.items(), strict=True):
            transform, part = biject_to(self.sites[name].support), part.reshape(len(x), *shape)
            found[name] = transform(part)
            of_site = transform.log_abs_det_jacobian(part, found[name])
            log_det = log_det + of_site.reshape(len(x), -1).sum(-1)
        return found, log_det

    def log_prob(
        self,
        x: Tensor,  # shape: (*batch, num_coordinates)
        noise_std: float | Tensor = 0.0,
    ) -> Tensor:  # nats, shape: (*batch)
        """Return log p(x(u), data) + log |det dx / du|.

        Raises:
            ValueError: for a sigma: a program is not smoothed.
        """
        if isinstance(noise_std, Tensor) or noise_std != 0:
            raise ValueError(mismatch("noise_std", given=noise_std, expected="0.0, of a program"))
        (model,), rows = self.program, x.reshape(-1, x.shape[-1])
        given, log_det = self.values(rows)
        if self.discrete:
            joint = log_marginal(model, self.data, len(rows), self.nesting, given)
        else:
            joint = total(run(model, self.data, len(rows), self.nesting, given), len(rows),
                          self.nesting)
        return (joint + log_det).reshape(x.shape[:-1])


def sample_langevin(
    model: Program,
    batch: Any,
    *,
    num_samples: int = 500,
    num_warmup: int = 500,
    num_chains: int = 4,
    thinning: int = 5,
    step_size: float = 0.1,
    adjusted: bool = True,
    temperature: float = 1.0,
    initial: Mapping[str, Tensor] | None = None,
    generator: torch.Generator | None = None,
    show_progress: bool = False,
) -> Empirical:
    """Draw from p(x | data) of the continuous latents, all chains at once; sum out discrete ones.

    Adjusted chains tune their common step during warm-up to an acceptance of 0.574 and have the
    exact law; unadjusted ones take the step that is given, and are off by its order. Chains start
    uniformly in (-2, 2) of every unconstrained coordinate, apart, so that R-hat means something.

    Args:
        model: the program; its discrete latents must be such that Pyro can enumerate them.
        batch: the data.
        num_samples: draws of a chain.
        num_warmup: steps before.
        num_chains: C.
        thinning: steps a draw.
        step_size: eta, in unconstrained coordinates; where tuning begins.
        adjusted: Metropolis-adjusted (MALA).
        temperature: tau of p^(1/tau).
        initial: where every chain starts, site -> unconstrained value of one run of the model.
        generator: of start and noise; None: a new one, seeded from torch's global random state.
        show_progress: show a progress bar.

    Raises:
        ValueError: where a number is not positive, naming the site that cannot be sampled, or where
            every chain diverges.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        >>> generator = torch.Generator().manual_seed(0)
        >>> guide = sample_langevin(model, torch.tensor(1.0), num_samples=400, generator=generator)
        >>> abs(guide.sample(torch.tensor(1.0), 1000)["mean"].mean().item() - 0.5) < 0.15
        True
    """
    options = {"num_samples": num_samples, "num_chains": num_chains, "thinning": thinning}
    for name, value in options.items():
        if value < 1:
            raise ValueError(mismatch(name, given=value, expected="at least 1"))
    density = ProgramDensity(model, batch)
    like = next(iter(density.sites.values())).value
    if generator is None:
        generator = torch.Generator(like.device).manual_seed(torch.initial_seed())
    position = _start(density, num_chains, initial or {}, like, generator)
    kernel = Langevin(density, step_size, temperature=temperature, adjusted=adjusted)
    with frozen(model):
        state = kernel.init(position)
        kernel, state = _warm_up(kernel, state, num_warmup, generator, show_progress)
        drawn = draw(kernel, state, num_samples, generator, thinning=thinning,
                     show_progress=show_progress)
    if lost := int(drawn.state.diverged.sum()):
        told = (f"Langevin: {lost} of {num_chains} chains diverged at step_size {step_size:g} and "
                "stood still; take a smaller step, or adjusted=True")
        if lost == num_chains:
            raise ValueError(told)
        warnings.warn(told, stacklevel=2)
    values, _ = density.values(drawn.positions.transpose(0, 1).flatten(0, 1))
    draws = {
        name: site.inward(values[name], density.nesting).unflatten(0, (num_chains, num_samples))
        for name, site in density.sites.items()
    }
    return Empirical(model, batch, draws)


def _start(
    density: ProgramDensity,
    num_chains: int,
    initial: Mapping[str, Tensor],
    like: Tensor,
    generator: torch.Generator,
) -> Tensor:  # shape: (C, num_coordinates)
    check_init(initial, density.sites)
    parts = []
    for name, shape in density.shapes.items():
        size = (num_chains, *shape)
        if name in initial:
            parts.append(initial[name].to(like).expand(size).reshape(num_chains, -1))
        else:
            uniform = torch.rand(size, generator=generator, device=like.device, dtype=like.dtype)
            parts.append((4 * uniform - 2).reshape(num_chains, -1))
    return torch.cat(parts, -1)


def _warm_up(
    kernel: Langevin,
    state: LangevinState,
    num_steps: int,
    generator: torch.Generator,
    show_progress: bool,
) -> tuple[Langevin, LangevinState]:
    """Take steps; adjusted ones move log eta towards the best acceptance, ever less."""
    log_step = torch.full((), math.log(kernel.step_size)).to(state.position)
    for number in progress(range(num_steps), desc="warm-up", unit="step",
                           disable=not show_progress):
        state, info = kernel.step(state, generator)
        if kernel.adjusted:
            log_step = log_step + (info.acceptance.mean() - BEST_ACCEPTANCE) / (1 + number) ** 0.6
            kernel = replace(kernel, step_size=log_step.exp())
    return kernel, state
