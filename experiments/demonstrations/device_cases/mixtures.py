"""MixDVAE: engines, guides, diagnostics, the published method, whole trackers."""

from __future__ import annotations

import dataclasses
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.message import Anchor
from pyromodels.experiments.datasets.tracking.scene import generate_scene
from pyromodels.experiments.demonstrations.device_cases.registry import Device, case
from pyromodels.experiments.tracking.methods.base import Options
from pyromodels.experiments.tracking.methods.by_name import run_method
from pyromodels.experiments.tracking.methods.published import Reference
from pyromodels.inference.adequacy.protocols import Fit
from pyromodels.inference.adequacy.report import guide_report
from pyromodels.inference.adequacy.simulation import repeated_fits, simulated_ranks
from pyromodels.inference.engines import ENGINES
from pyromodels.inference.engines.ascend import AscentOptions, ascend
from pyromodels.inference.engines.engine import Engine
from pyromodels.inference.engines.nuts import sample_nuts
from pyromodels.inference.mixture.adequacy import forecasts, mixture_simulator
from pyromodels.inference.posterior.chains import Chains
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.inference.published.method import box_variance, published_vem
from pyromodels.inference.published.options import PublishedOptions
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.observations.detector import Detector
from pyromodels.registry import DYNAMICS, GUIDES

INCREMENTS = {"name": "gaussian", "predicts": "increment"}
PRIORS: dict[str, dict[str, Any]] = {
    "linear": {"name": "linear", "process_std": (0.1, 0.05)},
    "random walk": {"name": "linear", "order": 1, "process_std": (0.1,)},
    "srnn": {"name": "srnn", "hidden_dim": 8, "latent_dim": 3, "emission": INCREMENTS},
    "deep_ar": {"name": "deep_ar", "hidden_dim": 8, "emission": INCREMENTS},
}
"""Of boxes."""


def mixture(
    prior: str = "linear",
    device: Device = "cpu",
    *,
    detector: bool = True,
    sizes: tuple[int, int, int, int] = (3, 6, 3, 2),
) -> tuple[MixDVAE, MixtureBatch]:
    """Return a model of boxes and a batch of B sequences, T frames, K detections, N sources."""
    torch.manual_seed(0)
    num_sequences, num_frames, num_observations, num_sources = sizes
    made = DYNAMICS.build(PRIORS[prior])
    generator = torch.Generator().manual_seed(0)
    corner, size = torch.rand(2, *sizes[:3], 2, generator=generator)
    o = torch.cat((corner, corner + 0.3 + size), -1)
    mask = torch.rand(sizes[:3], generator=generator) > 0.2
    mask[:, 0, :num_sources] = True
    loc = torch.rand(num_sequences, num_sources, made.source_dim, generator=generator) + 0.5
    anchor = Anchor(loc, torch.full_like(loc, 0.01))
    model = MixDVAE(made, detector=Detector() if detector else None)
    batch = MixtureBatch(o, mask, torch.full_like(o, 0.01), anchor)
    return model.to(device), batch.to(device)


def points(prior: str = "linear", device: Device = "cpu") -> tuple[MixDVAE, MixtureBatch]:
    """Return a model of points in the plane, small enough for NUTS, and a batch."""
    torch.manual_seed(0)
    spec = {
        "linear": {"name": "linear", "num_coordinates": 2, "process_std": (0.4, 0.2)},
        "srnn": {
            **PRIORS["srnn"], "source_dim": 2, "hidden_dim": 3, "latent_dim": 2,
            "emission": {**INCREMENTS, "scale": "unit"},
        },
    }[prior]
    model = MixDVAE(DYNAMICS.build(spec))
    o, mask = torch.rand(2, 3, 2, 2) + 0.2, torch.rand(2, 3, 2) > 0.2
    loc = torch.rand(2, 2, model.prior.source_dim) + 0.5
    anchor = Anchor(loc, torch.full_like(loc, 0.1))
    return model.to(device), MixtureBatch(o, mask, torch.full_like(o, 0.1), anchor).to(device)


def engine_of(
    spec: dict[str, Any],
    model: MixDVAE,
    batch: MixtureBatch,
    guide: str = "mean_field",
) -> Engine:
    """Return an engine by its spec, with a guide by its name."""
    return ENGINES.build(spec, model, GUIDES.build({"name": guide}, model, batch), batch)


