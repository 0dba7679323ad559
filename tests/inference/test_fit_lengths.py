"""Training on sequences of different lengths: padding, a mask, nats a frame that is there."""

import math

import pytest
import torch

from pyromodels.batch import SequenceBatch
from pyromodels.distributions.path import PathDistribution
from pyromodels.dynamics.srnn import SRNN
from pyromodels.guides.amortised import Amortised
from pyromodels.inference.objectives.path_elbo import PathELBO
from pyromodels.inference.training.fit import fit
from pyromodels.inference.training.options import FitOptions, Weights
from pyromodels.models.dvae import DynamicalVAE

LENGTHS = (9, 7, 4, 1, 9, 5, 8, 2, 3, 6)
LATENT_DIM = 2


@pytest.fixture
def noise_of_frames(monkeypatch):
    """The noise of a frame is the same however many come after it."""
    noise = torch.randn(len(LENGTHS), 40, LATENT_DIM, generator=torch.Generator().manual_seed(4))

    def given(self, sample_shape=()):
        batch, (num_frames, _) = self.batch_shape[0], self.event_shape
        return noise[:batch, None, None, :num_frames].expand(*self.batch_shape, num_frames, -1)

    monkeypatch.setattr(PathDistribution, "noise", given)


def make_model():
    torch.manual_seed(0)
    prior = SRNN(
        source_dim=5, latent_dim=LATENT_DIM, emission={"name": "spectral", "sees": "log_power"},
        encoder={"preset": "srnn", "summary_dim": 6, "dims": [8]},
    )
    return DynamicalVAE(prior)


def make_data(num_frames, padding=0.0):
    """Power spectrograms (B, T, F), filled up with `padding`, and their mask (B, T)."""
    generator = torch.Generator().manual_seed(1)
    level = 3 * torch.rand(len(LENGTHS), 1, 5, generator=generator)
    x = level * torch.randn(len(LENGTHS), max(LENGTHS), 5, generator=generator).square()
    mask = torch.arange(num_frames) < torch.tensor(LENGTHS)[:, None]
    x = torch.cat((x, x.new_zeros(len(x), num_frames - x.shape[1], 5)), 1)
    return torch.where(mask[..., None], x, padding), mask


def loss_of(model):
    """Minus the bound of every sequence, in nats a frame that is there."""
    guide, elbo = Amortised(model), PathELBO()

    def loss(batch, weights):
        x, mask = batch
        elbo.kl_weight, model.use_prediction = weights.kl, weights.use_prediction
        return elbo.per_sequence(model, guide, SequenceBatch(x, mask)) / mask.sum(-1)

    return loss


def gradient(losses, model):
    model.zero_grad()
    losses.mean().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_padding_changes_no_gradient(noise_of_frames):
    model = make_model()
    expected, losses = None, None
    for num_frames, padding in ((9, 0.0), (9, math.nan), (9, 1e6), (31, 7.0)):
        found = loss_of(model)(make_data(num_frames, padding), Weights(0.7))
        found_gradient = gradient(found, model)
        if expected is None:
            expected, losses = found_gradient, found
        torch.testing.assert_close(found, losses, rtol=0, atol=1e-12)
        torch.testing.assert_close(found_gradient, expected, rtol=0, atol=1e-12)
    assert expected.abs().max() > 0.01


def test_the_gradient_is_the_mean_of_every_sequence_cut_to_its_length(monkeypatch):
    model, (x, mask) = make_model(), make_data(12)
    noise = torch.randn(len(LENGTHS), 12, LATENT_DIM)
    gradients = []

    def given(self, sample_shape=()):
        part = noise[rows, : self.event_shape[0]]
        return part[:, None, None].expand(*self.batch_shape, *self.event_shape)

    monkeypatch.setattr(PathDistribution, "noise", given)
    for row, length in enumerate(LENGTHS):
        rows = slice(row, row + 1)
        batch = x[rows, :length], mask[rows, :length]
        gradients.append(gradient(loss_of(model)(batch, Weights()), model))
    rows = slice(None)
    together = gradient(loss_of(model)((x, mask), Weights()), model)
    torch.testing.assert_close(together, torch.stack(gradients).mean(0), rtol=0, atol=1e-12)


def test_training_does_not_depend_on_the_padding(noise_of_frames):
    options = FitOptions(epochs=6, batch_size=4, learning_rate=0.02, kl_warm_up=2)
    results, trained = [], []
    for num_frames, padding in ((9, 0.0), (17, math.nan)):
        model, data = make_model(), make_data(num_frames, padding)
        results.append(fit(model, loss_of(model), data, data, options=options))
        trained.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert results[0].best_loss < results[0].history[0]["valid_loss"] - 0.1
    assert results[1].best_loss == pytest.approx(results[0].best_loss, abs=1e-9)
    torch.testing.assert_close(*trained, rtol=0, atol=1e-9)
