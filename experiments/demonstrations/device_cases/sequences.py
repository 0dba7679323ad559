"""Dynamical VAEs, speech, classes of sequences, the Kalman smoother."""

from __future__ import annotations

import tempfile
from functools import partial
from typing import Any

import pyro
import torch
from pyro.infer.elbo import ELBO
from torch import Tensor, nn

from pyromodels.audio.griffin_lim import griffin_lim
from pyromodels.audio.stft import STFT
from pyromodels.batch import SequenceBatch
from pyromodels.distributions.kalman import smooth_and_compare
from pyromodels.distributions.message import Anchor, GaussianMessage
from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.experiments.demonstrations.device_cases.registry import CASES, Device, case
from pyromodels.experiments.speech.resynthesis import resynthesise
from pyromodels.experiments.speech.training import SpeechLoss
from pyromodels.guides.amortised import Amortised
from pyromodels.inference.classes.fit import ClassOptions, fit_classes
from pyromodels.inference.classes.scores import class_log_prob
from pyromodels.inference.objectives.iwae import ImportanceELBO
from pyromodels.inference.objectives.path_elbo import PathELBO
from pyromodels.inference.training.fit import fit
from pyromodels.inference.training.options import FitOptions, ScheduledSampling
from pyromodels.labelled import LabelledSequences
from pyromodels.models.dvae import DynamicalVAE
from pyromodels.registry import DYNAMICS
from pyromodels.testing import build_source_prior, example_anchor, source_prior_specs

SPECTRA = {"name": "spectral", "sees": "log_power"}


def sequences(prior: nn.Module, lengths: tuple[int, ...] = (5, 3, 1)) -> SequenceBatch:
    """Return sequences that a prior in float64 can be of, padded."""
    anchor = example_anchor(prior, (len(lengths),))
    generator = torch.Generator().manual_seed(2)
    shape = (len(lengths), max(lengths), prior.source_dim)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    if anchor is None:
        return SequenceBatch(noise.square().clamp(max=1.0), mask)  # powers, or sound
    return SequenceBatch(anchor.loc[:, None] + (0.02 * noise).cumsum(1), mask, anchor)


def _train_and_generate(device: Device, spec: dict[str, Any]) -> Any:
    """Train a prior by its encoder for two steps, where it has one; generate; send its message."""
    prior = build_source_prior(spec)
    batch = sequences(prior).to(device)
    model = DynamicalVAE(prior).to(device)
    made: list[Any] = []
    torch.manual_seed(4)
    parameters = [p for p in model.parameters() if p.requires_grad]
    with pyro.settings.context(module_local_params=True):
        if isinstance(prior, DynamicalPrior) and parameters:
            made += _gradient_steps(PathELBO(), model, batch)
        with torch.no_grad():
            made.append(model(batch, generate=True))
    if prior.has_gaussian_message:
        anchor = example_anchor(prior)
        s = anchor.loc.unsqueeze(-2).expand(*anchor.loc.shape[:-1], 4, -1).to(device)
        there = Anchor(*(part.to(device) for part in anchor))
        made += prior.gaussian_message(s, anchor=there)
    return made


def _flow_both_ways(device: Device, spec: dict[str, Any]) -> Any:
    """Start a flow with a batch, move signals to noise and noise to signals; gradients of both."""
    prior = build_source_prior(spec).to(device)
    generator = torch.Generator().manual_seed(2)
    shape = (3, 2 * prior.frame_multiple, prior.source_dim)
    s = torch.randn(shape, generator=generator, dtype=torch.float64).to(device)
    density = prior.log_prob(s)
    made = prior.path(s.shape[1], batch_shape=s.shape[:1]).transform(s)
    parameters = list(prior.parameters())
    gradients = torch.autograd.grad(density.sum() + made.square().sum(), parameters)
    return [density.detach(), made.detach(), prior.score(s), *gradients]


def _gradient_steps(elbo: ELBO, model: DynamicalVAE, batch: SequenceBatch) -> list[Tensor]:
    guide = Amortised(model)
    adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3)
    losses = []
    for _ in range(2):
        adam.zero_grad()
        loss = elbo.differentiable_loss(model, guide, batch)
        loss.backward()
        adam.step()
        losses.append(loss.detach())
    return losses


