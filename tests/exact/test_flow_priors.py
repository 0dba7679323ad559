"""FloWaveNet and Glow: true densities, all of their codes, temperatures, noise, and a known law."""

import math

import pytest
import torch

from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.flowavenet import FloWaveNet
from pyromodels.dynamics.glow import Glow
from pyromodels.errors import ShapeError, SpecError
from pyromodels.networks.wavenet import WaveNet, fold_weight_norm
from pyromodels.testing import build_source_prior

PRIORS = {
    "flowavenet": {"num_blocks": 2, "blocks_per_split": 1, "num_flows": 2, "num_layers": 2,
                   "width": 3},
    "flowavenet of two": {"source_dim": 2, "num_blocks": 2, "num_flows": 1, "num_layers": 1,
                          "width": 3},
    "glow": {"source_dim": 4, "num_levels": 2, "num_flows": 2, "width": 3},
}  # fmt: skip


def built(key, **more):
    """A prior that a batch has started, whose networks say something, and its number of frames."""
    prior = build_source_prior({"name": key.split()[0], **PRIORS[key], **more})
    prior.log_prob(torch.randn(50, 8, prior.source_dim).double())
    return prior


@pytest.mark.parametrize("key", PRIORS)
def test_log_prob_is_that_of_the_noise_and_of_the_whole_jacobian(key):
    prior = built(key)
    s = torch.randn(4, prior.source_dim).double()
    path = prior.path(4)
    jacobian = torch.autograd.functional.jacobian(path.noise_of, s).reshape(s.numel(), -1)
    noise = torch.distributions.Normal(0.0, 1.0).log_prob(path.noise_of(s)).sum()
    torch.testing.assert_close(prior.log_prob(s), noise + torch.linalg.slogdet(jacobian)[1])
    assert torch.linalg.slogdet(jacobian)[1].abs() > 0.1


@pytest.mark.parametrize("key", PRIORS)
def test_all_codes_come_back_and_lead_back(key):
    prior = built(key)
    for batch in ((), (3,), (2, 5)):
        s = torch.randn(*batch, 8, prior.source_dim).double()
        codes = prior.codes(s)
        assert sum(code[(0,) * len(batch)].numel() for code in codes) == 8 * prior.source_dim
        torch.testing.assert_close(prior.from_codes(codes), s, rtol=0, atol=1e-10)
        square = sum(code.square().flatten(len(batch)).sum(-1) for code in codes)
        z = prior.path(8).noise_of(s)
        torch.testing.assert_close(square, z.square().sum((-1, -2)))
    assert len(codes) == {"flowavenet": 2, "flowavenet of two": 1, "glow": 2}[key]


@pytest.mark.parametrize("key", PRIORS)
def test_a_temperature_is_the_deviation_of_the_noise(key):
    prior = built(key)
    shape = torch.Size([3])
    mode = prior.from_codes(prior.codes(torch.zeros(3, 8, prior.source_dim).double()))
    mode = prior.flow.from_noise(torch.zeros_like(mode))
    for seed in (0, 1):
        torch.manual_seed(seed)
        still = prior.draw(8, batch_shape=shape, temperature=0.0)
        assert torch.equal(still, mode), "0 is 0"
    torch.manual_seed(2)
    warm = prior.draw(8, batch_shape=shape, temperature=0.7)
    torch.manual_seed(2)
    noise = torch.randn(3, 8, prior.source_dim, dtype=torch.float64)
    expected = prior.flow.from_noise(0.7 * noise)
    torch.testing.assert_close(warm, expected)


@pytest.mark.parametrize("key", PRIORS)
def test_a_network_that_is_told_the_noise_is_a_density_of_each(key):
    prior = built(key, noise_conditioned=True)
    s = torch.randn(3, 8, prior.source_dim).double()
    levels = torch.tensor([0.0, 0.01, 0.3]).double()
    together = prior.log_prob(s, levels)
    for row, level in enumerate(levels.tolist()):
        torch.testing.assert_close(prior.log_prob(s[row], level), together[row])
        codes = prior.codes(s, level)
        torch.testing.assert_close(prior.from_codes(codes, level), s, rtol=0, atol=1e-10)
    assert (prior.log_prob(s) - together)[1:].abs().min() > 1e-4
    small = 1e-5 * torch.randn_like(s)
    slope = (prior.log_prob(s + small, levels) - prior.log_prob(s - small, levels)) / 2
    torch.testing.assert_close(
        (prior.score(s, levels) * small).sum((-1, -2)), slope, rtol=1e-5, atol=1e-9
    )


