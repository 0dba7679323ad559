"""What a step may cost beside its kernels: waits of the host, and copies from it to the device.

A sweep of VEM has none of either, so that it can be captured in a CUDA graph; a step that returns
its loss waits for that number. Launches grow with the frames, and no faster than they do now.
"""

from __future__ import annotations

import pyro
import pytest
import torch
from pretend import NAME, Watched

from pyromodels.batch import SequenceBatch
from pyromodels.dynamics.tvgmm import TVGMM
from pyromodels.dynamics.tvnf import TVNF
from pyromodels.experiments.demonstrations.device_cases import sounds
from pyromodels.experiments.demonstrations.device_cases.mixtures import engine_of, mixture
from pyromodels.experiments.speech.training import SpeechLoss
from pyromodels.guides.amortised import Amortised
from pyromodels.inference.classes.fit import ClassOptions, ClassTraining
from pyromodels.inference.objectives.path_elbo import PathELBO
from pyromodels.inference.training.epochs import EpochTraining
from pyromodels.inference.training.options import FitOptions
from pyromodels.labelled import LabelledSequences
from pyromodels.models.dvae import DynamicalVAE
from pyromodels.registry import DYNAMICS


def engine(spec, guide="mean_field", prior="linear", num_frames=6):
    """An engine after its first step, which may prepare what later ones need, and the batch."""
    model, batch = mixture(prior, NAME, sizes=(2, num_frames, 3, 2))
    made = engine_of(spec, model, batch, guide)
    made.step(batch)
    return made, batch


@pytest.mark.parametrize("prior", ["linear", "srnn"])
def test_a_sweep_of_vem_neither_waits_nor_uploads(prior):
    with Watched() as seen:
        made, batch = engine({"name": "vem"}, prior=prior)
        seen.reset()
        made.stepper.sweep(batch)
    assert (dict(seen.waits), dict(seen.uploads)) == ({}, {})


@pytest.mark.parametrize("order", sounds.ORDERS)
def test_a_sweep_on_spectra_neither_waits_nor_uploads(order):
    with Watched() as seen:
        made, batch = sounds.engine(NAME, order)
        made.sweep(batch)
        seen.reset()
        made.sweep(batch)
    assert (dict(seen.waits), dict(seen.uploads)) == ({}, {})


@pytest.mark.parametrize(
    ("spec", "guide"),
    [
        ({"name": "vem"}, "mean_field"),
        ({"name": "svi", "elbo": "closed_form", "steps": 9}, "mean_field"),
    ],
)
def test_a_step_waits_for_its_loss_and_for_nothing_else(spec, guide):
    with Watched() as seen:
        made, batch = engine(spec, guide)
        seen.reset()
        with pyro.validation_enabled(False):  # which asks whether values are in their support
            made.step(batch)
    assert seen.waits.total() == 1, seen.waits


def test_launches_of_a_sweep_grow_with_the_frames_and_no_faster():
    counts = []
    for num_frames in (4, 8):
        with Watched() as seen:
            made, batch = engine({"name": "vem"}, num_frames=num_frames)
            seen.reset()
            made.stepper.sweep(batch)
        counts.append(seen.launches.total())
    assert counts[1] - counts[0] <= 4 * 36, counts
    assert counts[0] <= 200 + 4 * 36, counts


def test_a_step_of_a_fit_waits_once():
    """Loss and norm of the gradient come in one transfer, whatever the loss is made of."""
    module = torch.nn.Linear(3, 1)
    with Watched() as seen:
        module.to(NAME)
        data = (torch.randn(8, 3).to(NAME),)
        waits = []
        for rows in (data, (data[0][:4],)):
            training = EpochTraining(module, lambda batch, _: module(batch[0]).square().squeeze(-1),
                                     rows, data, FitOptions(epochs=9, batch_size=2))
            seen.reset()
            training.advance()
            waits.append(seen.waits.total())
    assert waits[0] - waits[1] == 2  # of four steps and of two, with one validation


@pytest.mark.parametrize("discriminative", [0.0, 0.5])
def test_an_update_of_class_densities_waits_once(discriminative):
    """Losses and norms of the gradients of all classes come in one transfer."""
    torch.manual_seed(0)
    lengths, labels = torch.tensor([5, 4, 3, 5, 2, 5, 4, 5]), torch.tensor([0, 1] * 4)
    options = ClassOptions(updates=2, batch_size=2, discriminative=discriminative)
    with Watched() as seen:
        densities = TVGMM(source_dim=4, past_dim=5, num_members=2).to(NAME)
        data = LabelledSequences(torch.randn(8, 5, 4), lengths, labels).to(NAME)
        training = ClassTraining(densities, data, data, options)
        training.update()
        seen.reset()
        training.update()
    assert seen.waits.total() == 1, seen.waits


def test_a_step_of_tvnf_neither_waits_nor_uploads():
    torch.manual_seed(0)
    with Watched() as seen:
        density = TVNF(source_dim=4, past_dim=5, hidden_dim=6, num_layers=2).to(NAME)
        x = torch.randn(3, 5, 4).to(NAME)
        seen.reset()
        (-density.path(5, batch_shape=x.shape[:1]).log_prob(x).sum()).backward()
    assert (dict(seen.waits), dict(seen.uploads)) == ({}, {})


@pytest.mark.parametrize("name", ["vae", "srnn", "rvae", "hit"])
def test_the_bound_of_a_dvae_neither_waits_nor_uploads(name):
    torch.manual_seed(0)
    with Watched() as seen, pyro.settings.context(module_local_params=True):
        spec = {"name": name, "source_dim": 5, "emission": "spectral"}
        model = DynamicalVAE(DYNAMICS.build(spec)).to(NAME)
        x, mask = torch.rand(2, 4, 5).to(NAME), torch.ones(2, 4, dtype=torch.bool).to(NAME)
        batch = SequenceBatch(x, mask)
        guide, elbo = Amortised(model), PathELBO()
        with pyro.validation_enabled(False):
            elbo.differentiable_loss(model, guide, batch).backward()
            seen.reset()
            elbo.differentiable_loss(model, guide, batch).backward()
    packed = 1 if name == "hit" else 0  # its LSTM wants lengths of padded sequences on the host
    assert (seen.waits.total(), seen.uploads.total()) == (packed, packed), seen.waits


def test_the_loss_of_speech_asks_its_batch_no_questions():
    torch.manual_seed(0)
    with Watched() as seen, pyro.settings.context(module_local_params=True):
        spec = {"name": "vae", "source_dim": 5, "emission": "spectral"}
        guide = Amortised(DynamicalVAE(DYNAMICS.build(spec).to(NAME)))
        loss = SpeechLoss(guide, judge_generating=False)
        data = (torch.rand(2, 4, 5).to(NAME), torch.ones(2, 4, dtype=torch.bool).to(NAME))
        weights = FitOptions(epochs=1, batch_size=2).weights(1)
        with pyro.validation_enabled(False):
            loss(data, weights)
            seen.reset()
            loss(data, weights)
    assert dict(seen.waits) == {}
