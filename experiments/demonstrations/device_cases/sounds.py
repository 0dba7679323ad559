"""Complex spectra: MixDVAE, sources that add up, the network that tells whose a bin is, noise."""

from __future__ import annotations

from typing import Any

import torch

from pyromodels.audio.stft import STFT
from pyromodels.batch import MixtureBatch, SequenceBatch
from pyromodels.dynamics.by_source import BySource
from pyromodels.dynamics.rvae import RVAE
from pyromodels.dynamics.srnn import SRNN
from pyromodels.dynamics.vae import VAE
from pyromodels.experiments.datasets.mixtures.simulate import Simulation, simulated
from pyromodels.experiments.demonstrations.device_cases.registry import Device, case
from pyromodels.guides.amortised_assignment import AmortisedAssignment
from pyromodels.guides.denoising import EncodedSpeech, FreeSpeech, SampledSpeech
from pyromodels.guides.mean_field import MeanField
from pyromodels.guides.wiener import Wiener
from pyromodels.inference.additive.wiener import wiener_em
from pyromodels.inference.engines.coordinate_ascent import CoordinateAscent
from pyromodels.inference.engines.svi import SVI
from pyromodels.inference.enhancement.bound import EnhancementBound
from pyromodels.inference.enhancement.mcem import monte_carlo_em
from pyromodels.inference.enhancement.vem import enhancement_em
from pyromodels.inference.mixture.bound import closed_form_elbo
from pyromodels.inference.mixture.forward import ForwardSourceUpdate
from pyromodels.inference.mixture.updates import AssignmentUpdate, SourceUpdate
from pyromodels.inference.mixture.vem import VEM
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.models.additive import Additive
from pyromodels.models.enhancement import Enhancement
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.networks.assigner import Assigner
from pyromodels.noise.base import Sizes
from pyromodels.observations.spectra import ComplexSpectra, spectra_batch
from pyromodels.registry import NOISES

ORDERS = {"forward": ForwardSourceUpdate, "whole": SourceUpdate}


def spectra(device: Device) -> tuple[BySource, MixtureBatch]:
    """Return priors of two kinds of source, and mixtures of five frames and four bins."""
    torch.manual_seed(0)
    sizes = {"source_dim": 4, "emission": "complex"}
    prior = BySource([SRNN(**sizes), VAE(**sizes)]).eval().to(device)
    return prior, spectra_batch(torch.randn(2, 5, 4, dtype=torch.complex64), 2).to(device)


def engine(device: Device, order: str) -> tuple[CoordinateAscent, MixtureBatch]:
    """Return variational EM of MixDVAE, in one of `ORDERS`."""
    prior, batch = spectra(device)
    model = MixDVAE(prior, ComplexSpectra(prior)).to(device)
    guide = MeanField(model, batch).to(device)
    return VEM(model, guide, [ORDERS[order](), AssignmentUpdate()]), batch


for _order in ORDERS:

    @case(f"VEM on spectra, {_order}")
    def _(device: Device, order: str = _order) -> Any:
        made, batch = engine(device, order)
        losses = [made.step(batch) for _ in range(2)]
        return [losses, made.guide.responsibilities, made.guide.sources.loc]


@case("SVI on spectra, by a network")
def _(device: Device) -> Any:
    prior, batch = spectra(device)
    model = MixDVAE(prior, ComplexSpectra(prior)).to(device)
    small = {"num_channels": 4, "num_blocks": 1, "hidden_dim": 4}
    guide = AmortisedAssignment(model, batch, network=small)
    made = SVI(model, guide, elbo=closed_form_elbo)
    losses = [made.step(batch) for _ in range(2)]
    found = guide.of(batch)
    return [losses, found.responsibilities, found.sources.loc]


@case("sources that add up")
def _(device: Device) -> Any:
    prior, batch = spectra(device)
    model = Additive(prior).to(device)
    guide = Wiener(model, batch).to(device)
    made = wiener_em(model, guide)
    losses = [made.step(batch) for _ in range(2)]
    draws = Posterior(model, guide, batch).sample(2)
    return [losses, guide.variances, *(draws[name].shape for name in sorted(draws))]


@case("drawn mixtures")
def _(device: Device) -> Any:
    recordings = [torch.ones(4000, device=device), torch.ones(5000, device=device)]
    made = simulated(recordings, 3, STFT(window=64, hop=16), Simulation(num_frames=8))
    power = made.sum(1).abs().square().mean((-2, -1))
    return [list(made.shape), power]  # one, whatever was drawn


@case("assigner")
def _(device: Device) -> Any:
    torch.manual_seed(0)
    network, power = Assigner(33, 2, hidden_dim=4).to(device), torch.rand(2, 5, 33).to(device)
    return network(power)


def noisy(device: Device, noise: str) -> tuple[Enhancement, SequenceBatch]:
    """Return a program of noisy speech, and two signals of five frames and four bins."""
    torch.manual_seed(0)
    prior = RVAE(source_dim=4, latent_dim=2, emission="complex").eval()
    made = NOISES.build({"name": noise}, Sizes(2, 5, 4, 2))
    gain = torch.nn.Parameter(torch.zeros(2, 5)) if noise == "nmf" else None
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    batch = SequenceBatch(torch.randn(2, 5, 8), mask).to(device)
    return Enhancement(prior, made, gain=gain).to(device), batch


@case("VEM of noisy speech")
def _(device: Device) -> Any:
    model, batch = noisy(device, "nmf")
    guide = FreeSpeech(model, batch).to(device)
    made = enhancement_em(model, guide)
    shapes = [made.guide.moments[0].shape, model.log_gain.shape]
    return [*shapes, *(isinstance(made.step(batch), float) for _ in range(2))]


@case("Monte-Carlo EM of noisy speech")
def _(device: Device) -> Any:
    model, batch = noisy(device, "nmf")
    guide = SampledSpeech(model, batch).to(device)
    made = monte_carlo_em(model, guide, num_steps=10)
    sized = isinstance(made.step(batch), float)
    return [guide.draws.shape, guide.moments[1].shape, model.log_gain.shape, sized]


for _noise in ("lv", "no", "nolv"):

    @case(f"noisy speech, {_noise}")
    def _(device: Device, noise: str = _noise) -> Any:
        model, batch = noisy(device, noise)
        guide = EncodedSpeech(model)
        made = SVI(model, guide, elbo=EnhancementBound(), train_model=True)
        made.step(batch)
        draws = Posterior(model, guide, batch).sample(2)
        power = batch.x.unflatten(-1, (-1, 2)).square().sum(-1)
        return [model.noise(power, batch.x[..., :2], batch.mask).shape,
                *(draws[name].shape for name in sorted(draws))]
