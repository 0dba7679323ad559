"""What a fit is asked to do again and again: simulations, starts, forecasts."""

import itertools
import math

import numpy as np
import torch

from pyromodels.batch import SequenceBatch
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.hit import HiT
from pyromodels.dynamics.srnn import SRNN
from pyromodels.experiments.demonstrations.report_examples import fit_with, two_sources
from pyromodels.guides.amortised import Amortised
from pyromodels.inference.adequacy.simulation import (
    repeated_fits,
    scalar_summaries,
    sequence_simulator,
    simulated_ranks,
)
from pyromodels.inference.mixture.adequacy import forecasts, mixture_simulator
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.models.dvae import DynamicalVAE


def test_forecasts_are_those_of_the_kalman_filter(line):
    """One step ahead of frames < t the predictive is Gaussian: PIT in closed form."""
    model, batch = line
    start = batch.num_frames - 1
    torch.manual_seed(0)
    found = forecasts(fit_with(model), batch, horizons=(1, 2), num_draws=4000)
    a, b = torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.tensor([1.0, 0.0])
    q = torch.diag(model.prior.process_std[0].detach().square())
    pits = []
    for row in range(batch.num_sequences):
        mean = batch.anchor.loc[row, 0]
        covariance = torch.diag(batch.anchor.variance[row, 0])
        for t in range(start):
            if t:
                mean, covariance = a @ mean, a @ covariance @ a.T + q
            gain = covariance @ b / (b @ covariance @ b + batch.variance[row, t, 0, 0])
            mean = mean + gain * (batch.observations[row, t, 0, 0] - b @ mean)
            covariance = covariance - torch.outer(gain, b @ covariance)
        mean, covariance = a @ mean, a @ covariance @ a.T + q
        scale = (b @ covariance @ b + batch.variance[row, start, 0, 0]).sqrt()
        z = (batch.observations[row, start, 0, 0] - b @ mean) / scale
        pits.append(0.5 * (1 + torch.erf(z / math.sqrt(2))).item())
    np.testing.assert_allclose(found[1].pit[-batch.num_sequences :], pits, atol=0.03)
    first = max(1, batch.num_frames // 3)
    assert len(found[1].pit) == batch.num_sequences * (batch.num_frames - first)
    assert len(found[2].pit) == batch.num_sequences * (batch.num_frames - first - 1)
    assert found[1].crps.mean() < found[2].crps.mean()


def test_relabelled_fits_agree_once_aligned():
    model, batch = two_sources(((-1.0, 0.0), (1.0, 0.0)), num_sequences=2)
    exact, calls = fit_with(model), itertools.count()

    class Swapped:
        def __init__(self, posterior):
            self.posterior = posterior

        def sample(self, num_samples):
            draws = self.posterior.sample(num_samples)
            return {"s": draws["s"].flip(2), "w": 1 - draws["w"]}

    def fit(data, seed):
        posterior = exact(data, 0)
        return Swapped(posterior) if next(calls) % 2 else posterior

    def summaries(draws):
        return {"s[0]": draws["s"][:, :, 0, -1, 0], "w[first]": draws["w"][:, :, 0, 0].double()}

    found = repeated_fits(fit, batch, num_fits=4, num_draws=200, summaries=summaries)
    assert found.as_labelled["s[0]"].min() > 1.3
    assert found.aligned["s[0]"].max() < 1.05
    ok = found.aligned["w[first]"]
    assert np.nanmax(ok, initial=1.0) < 1.05


def test_simulated_data_keep_what_the_batch_fixes(mixture):
    model, batch = mixture(num_sequences=2)
    data, truth = mixture_simulator(model, batch, 5)(0)
    assert data.num_sequences == 5 and (data.mask[4] == batch.mask[0]).all()
    assert truth["s"].shape == (5, 2, 5, model.prior.source_dim)
    assert (truth["w"][~data.mask] == -1).all()
    assert not torch.equal(data.observations[0], data.observations[2])


def test_summaries_name_their_site():
    draws = {"s": torch.zeros(3, 2, 2, 6, 4), "w": torch.zeros(3, 2, 6, 2, dtype=torch.long),
             "a": torch.zeros(3, 2), "b": torch.zeros(3, 2, 9)}
    table = scalar_summaries(draws)
    assert set(table) == {"s[0, 3, 0]", "s[0, 5, 0]", "s[1, 3, 0]", "s[1, 5, 0]", "w[mean]",
                          "a[0]", *(f"b[{i}]" for i in (0, 1, 2, 3, 5, 6, 7, 8)),
                          *(f"{site}[projection {i}]" for site in "sb" for i in (0, 1))}
    assert {tuple(value.shape) for value in table.values()} == {(3, 2)}


def test_projections_see_correlations_that_no_number_shows():
    one = torch.randn(4000, 1, 1)
    tables = [scalar_summaries({"a": a}) for a in (one.expand(-1, -1, 5), torch.randn(4000, 1, 5))]
    std = [torch.stack([value.std() for value in table.values()]) for table in tables]
    assert (std[0][:5] / std[1][:5]).log().abs().max() < 0.1
    assert (std[0][5:] / std[1][5:]).log().abs().max() > 0.3


def test_a_fit_that_starts_from_the_prior_does_not_start_at_the_truth():
    truths, starts = [], []

    class Prior:
        def sample(self, num_samples):
            return {"mean": torch.randn(num_samples, 1)}

    def simulate(seed):
        torch.manual_seed(seed)
        truth = torch.randn(1)
        truths.append(truth.item())
        return truth + torch.randn(4), {"mean": truth}

    def fit(x, seed):
        torch.manual_seed(seed)
        starts.append(torch.randn(1).item())
        return Prior()

    simulated_ranks(fit, simulate, num_simulations=12, num_draws=20)
    repeated_fits(fit, torch.ones(4), num_fits=4, num_draws=20)
    assert len({*truths, *starts}) == 12 + 12 + 4


def test_simulated_sequences_have_the_length_and_the_anchors_of_the_batch():
    model = DynamicalVAE(SRNN(source_dim=2, latent_dim=3))
    x = torch.zeros(3, 7, 2)
    loc = torch.arange(3.0)[:, None].expand(3, 2)
    batch = SequenceBatch(x, x[..., 0] == 0, Anchor(loc, torch.full_like(loc, 1e-8)))
    data, truth = sequence_simulator(model, batch, 5)(0)
    assert data.x.shape == (5, 7, 2) and truth["x_z"].shape == (5, 1, 7, 3)
    torch.testing.assert_close(data.x[:, 0], loc[[0, 1, 2, 0, 1]], atol=1e-3, rtol=0)
    again, _ = sequence_simulator(model, batch, 5)(0)
    other, _ = sequence_simulator(model, batch, 5)(1)
    assert torch.equal(again.x, data.x) and not torch.equal(other.x, data.x)


def test_simulated_latents_and_data_are_one_draw():
    model = DynamicalVAE(HiT(source_dim=5, emission="spectral"))
    x = torch.rand(1, 6, 5) + 0.1
    data, truth = sequence_simulator(model, SequenceBatch(x, x[..., 0] > 0), 40)(0)
    assert truth["x_w"].shape == (40, 1, model.prior.global_dim)
    posterior = Posterior(model, Amortised(model), data)
    own = posterior.log_joint({name: value[None] for name, value in truth.items()})
    others = posterior.log_joint({name: value.roll(1, 0)[None] for name, value in truth.items()})
    assert (own - others).mean() > 0.1  # each explains its own data better
