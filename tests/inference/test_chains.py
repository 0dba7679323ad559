"""Several fits as the chains of one file, their sources named alike."""

import dataclasses

import numpy as np
import pytest
import torch

from pyromodels.distributions.message import Anchor
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.posterior import arviz_io
from pyromodels.inference.posterior.chains import concat, matching, relabelled
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.observations.detector import Detector


@pytest.fixture
def swapped(mixture, randomised):
    """A fit, and the same one with its sources in other orders, by hand."""
    model, batch = mixture(2, 5, 3, 3, detector=Detector())
    guide = randomised(model, batch)
    orders = torch.tensor([[2, 0, 1], [0, 2, 1]])
    loc = batch.anchor.loc
    swap = Anchor(*(torch.stack([p[b, orders[b]] for b in range(2)]) for p in batch.anchor))
    assert loc.shape == swap.loc.shape
    other_batch = dataclasses.replace(batch, anchor=swap)
    other = MeanField(model, other_batch)
    with_clutter = torch.cat((orders, torch.full((2, 1), 3)), -1)
    for name, value in guide.named_buffers():
        if name == "_responsibilities":
            rows = [value[b][..., with_clutter[b]] for b in range(2)]
        else:
            rows = [value[b, orders[b]] for b in range(2)]
        setattr(other, name, torch.stack(rows))
    first, second = Posterior(model, guide, batch), Posterior(model, other, other_batch)
    return first, second, orders


def test_sources_of_all_fits_get_the_order_of_the_first(swapped):
    first, second, orders = swapped
    torch.manual_seed(0)
    chains = concat([first, second]).align(400)
    assert torch.equal(chains.permutations[0], torch.arange(3).expand(2, 3))
    assert torch.equal(chains.permutations[1], torch.argsort(orders, -1))
    draws = chains.sample(3000)
    assert draws["s"].shape[:3] == (2, 3000, 2)
    mean, error = draws["s"].mean(1), draws["s"].std(1) / 3000**0.5
    assert ((mean[0] - mean[1]).abs() < 7 * error.amax(0)).all()
    for owner in range(4):  # clutter stays clutter
        share = (draws["w"] == owner).double().mean(1)
        assert (share[0] - share[1]).abs().max() < 0.07
    visible = draws["v"].mean(1)
    assert (visible[0] - visible[1]).abs().max() < 0.07


def test_r_hat_sees_the_names_before_and_not_after(swapped):
    first, second, _ = swapped
    torch.manual_seed(0)
    arviz = arviz_io.import_arviz()
    apart = concat([first, second])
    r_hat = [
        float(arviz.rhat(chains.to_inference_data(300), var_names=["s"])["s"].max())
        for chains in (apart, apart.align(300))
    ]
    assert r_hat[0] > 1.5 and r_hat[1] < 1.05


def test_renaming_leaves_owners_with_their_trajectories(swapped):
    _, second, orders = swapped
    draws = second.sample(20)
    back = relabelled(second, torch.argsort(orders, -1), draws)
    model, batch = second.model, second.batch
    for each in (draws, back):
        each["location"] = model.observation.project(each["s"]).squeeze(-2)
    for b, t, k in batch.mask.nonzero().tolist():
        for n in range(20):
            old, new = draws["w"][n, b, t, k], back["w"][n, b, t, k]
            assert (old == 3) == (new == 3)
            if old < 3:
                pair = draws["location"][n, b, old, t], back["location"][n, b, new, t]
                assert torch.equal(*pair)
    assert torch.equal(draws["w"] == -1, back["w"] == -1)


def test_chains_of_a_file_are_the_fits(swapped, tmp_path):
    first, second, _ = swapped
    path = concat([first, second]).align(50).to_netcdf(tmp_path / "fits.nc", 6, prior=4)
    data = arviz_io.load(path)
    assert data.posterior.sizes["chain"] == 2 and data.posterior.sizes["draw"] == 6
    assert data.sample_stats["log_weight"].shape == (2, 6, 2)
    assert data.observed_data["o"].dims == ("batch", "frame", "observation", "feature")
    assert np.isfinite(data.sample_stats["lp"]).all()


def test_matching_is_one_to_one_where_the_nearest_is_not():
    reference = torch.tensor([[[0.0], [1.0]]])
    other = torch.tensor([[[0.9], [0.6]]])
    assert matching(reference, other).tolist() == [[1, 0]]


def test_what_does_not_belong_together_is_refused(mixture, randomised):
    with pytest.raises(ValueError, match="at least one"):
        concat([])
    model, batch = mixture()
    longer_model, longer = mixture(num_frames=6)
    with pytest.raises(ValueError, match="concat: given"):
        concat(
            [
                Posterior(model, MeanField(model, batch), batch),
                Posterior(longer_model, MeanField(longer_model, longer), longer),
            ]
        )


def test_a_model_without_parts_has_nothing_to_align():
    import pyro
    import pyro.distributions as dist

    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    def guide(x):
        pyro.sample("mean", dist.Normal(0.0, 1.0))

    one = Posterior(model, guide, torch.tensor(0.3))
    with pytest.raises(ValueError, match="no parts that may change places"):
        concat([one, one]).align()
    assert concat([one, one]).to_inference_data(5).posterior["mean"].shape == (2, 5)
