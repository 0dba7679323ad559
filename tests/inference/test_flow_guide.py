"""TVNF as the guide of a path, in a program of one's own: its bound reaches a known evidence."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.transforms import ReshapeTransform
from torch import nn

from pyromodels.dynamics.tvnf import TVNF
from pyromodels.inference.engines.svi import SVI
from pyromodels.inference.posterior.posterior import Posterior

NUM_FRAMES, NOISE = 5, 0.5
X = torch.tensor([0.5, 1.5, 0.0, -1.0, -2.0]).double()


def covariance():
    """Of a random walk with steps of variance one."""
    numbers = torch.arange(1.0, NUM_FRAMES + 1)
    return torch.minimum(numbers, numbers.unsqueeze(-1))


def walk(x):
    flat = dist.MultivariateNormal(torch.zeros(NUM_FRAMES), covariance())
    shaped = ReshapeTransform((NUM_FRAMES,), (NUM_FRAMES, 1))
    s = pyro.sample("s", dist.TransformedDistribution(flat, shaped))
    pyro.sample("x", dist.Normal(s.squeeze(-1), NOISE).to_event(1), obs=x)


class FlowGuide(nn.Module):
    """q(s), which learns the posterior by heart: it is told nothing of x."""

    def __init__(self):
        super().__init__()
        self.flow = TVNF(source_dim=1, past_dim=16, hidden_dim=16, num_hidden=0, num_layers=1)

    def forward(self, x):
        pyro.sample("s", self.flow.path(NUM_FRAMES))


def test_a_flow_is_a_guide_whose_bound_reaches_the_evidence():
    torch.manual_seed(0)
    joint = covariance() + NOISE**2 * torch.eye(NUM_FRAMES)
    evidence = dist.MultivariateNormal(torch.zeros(NUM_FRAMES), joint).log_prob(X).item()
    guide = FlowGuide()
    elbo = pyro.infer.Trace_ELBO(num_particles=32, vectorize_particles=True, max_plate_nesting=0)
    svi = SVI(walk, guide, elbo=elbo, learning_rate=2e-2, num_steps=600)
    for _ in range(600):
        svi.step(X)
    posterior = Posterior(walk, guide, X)
    draws = posterior.sample(2000)
    bound = (posterior.log_joint(draws) - posterior.log_prob(draws)).mean().item()
    assert evidence - 0.1 < bound < evidence + 0.02
    gain = covariance() @ torch.linalg.inv(joint)
    expected = gain @ X
    deviation = (covariance() - gain @ covariance()).diagonal().sqrt()
    mean = draws["s"].mean(0).flatten()
    assert ((mean - expected).abs() < 0.25 * deviation).all()
    assert draws["s"].std(0).flatten().tolist() == pytest.approx(deviation.tolist(), rel=0.2)
