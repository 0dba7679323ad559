"""`pyromodels table inference`: one guide, three ways to fit it, and how far apart they end.

A sweep of variational EM against a unit natural-gradient step, for every registered prior; the
bounds that each engine reaches on a problem small enough to know its evidence; the gradient where
VEM stands still. All in double precision.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pyro
import torch
from pyro.infer import TraceEnum_ELBO

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.base import SourcePrior
from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.experiments.harness.records import open_run, spec_of
from pyromodels.guides.enumerated import Enumerated
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.engines.svi import SVI
from pyromodels.inference.mixture.bound import closed_form_elbo
from pyromodels.inference.mixture.natural import NaturalAssignment, NaturalSources
from pyromodels.inference.mixture.updates import AssignmentUpdate, SourceUpdate
from pyromodels.inference.mixture.vem import VEM
from pyromodels.inference.training.seeding import seed_all
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.registry import DYNAMICS

STEPS = [SourceUpdate(), AssignmentUpdate()]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600, help="gradient steps of SVI")
    parser.add_argument("--out", type=Path, help="folder for the figures (default: runs/...)")


def main(args: argparse.Namespace) -> int:
    """Measure and print."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    figures: dict[str, float] = {}
    try:
        seed_all(args.seed)
        print("three sweeps of VEM against unit natural-gradient steps: largest difference")
        for name, difference in natural_differences():
            print(f"  {name:<28}{difference:>10.1e}")
            figures[f"natural/{name}"] = difference
        print("\nbounds of a problem whose evidence is known (nats), and what is missing to it")
        seed_all(args.seed)  # whatever priors are registered, the noise of SVI is the same
        evidence, rows = bounds(args.steps)
        print(f"  {'evidence, by enumeration':<46}{evidence:>10.4f}")
        for name, bound in rows:
            print(f"  {name:<46}{bound:>10.4f}{evidence - bound:>10.4f}")
            figures[f"bound/{name}"] = bound
        slope = gradient_at_the_fixed_point()
        print(f"\nlargest slope of the bound where VEM stands still: {slope:.1e}")
        figures |= {"evidence": evidence, "slope": slope}
    finally:
        torch.set_default_dtype(default)
    folder = open_run(args.out, "table-inference", spec_of(args))
    folder.write_metrics(figures)
    print(f"\nresults: {folder.path}")
    return 0


def natural_differences() -> Iterator[tuple[str, float]]:
    """Yield the largest difference of q(s) and q(w) for every registered prior."""
    for name in DYNAMICS:
        for number, spec in enumerate(DYNAMICS[name].contract_specs, 1):
            prior = DYNAMICS[name](**spec)
            if not prior.has_gaussian_message:
                continue
            model, batch = problem(prior)
            guides = [MeanField(model, batch) for _ in range(2)]
            engines = (STEPS, [NaturalSources(), NaturalAssignment()])
            for guide, steps in zip(guides, engines, strict=True):
                VEM(model, guide, steps).run(batch, 3)
            parts = ("loc", "covariance", "gain", "responsibilities")
            one, other = ([getattr(guide, part) for part in parts] for guide in guides)
            gaps = [(a - b).abs().max().item() for a, b in zip(one, other, strict=True)]
            yield f"{name} {number}", max(gaps)


def bounds(num_steps: int) -> tuple[float, list[tuple[str, float]]]:
    """Return the log evidence of a small problem and the bound that each way of fitting reaches."""
    model, batch = problem(LinearGaussian(num_coordinates=1, order=2, process_std=(0.3, 0.1)))
    model.requires_grad_(False)
    evidence = Enumerated(model, batch).log_evidence.sum().item()

    def ascend(steps: list, damping: float = 1.0) -> float:
        vem = VEM(model, MeanField(model, batch), steps, damping=damping)
        vem.run(batch, 500, tolerance=1e-12)
        return -vem.evaluate_loss(batch)

    def svi(elbo: object) -> float:
        guide = MeanField(model, batch).parametrised()
        engine = SVI(model, guide, elbo=elbo, learning_rate=0.1, num_steps=num_steps)
        for _ in range(num_steps):
            engine.step(batch)
        return closed_form_elbo(model, guide, batch).sum().item()

    particles = {"max_plate_nesting": 3, "num_particles": 8, "vectorize_particles": True}
    stock = MeanField(model, batch).parametrised()
    with pyro.get_param_store().scope():
        optimiser = pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.01 ** (1 / num_steps)})
        trainer = pyro.infer.SVI(model, stock, optimiser, TraceEnum_ELBO(**particles))
        for _ in range(num_steps):
            trainer.step(batch)
    rows = [
        ("VEM", ascend(STEPS)),
        ("VEM, damping 0.5", ascend(STEPS, 0.5)),
        ("natural gradient, rate 1", ascend([NaturalSources(), NaturalAssignment()])),
        ("natural gradient, rate 0.3", ascend([NaturalSources(0.3), NaturalAssignment(0.3)])),
        ("SVI, Adam on the closed form", svi(closed_form_elbo)),
        ("SVI, Adam on TraceEnum_ELBO", svi(TraceEnum_ELBO(**particles))),
        ("pyro.infer.SVI", closed_form_elbo(model, stock, batch).sum().item()),
        ("chain: owners summed out", _marginal(model, batch, num_steps)),
    ]
    return evidence, rows


def _marginal(model: MixDVAE, batch: MixtureBatch, num_steps: int) -> float:
    guide = MeanField(model, batch).parametrised("marginal")
    elbo = TraceEnum_ELBO(max_plate_nesting=3, num_particles=32, vectorize_particles=True)
    engine = SVI(model, guide, elbo=elbo, learning_rate=0.1, num_steps=num_steps)
    for _ in range(num_steps):
        engine.step(batch)
    return -engine.evaluate_loss(batch, 100)


def gradient_at_the_fixed_point() -> float:
    """Return the largest slope of the bound in any parameter, VEM run to its end."""
    model, batch = problem(LinearGaussian(num_coordinates=1, order=2, process_std=(0.3, 0.1)))
    vem = VEM(model, MeanField(model, batch), STEPS)
    vem.run(batch, 2000, tolerance=1e-15)
    guide = vem.guide.parametrised()
    closed_form_elbo(model, guide, batch).sum().backward()
    return max(parameter.grad.abs().max().item() for parameter in guide.parameters())


def problem(prior: SourcePrior) -> tuple[MixDVAE, MixtureBatch]:
    """Two sequences of two sources in four frames, two detections a frame, in any order."""
    generator = torch.Generator().manual_seed(0)
    model = MixDVAE(prior)
    shape = (2, 4, 2, model.observation.num_features)
    observations = torch.rand(shape, generator=generator)
    if shape[-1] == 4:
        observations[..., 2:] += 1.0  # right of left, below top
    loc = torch.zeros(2, 2, prior.source_dim)
    loc[..., :: prior.block_dim] = observations[:, 0]
    return model, MixtureBatch(
        observations,
        torch.rand(shape[:-1], generator=generator) < 0.9,
        torch.full(shape, 0.05),
        Anchor(loc, torch.full_like(loc, 0.1)),
    )
