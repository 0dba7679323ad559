"""Priors of trajectories as densities of waveforms: the same numbers, gradients, refusals."""

import pytest
import torch

from pyromodels.densities.prior import PriorDensity
from pyromodels.dynamics.tvnf import TVNF
from pyromodels.errors import SpecError
from pyromodels.registry import DENSITIES
from pyromodels.testing import build_source_prior

FLOW = {"name": "flowavenet", "num_blocks": 2, "num_flows": 1, "num_layers": 2, "width": 4}


def built(spec):
    density = PriorDensity(build_source_prior(spec)).double()
    return density.eval()


@pytest.mark.parametrize("spec", [
    {**FLOW, "noise_conditioned": True}, FLOW,
    {"name": "tvnf", "source_dim": 1, "past_dim": 3, "coupling": "spline"},
], ids=str)  # fmt: skip
def test_it_is_the_density_of_the_trajectory_and_its_gradient(spec):
    density = built(spec)
    x = torch.randn(3, 8).double()
    levels = torch.tensor([0.0, 0.1, 0.3]).double() if "noise_conditioned" in spec else 0.0
    log_prob = density.log_prob(x, levels)
    assert log_prob.shape == (3,)
    if isinstance(levels, float):
        torch.testing.assert_close(log_prob, density.prior.elbo(x.unsqueeze(-1)))
    else:
        assert log_prob[1] != density.log_prob(x)[1]
    step = 1e-5 * torch.randn_like(x)
    slope = (density.log_prob(x + step, levels) - density.log_prob(x - step, levels)) / 2
    torch.testing.assert_close(
        (density.score(x, levels) * step).sum(-1), slope, rtol=1e-5, atol=1e-9
    )


def test_it_is_built_from_a_table():
    density = DENSITIES.build({"name": "prior", "prior": {"name": "wavenet", "num_layers": 2}})
    x = torch.rand(2, 5)
    torch.testing.assert_close(density.log_prob(x), density.prior.path(5).log_prob(x[..., None]))
    with pytest.raises(NotImplementedError, match="score: samples of WaveNetPrior are classes"):
        density.score(x)


def test_what_it_cannot_be_is_refused_by_name():
    with pytest.raises(SpecError, match="prior: given LinearGaussian, D = 2"):
        PriorDensity({"name": "linear", "num_coordinates": 1})
    with pytest.raises(SpecError, match="prior: given TVNF, D = 2"):
        PriorDensity(TVNF(source_dim=2))
    with pytest.raises(ValueError, match="noise_std: given 0.1.*told nothing"):
        built({"name": "tvnf", "source_dim": 1}).log_prob(torch.zeros(4).double(), 0.1)
    with pytest.raises(ValueError, match="noise_std: given 0.1.*noise_conditioned"):
        built(FLOW).log_prob(torch.zeros(8).double(), 0.1)
