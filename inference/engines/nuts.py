"""Pyro's No-U-Turn Sampler on small models, its draws as a guide like any other."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor, nn

from pyromodels.errors import mismatch
from pyromodels.guides.empirical import Empirical
from pyromodels.pyro_support.vectorised_runs import (
    Program,
    guided_sites,
    latent_sites,
    nesting_of,
    quietly,
)


def sample_nuts(
    model: Program,
    batch: Any,
    *,
    num_samples: int = 500,
    num_warmup: int = 300,
    num_chains: int = 2,
    max_tree_depth: int = 8,
    full_mass: bool = False,
    initial: dict[str, Tensor] | None = None,
    jit: bool = False,
    progress: bool = False,
) -> Empirical:
    """Draw from p(x | data) of the continuous latents, discrete ones summed out.

    Chains run one after the other, from torch's global random state: seed it at the edge. The
    Posterior of the result draws the discrete sites from their exact law given x.

    Args:
        model: the program; its discrete latents must be such that Pyro can enumerate them.
        batch: the data.
        num_samples: draws of a chain.
        num_warmup: steps before, which tune step size and mass.
        num_chains: C.
        max_tree_depth: a draw takes at most 2^depth gradients.
        full_mass: a mass matrix that knows correlations; for posteriors far from round.
        initial: where every chain starts, site -> unconstrained value of one run of the model; None
            starts at random.
        jit: trace the model with `torch.jit`: three times faster where its shapes do not depend on
            the values.
        progress: print a progress bar.

    Raises:
        ValueError: where a number is not positive, or naming the site that cannot be sampled.
    """
    for name, value in (("num_samples", num_samples), ("num_chains", num_chains)):
        if value < 1:
            raise ValueError(mismatch(name, given=value, expected="at least 1"))
    latents = latent_sites(model, batch)
    sites = guided_sites(model, batch, "NUTS")
    nesting = nesting_of(model, sites=latents.values())
    chains, divergent = [], 0
    for _ in range(num_chains):
        kernel = NUTS(
            model,
            max_plate_nesting=nesting,
            max_tree_depth=max_tree_depth,
            full_mass=full_mass,
            jit_compile=jit,
            ignore_jit_warnings=True,
        )
        sampler = MCMC(
            kernel,
            num_samples,
            warmup_steps=num_warmup,
            initial_params=initial,
            disable_progbar=not progress,
        )
        with quietly(), frozen(model), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit")
            sampler.run(batch)
        chains.append(sampler.get_samples())
        divergences = sampler.diagnostics().get("divergences", {})
        divergent += sum(map(len, divergences.values()))
    if divergent:
        warnings.warn(
            f"NUTS: {divergent} of {num_chains * num_samples} draws diverged; the posterior has "
            "regions that it does not reach: reparametrise, or raise num_warmup",
            stacklevel=2,
        )
    draws = {}
    for name, site in sites.items():
        value = torch.stack([chain[name].detach() for chain in chains])  # (C, n, *batch, *event)
        flat = value.flatten(0, 1)
        flat = flat.reshape(len(flat), *[1] * (nesting - site.batch_dim), *site.value.shape)
        draws[name] = site.inward(flat, nesting).unflatten(0, value.shape[:2])
    return Empirical(model, batch, draws)


@contextmanager
def frozen(model: Program) -> Iterator[None]:
    """Hold the parameters of a model: the sampler needs gradients of the latents alone."""
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    trained = [p for p in parameters if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