def test_the_density_of_two_samples_integrates_to_one():
    prior = build_source_prior({"name": "flowavenet", "num_blocks": 1, "num_flows": 2,
                                "num_layers": 1, "width": 3}).eval()  # fmt: skip
    axis = torch.linspace(-12, 12, 301).double()
    with torch.no_grad():
        density = prior.log_prob(torch.cartesian_prod(axis, axis).unsqueeze(-1)).exp()
    assert abs(density.sum().item() * 0.08**2 - 1.0) < 1e-4


@pytest.mark.parametrize("kind", [FloWaveNet, Glow])
def test_a_fresh_flow_is_the_normal_law_of_its_first_batch(kind):
    torch.manual_seed(0)
    options = {"num_blocks": 1} if kind is FloWaveNet else {"num_levels": 1, "source_dim": 4}
    prior = kind(**options, num_flows=1, width=4).double()
    s = torch.randn(40, 8, prior.source_dim).double()
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(s).sum((-1, -2))
    still = prior.eval().log_prob(s)
    if kind is FloWaveNet:  # couplings of Glow start as contractions
        torch.testing.assert_close(still, normal)
    else:
        rest = math.log(1 / (1 + math.exp(-2)))
        z = prior.path(8).noise_of(s)
        expected = -0.5 * (z.square().sum((-1, -2)) + 32 * math.log(2 * math.pi)) + 16 * rest
        torch.testing.assert_close(still, expected)
    prior.train().log_prob(3.0 + 2.0 * s)
    torch.testing.assert_close(
        prior.eval().log_prob(3.0 + 2.0 * s).mean() + 8 * prior.source_dim * math.log(2.0),
        still.mean(), rtol=0.05, atol=0.0,
    )  # fmt: skip


def test_a_flow_learns_a_law_and_no_more_than_there_is_to_learn():
    """A loss with less than the whole log-determinant goes below the entropy of the data."""
    torch.manual_seed(0)
    prior = FloWaveNet(num_blocks=1, num_flows=2, num_layers=1, width=8).double()
    covariance = torch.tensor([[1.0, 0.9], [0.9, 1.0]]).double()
    law = torch.distributions.MultivariateNormal(torch.tensor([1.0, -1.0]).double(), covariance)
    adam = torch.optim.Adam(prior.parameters(), lr=0.02)
    for _ in range(150):
        adam.zero_grad()
        loss = -prior.log_prob(law.sample((200,)).unsqueeze(-1)).mean()
        loss.backward()
        adam.step()
    fresh = law.sample((20000,))
    with torch.no_grad():
        gap = law.log_prob(fresh) - prior.log_prob(fresh.unsqueeze(-1))
    error = gap.std() / math.sqrt(len(gap))
    assert -5 * error < gap.mean() < 0.1, "the divergence from the data is not below zero"


def test_the_paper_has_four_blocks_of_six_flows_and_one_split():
    prior = FloWaveNet(**FloWaveNet.presets["paper"])
    networks = [module for module in prior.modules() if isinstance(module, WaveNet)]
    layers = [len(network.stack.gates) for network in networks]
    assert sorted(layers) == [2] + [10] * 24 and prior.frame_multiple == 16
    assert prior.flow.scales.splits == (False, True, False, False)
    fold_weight_norm(prior)
    weights = {name.rpartition(".")[2] for name, _ in prior.named_parameters()}
    assert weights == {"weight", "bias", "shift", "log_scale"}


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: built("glow").log_prob(torch.zeros(6, 4).double()), ShapeError,
         r"\(6, 4\).*T, a multiple of 4"),
        (lambda: built("flowavenet").log_prob(torch.zeros(8, 2).double()), ShapeError, "8, 1|T, 1"),
        (lambda: built("flowavenet").log_prob(torch.zeros(8, 1).double(), 0.1), ValueError,
         "noise_std: given 0.1; expected 0.*noise_conditioned"),
        (lambda: built("glow").elbo(torch.zeros(8, 4).double(), mask=torch.ones(8)), ValueError,
         "mask: given a mask"),
        (lambda: built("glow").elbo(torch.zeros(8, 4).double(),
                                    anchor=Anchor(torch.zeros(4), torch.ones(4))),
         ValueError, "anchor"),
        (lambda: built("glow").gaussian_message(torch.zeros(8, 4), anchor=None),
         NotImplementedError, "follow its score"),
        (lambda: Glow(source_dim=6, num_levels=2), SpecError, "source_dim: given 6.*multiple of 4"),
        (lambda: Glow(num_flows=0), SpecError, "num_flows: given 0"),
        (lambda: FloWaveNet(num_blocks=0), SpecError, "num_blocks: given 0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(make, error, words):
    with pytest.raises(error, match=words):
        make()