for _spec in source_prior_specs():
    _varied = len([name for name in CASES if name.startswith(f"prior {_spec['name']}")]) > 0
    _words = " ".join(map(str, _spec.values()))
    _run = _train_and_generate if DYNAMICS[_spec["name"]].takes_mask else _flow_both_ways
    case(f"prior {_words}", slow=_varied)(partial(_run, spec=_spec))


@case("importance-weighted bound")
def _(device: Device) -> Any:
    prior = build_source_prior({"name": "srnn"})
    model, batch = DynamicalVAE(prior).to(device), sequences(prior).to(device)
    torch.manual_seed(4)
    with pyro.settings.context(module_local_params=True):
        return _gradient_steps(ImportanceELBO(num_particles=3), model, batch)


@case("speech: a fit by scheduled sampling, resumed")
def _(device: Device) -> Any:
    torch.manual_seed(0)
    prior = DYNAMICS["srnn"].sized("small", source_dim=17, emission=SPECTRA)
    guide = Amortised(DynamicalVAE(prior.to(device)))
    data = (torch.rand(5, 3, 17).to(device), torch.ones(5, 3, dtype=torch.bool).to(device))
    loss = SpeechLoss(guide, judge_generating=True)
    options = FitOptions(epochs=2, batch_size=4, sampling=ScheduledSampling(0, 1, hops=1))
    with tempfile.TemporaryDirectory() as folder:
        fit(guide, loss, data, data, options=options, folder=folder, max_seconds=0.0)  # one epoch
        found = fit(guide, loss, data, data, options=options, folder=folder, resume=True)
    return [[record["train_loss"] for record in found.history], list(guide.parameters())]


@case("speech: analysed, rebuilt, a phase found")
def _(device: Device) -> Any:
    torch.manual_seed(0)
    stft = STFT(window=64, hop=16)
    prior = DYNAMICS["srnn"].sized("small", source_dim=33, emission=SPECTRA).to(device).eval()
    rebuilt = resynthesise(prior, torch.randn(200), stft)
    magnitude = rebuilt.power[0].sqrt()
    generator = torch.Generator().manual_seed(0)
    return [rebuilt.signal, griffin_lim(magnitude, stft, iterations=2, generator=generator)]


# ---- classes, filters


def _classes(device: Device, model: dict[str, Any], **options: Any) -> Any:
    torch.manual_seed(0)
    spec = {"source_dim": 4, "past_dim": 5, "num_members": 2, **model}
    densities = DYNAMICS.build(spec).to(device)
    lengths = torch.tensor([5, 4, 3, 5, 2, 5, 4, 5])
    data = LabelledSequences(torch.randn(8, 5, 4), lengths, torch.tensor([0, 1] * 4)).to(device)
    chosen = ClassOptions(updates=4, check_every=2, batch_size=2, **options)
    with tempfile.TemporaryDirectory() as folder:
        fit_classes(densities, data, data, chosen, folder=folder)
        found = fit_classes(densities, data, data, chosen, folder=folder, resume=True)
    with torch.no_grad():
        drawn = densities.path(3, batch_shape=torch.Size([3, 2])).rsample()
        scores = class_log_prob(densities, data)
    return [found.best_loss, list(densities.parameters()), scores, drawn]


_FLOW = {"name": "tvnf", "hidden_dim": 6, "num_layers": 2}
case("classes, TVNF", slow=True)(partial(_classes, model=_FLOW))
case("classes, TVGMM")(partial(_classes, model={"name": "tvgmm"}))
case("classes, TVNF tied, told apart")(
    partial(_classes, model={**_FLOW, "tied_dim": 3}, discriminative=0.5, input_noise=0.1)
)


def _smoother(device: Device, dim: int, num_chains: int) -> Any:
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    shape = (num_chains, 2, 6, 2, dim)
    root, transition = draw(*shape, dim), 0.3 * draw(*shape, dim)
    transition[:, :, 0] = 0
    eye = torch.eye(dim, dtype=torch.float64)
    parts = (transition, draw(*shape), root @ root.mT + eye)
    message = GaussianMessage(*(part.to(device) for part in parts))
    made = smooth_and_compare(message, (eye + root @ root.mT).to(device), root[..., 0].to(device))
    torch.manual_seed(0)
    chain = made.chain
    return [made.divergence, chain.loc, chain.rsample(), chain.log_prob(chain.loc), chain.entropy()]


for _dim in (1, 2, 3):
    for _count in (3, 300):
        case(f"Kalman smoother, {_count} of {_dim} dimensions", slow=_dim == 3)(
            partial(_smoother, dim=_dim, num_chains=_count)
        )