def _vem(device: Device, prior: str = "linear", *, detector: bool = True, **options: Any) -> Any:
    model, batch = mixture(prior, device, detector=detector)
    engine = engine_of({"name": "vem", **options}, model, batch)
    losses = [engine.step(batch) for _ in range(2)]
    guide = engine.guide
    return [losses, guide.responsibilities, guide.sources.loc, guide.sources.variance]


for _prior in PRIORS:
    case(f"VEM, {_prior}", slow=_prior in ("random walk", "deep_ar"))(partial(_vem, prior=_prior))
case("VEM, thesis: no detector")(partial(_vem, detector=False))
case("VEM, cavity", slow=True)(partial(_vem, likelihood="cavity"))
case("VEM, damped", slow=True)(partial(_vem, damping=0.5))
case("VEM, fixed history", slow=True)(partial(_vem, prior="srnn", history="fixed"))
case("VEM, noises learnt")(partial(_vem, learn=("process_noise", "observation_noise")))


@case("VEM in minibatches, resumed", slow=True)
def _(device: Device) -> Any:
    def climb(folder: Path, steps: int, *, resume: bool) -> list[float]:
        model, batch = mixture("linear", device)
        engine = engine_of({"name": "vem"}, model, batch)
        options = AscentOptions(max_steps=steps, batch_size=2, checkpoint_every=1, seed=0)
        return ascend(engine.stepper, batch, options, folder=folder, resume=resume).losses

    with tempfile.TemporaryDirectory() as folder:
        climb(Path(folder), 2, resume=False)
        return climb(Path(folder), 4, resume=True)


def _natural(device: Device, prior: str = "linear", **options: Any) -> Any:
    model, batch = points(prior, device)
    engine = engine_of({"name": "svi_natural", **options}, model, batch)
    return [[engine.step(batch) for _ in range(2)], engine.guide.responsibilities]


case("natural gradients")(_natural)
case("natural gradients, through the networks")(
    partial(_natural, prior="srnn", detach_history=False)
)


def _svi(device: Device, guide: str, prior: str = "linear", **options: Any) -> Any:
    model, batch = mixture(prior, device)
    engine = engine_of({"name": "svi", "steps": 3, **options}, model, batch, guide)
    torch.manual_seed(3)
    losses = [engine.step(batch) for _ in range(2)]
    return [losses, engine.stepper.evaluate_loss(batch), engine.stepper.state_dict()]


case("SVI, closed form")(partial(_svi, guide="mean_field", elbo="closed_form"))
case("SVI, TraceEnum, owners summed out")(partial(_svi, guide="chain", elbo="trace_enum"))
case("SVI, TraceEnum, four draws", slow=True)(
    partial(_svi, guide="chain", elbo="trace_enum", num_particles=4)
)
case("SVI, TraceEnum, networks trained")(
    partial(_svi, guide="parametrised_mean_field", prior="srnn", elbo="trace_enum",
            train_model=True, max_grad_norm=1.0)
)  # fmt: skip


def _guide(device: Device, guide: dict[str, Any], prior: str = "linear") -> Any:
    """Fit a guide, where it has parameters, and draw from it through the Posterior."""
    model, batch = points(prior, device)
    made: nn.Module = GUIDES.build(guide, model, batch)
    losses = []
    if any(True for _ in made.parameters()):
        engine = ENGINES.build({"name": "svi", "elbo": "trace_enum"}, model, made, batch)
        losses, made = [engine.step(batch) for _ in range(2)], engine.guide
    torch.manual_seed(7)
    return [losses, Posterior(model, made, batch).sample(4)]


for _name in ("mean_field", "parametrised_mean_field", "chain", "point", "enumerated"):
    case(f"guide {_name}")(partial(_guide, guide={"name": _name}))
for _family in ("normal", "multivariate_normal", "low_rank", "flow"):
    case(f"guide auto, {_family}", slow=_family != "flow")(
        partial(_guide, guide={"name": "auto", "family": _family})
    )
case("guide mean_field, srnn")(partial(_guide, guide={"name": "mean_field"}, prior="srnn"))


