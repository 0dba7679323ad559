"""A prior with the detector's error keeps the contract, and is the model it says it is."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.dynamics.srnn import SRNN
from pyromodels.dynamics.tvnf import TVNF
from pyromodels.dynamics.with_error import WithError
from pyromodels.errors import ShapeError, SpecError
from pyromodels.testing import (
    SOURCE_PRIOR_CHECKS,
    build_source_prior,
    example_anchor,
    log_prob,
    run_prior,
    values,
)
from pyromodels.testing.source_prior import check_coupling

SPECS = [
    {"name": "linear", "num_coordinates": 1, "order": 2, "process_std": (0.3, 0.1)},
    {"name": "deep_ar", "emission": {"name": "gaussian", "predicts": "increment"}},
    {"name": "srnn", "source_dim": 1, "latent_dim": 1, "hidden_dim": 3},
    {"name": "srnn", "emission": {"name": "gaussian", "predicts": "increment"}},
]
CHECKS = [check for check in SOURCE_PRIOR_CHECKS if check is not check_coupling]  # the prior's own


def label(value):
    if isinstance(value, dict):
        return "-".join(str(v) for v in value.values())
    return value.__name__.removeprefix("check_")


@pytest.mark.parametrize("check", CHECKS, ids=label)
@pytest.mark.parametrize("spec", SPECS, ids=label)
def test_contract(spec, check):
    check(WithError(build_source_prior(spec), correlation=0.8).double())


def test_an_error_goes_beside_gaussian_frames_alone():
    with pytest.raises(SpecError, match="prior of WithError: given TVNF.*Gaussian message"):
        WithError(TVNF(), correlation=0.8)


def test_constant_velocity_with_error_is_a_linear_model_of_three_coordinates():
    std, rho, decay = torch.tensor([[0.3, 0.1], [0.2, 0.05]], dtype=torch.float64), 0.8, 0.9
    plain = LinearGaussian(num_coordinates=2, process_std=std, velocity_decay=decay)
    wide = WithError(plain, correlation=rho).double()
    variance = torch.tensor([0.5, 0.7], dtype=torch.float64)
    torch.manual_seed(0)
    start = Anchor(*(torch.rand(2, 1, 3, 4, dtype=torch.float64) for _ in range(2)))
    anchor = wide.anchor(start, error_variance=variance.expand(2, 1, 3, 2))
    block = torch.tensor([1.0, 0.0, 1.0])  # position, velocity, error -> what is observed
    torch.testing.assert_close(wide.projection, torch.block_diag(block, block).double())
    s = torch.randn(2, 1, 3, 6, 6, dtype=torch.float64)
    message = wide.gaussian_message(s, anchor=anchor)
    move = torch.tensor([[1.0, 1.0, 0.0], [0.0, decay, 0.0], [0.0, 0.0, rho]]).double()
    log_prob_by_hand = torch.zeros(2, 1, 3, dtype=torch.float64)
    for g in range(2):
        noise = torch.cat((std[g].square(), variance[g : g + 1] * (1 - rho**2))).diag()
        for t in range(1, 6):
            at = ..., t, g, slice(None), slice(None)
            torch.testing.assert_close(message.transition[at], move.expand(2, 1, 3, 3, 3))
            torch.testing.assert_close(message.covariance[at], noise.expand(2, 1, 3, 3, 3))
            now, before = (s[..., at, 3 * g : 3 * g + 3] for at in (t, t - 1))
            law = MultivariateNormal(before @ move.mT, noise)
            log_prob_by_hand += law.log_prob(now)
    first = torch.distributions.Normal(anchor.loc, anchor.variance.sqrt())
    log_prob_by_hand += first.log_prob(s[..., 0, :]).sum(-1)
    ours = log_prob(run_prior(wide, 6, anchor=anchor, data={"s": s}))["s"]
    torch.testing.assert_close(ours, log_prob_by_hand)


def test_error_is_stationary():
    wide = WithError(SRNN(), correlation=0.9).double()
    anchor = example_anchor(wide)
    message = wide.gaussian_message(values(run_prior(wide))["s"], anchor=anchor)
    variance = wide.split(anchor.variance)[1]
    for t in range(1, 5):
        carried = message.transition[..., t, :, 1, 1].square() * variance
        torch.testing.assert_close(carried + message.covariance[..., t, :, 1, 1], variance)


def test_base_trajectory_is_the_one_its_latents_were_drawn_with():
    """An SRNN rolls s and z out together; the error must not tear them apart."""
    wide = WithError(build_source_prior({"name": "srnn"}), correlation=0.9).double()
    trace = run_prior(wide)
    pair = trace.nodes["s_z"]["fn"].pair
    torch.testing.assert_close(wide.split(trace.nodes["s"]["value"])[0], pair.rolled_out.source)
    torch.testing.assert_close(pair.taught, pair.rolled_out.source)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="correlation"):
        WithError(SRNN(), correlation=1.0)
    wide = WithError(SRNN(), correlation=0.9)
    with pytest.raises(ShapeError, match="anchor of WithError"):
        wide.gaussian_message(torch.zeros(1, 5, 8), anchor=Anchor(torch.zeros(1, 4), torch.ones(4)))