@case("NUTS", slow=True)
def _(device: Device) -> Any:
    model, batch = points("linear", device)
    torch.manual_seed(0)
    drawn = sample_nuts(
        model, batch, num_samples=4, num_warmup=4, num_chains=1, max_tree_depth=2
    )
    return Posterior(model, drawn, batch).sample(3)


@case("posterior to NetCDF, chains aligned", slow=True)
def _(device: Device) -> Any:
    model, batch = mixture("linear", device)
    engine = engine_of({"name": "vem"}, model, batch)
    engine.step(batch)
    posteriors = tuple(
        Posterior(model, engine_of({"name": "vem"}, model, batch).guide, batch)
        for _ in range(2)
    )
    with tempfile.TemporaryDirectory() as folder:
        Posterior(model, engine.guide, batch).to_netcdf(Path(folder) / "p.nc", 4)
        Chains(posteriors).align(10).to_netcdf(Path(folder) / "c.nc", 4)
    return posteriors[0].sample(3)


# ---- diagnostics


def _refit(model: MixDVAE) -> Fit:
    def make(data: MixtureBatch, seed: int) -> Posterior:
        engine = engine_of({"name": "vem"}, model, data)
        engine.step(data)
        torch.manual_seed(seed)
        return Posterior(model, engine.guide, data)

    return make


@case("repeated fits, sources aligned")
def _(device: Device) -> Any:
    model, batch = points("linear", device)
    agreement = repeated_fits(_refit(model), batch, num_fits=2, num_draws=8)
    return [torch.as_tensor(value) for value in agreement.aligned.values()]


@case("forecasts", slow=True)
def _(device: Device) -> Any:
    model, batch = mixture("linear", device, detector=False)
    made = forecasts(_refit(model), batch, horizons=(1,), num_draws=8)[1]
    return [torch.as_tensor(part) for part in made]


@case("simulated ranks")
def _(device: Device) -> Any:
    model, batch = points("linear", device)
    simulate = mixture_simulator(model, batch, 4)
    ranks = simulated_ranks(_refit(model), simulate, num_simulations=4, num_draws=8)
    return [torch.as_tensor(value) for value in ranks.values()]


@case("report on a guide", slow=True)
def _(device: Device) -> Any:
    model, batch = points("linear", device)
    guide_report(_refit(model), batch, num_draws=100, num_fits=2, num_simulations=0)
    return []


# ---- the published method and whole trackers


def _published(device: Device, prior: str = "srnn", schedule: str = "wavefront",
               **changes: Any) -> Any:  # fmt: skip
    torch.manual_seed(0)
    made = DYNAMICS.build({"name": prior}).to(device)
    _, batch = mixture("linear", device, sizes=(3, 7, 3, 3))
    options = dataclasses.replace(
        PublishedOptions.REFERENCE, num_iterations=4, cascade_piece=4, cascade_iterations=2,
        **changes,
    )  # fmt: skip
    found = published_vem(
        made, batch.observations, mask=batch.mask,
        observation_variance=box_variance(batch.observations),
        anchor_loc=batch.observations[:, 0], options=options, schedule=schedule,
        generator=torch.Generator(device).manual_seed(0),
    )  # fmt: skip
    return [found.responsibilities, found.loc, found.variance]


case("published method, srnn")(_published)
case("published method, frame by frame", slow=True)(partial(_published, schedule="sweeps"))
case("published method, deep_ar", slow=True)(partial(_published, prior="deep_ar"))
case("published method, s drawn, stopped by a tolerance")(
    partial(_published, weight_floor=None, sample_sources=True, tolerance=1e-6)
)


def _track(device: Device, method: str) -> Any:
    data = generate_scene(num_sources=2, num_frames=6, num_sequences=2)
    return run_method(method, data, Options(num_sources=2, device=device)).boxes


for _method in ("linear", "srnn", "vkf"):
    case(f"tracker {_method}", slow=True)(partial(_track, method=_method))


@case("published tracker, fine-tuned", slow=True)
def _(device: Device) -> Any:
    torch.manual_seed(0)
    data = generate_scene(num_sources=2, num_frames=6, num_sequences=2)
    prior = DYNAMICS.build({"name": "srnn"}).to(device)
    method = Reference(
        fine_tune=True, num_iterations=2, cascade_piece=4, cascade_iterations=1
    )
    return method.track(data, prior, Options(num_sources=2, device=device))[:2]
