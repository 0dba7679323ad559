"""MixDVAE of another observation law than boxes: complex spectra, without anchors or detector.

Sources are circular complex Gaussians of known power, a bin of the spectrum is an observation; all
closed forms are known in complex arithmetic, and the evidence is a product over bins.
"""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.message import Anchor, GaussianMessage
from pyromodels.dynamics.base import SourcePrior
from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.errors import ShapeError, SpecError
from pyromodels.guides.enumerated import Enumerated
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.mixture.adequacy import owner_evidence
from pyromodels.inference.mixture.bound import closed_form_elbo
from pyromodels.inference.mixture.natural import NaturalAssignment, NaturalSources
from pyromodels.inference.mixture.start import online_start
from pyromodels.inference.mixture.updates import (
    AssignmentUpdate,
    ObservationNoiseUpdate,
    SourceUpdate,
)
from pyromodels.inference.mixture.vem import VEM
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.observations.base import ObservationLaw
from pyromodels.observations.detector import Detector
from pyromodels.observations.gaussian import GaussianObservations
from pyromodels.testing import check

CLOSE = {"atol": 1e-11, "rtol": 1e-10}
SWEEP = [SourceUpdate(), AssignmentUpdate()]


class Spectra(ObservationLaw):
    """p(o_tf | w_tf = n, s) = N_c(o_tf; s_n,tf, phi_tf): slot f sees block f, (real, imaginary)."""

    num_features = 2

    def project(self, s):
        return s.unflatten(-1, (-1, 2))

    def moments(self, sources):
        variance = sources.covariance.diagonal(dim1=-2, dim2=-1)
        return sources.loc_blocks.movedim(1, 3), variance.movedim(1, 3)

    def pseudo_observations(self, batch, assigned):
        precision = assigned.unsqueeze(-1) / self.variance(batch).unsqueeze(-2)
        information = precision * batch.observations.unsqueeze(-2)
        return torch.diag_embed(precision.movedim(3, 1)), information.movedim(3, 1)


class Power(SourcePrior):
    """p(s_n,tf) = N_c(0, v_nf), a law of s_1 of its own; A = 0, b = 0, variance v / 2."""

    needs_anchor, takes_anchor, message_is_exact, block_dim = False, False, True, 2

    def __init__(self, power):  # shape: (N, F)
        super().__init__()
        self.source_dim = 2 * power.shape[-1]
        self.register_buffer("power", power)

    def path(self, num_steps, anchor=None):
        std = (self.power / 2).sqrt().repeat_interleave(2, -1)
        std = std.unsqueeze(-2).expand(-1, num_steps, -1)
        return dist.Normal(torch.zeros_like(std), std).to_event(2)

    def sample_sources(
        self, name, num_steps, *, anchor, batch_shape, mask=None, sample=pyro.sample
    ):
        assert anchor is None
        return sample(name, self.path(num_steps).expand(batch_shape))

    def guide_sources(self, name, s, *, anchor, mask=None):
        pass

    def gaussian_message(self, s, *, anchor, z_noise=None):
        blocks = s.unflatten(-1, (-1, 2))
        variance = (self.power / 2)[:, None, :, None].expand_as(blocks)
        covariance = torch.diag_embed(variance)
        return GaussianMessage(
            torch.zeros_like(covariance), torch.zeros_like(blocks), covariance
        )


def problem(num_sources=2, *, num_frames=3, num_bins=2, missing=0.2):
    torch.manual_seed(0)
    power = 0.2 + 3 * torch.rand(num_sources, num_bins)
    model = MixDVAE(Power(power), Spectra())
    observations = torch.randn(2, num_frames, num_bins, 2)
    mask = torch.rand(2, num_frames, num_bins) >= missing
    phi = 0.2 + torch.rand(2, num_frames, num_bins)
    variance = (phi / 2).unsqueeze(-1).expand_as(observations)
    return model, MixtureBatch(observations, mask, variance, None, num_sources=num_sources)


def as_complex(value):
    return torch.view_as_complex(value.contiguous())


def log_evidence(model, batch):
    """log p(o), nats, (B,): every bin is a mixture of N_c(0, v_n + phi)."""
    power, phi = model.prior.power.T, 2 * batch.variance[..., 0]
    total = power + phi.unsqueeze(-1)  # (B, T, F, N)
    square = as_complex(batch.observations).abs().square().unsqueeze(-1)
    parts = -square / total - (math.pi * total).log()
    return ((parts.logsumexp(-1) - math.log(len(model.prior.power))) * batch.mask).sum((1, 2))


def test_both_laws_keep_the_contract():
    check(GaussianObservations)
    check(Registered)


class Registered(Spectra):
    """As a spec would build it."""

    def __init__(self, prior):
        super().__init__()
        assert prior.block_dim == 2


def test_a_law_of_one_prior_has_no_online_start():
    model, batch = problem()
    prior, anchor = LinearGaussian(num_coordinates=2), Anchor(*torch.ones(2, 2, 2, 4))
    with pytest.raises(NotImplementedError, match="Spectra is of no other prior than its own"):
        online_start(model, MeanField(model, batch), batch, prior=prior, anchor=anchor)


def test_a_sweep_is_the_closed_forms_in_complex_arithmetic():
    model, batch = problem()
    guide = MeanField(model, batch)
    SourceUpdate()(model, guide, batch)
    eta = 0.5 * batch.mask.unsqueeze(-1).to(batch.observations)
    o, phi = as_complex(batch.observations).unsqueeze(-1), 2 * batch.variance[..., :1]
    spread = 1 / (1 / model.prior.power.T + eta / phi)  # E|s - m|^2, (B, T, F, N)
    mean = spread * eta / phi * o
    found = as_complex(guide.sources.loc_blocks).movedim(1, 3)
    torch.testing.assert_close(found, mean, **CLOSE)
    covariance = guide.sources.covariance.movedim(1, 3)
    torch.testing.assert_close(covariance, spread[..., None, None] / 2 * torch.eye(2), **CLOSE)
    AssignmentUpdate()(model, guide, batch)
    eta = (-((o - mean).abs().square() + spread) / phi).softmax(-1) * batch.mask.unsqueeze(-1)
    torch.testing.assert_close(guide.responsibilities, eta, **CLOSE)


def test_the_bound_rises_to_the_evidence_and_is_it_with_one_source():
    model, batch = problem()
    guide = MeanField(model, batch)
    vem, exact = VEM(model, guide, SWEEP), log_evidence(model, batch)
    bounds = []
    for _ in range(6):
        vem.step(batch)
        bounds.append(vem.elbo(batch))
    assert all((after >= before - 1e-10).all() for before, after in itertools.pairwise(bounds))
    assert (bounds[-1] < exact).all()
    model, batch = problem(num_sources=1)
    guide = MeanField(model, batch)
    SourceUpdate()(model, guide, batch)
    torch.testing.assert_close(
        closed_form_elbo(model, guide, batch), log_evidence(model, batch), **CLOSE
    )


def test_a_natural_step_of_size_one_is_the_sweep():
    model, batch = problem()
    guides = [MeanField(model, batch), MeanField(model, batch)]
    natural = [NaturalSources(), NaturalAssignment()]
    for guide, steps in zip(guides, (SWEEP, natural), strict=True):
        vem = VEM(model, guide, steps)
        for _ in range(3):
            vem.sweep(batch)
    torch.testing.assert_close(guides[0].responsibilities, guides[1].responsibilities, **CLOSE)
    torch.testing.assert_close(guides[0].loc, guides[1].loc, **CLOSE)


def test_cavities_and_predictions_are_what_the_other_bins_say():
    """One observation a block: without it q(s) is the prior again, whatever its weight."""
    model, batch = problem()
    guide = MeanField(model, batch)
    SourceUpdate()(model, guide, batch)
    law = model.observation
    score = law.cavity_log_prob(batch, guide.sources, guide.assigned)
    total = model.prior.power.T + 2 * batch.variance[..., :1]
    square = as_complex(batch.observations).abs().square().unsqueeze(-1)
    expected = -square / total - (math.pi * total).log()
    torch.testing.assert_close(score[batch.mask], expected[batch.mask], **CLOSE)
    guide = MeanField(model, batch)  # standard normal in either part: power 2
    total = 2 + 2 * batch.variance[..., :1]
    expected = (-square / total - (math.pi * total).log()).expand(*batch.mask.shape, 2)
    torch.testing.assert_close(law.predictive_log_prob(batch, guide.sources), expected, **CLOSE)


def test_the_noise_scale_maximises_the_bound():
    model, batch = problem()
    guide = MeanField(model, batch)
    VEM(model, guide, SWEEP).sweep(batch)
    ObservationNoiseUpdate()(model, guide, batch)
    scale = model.observation.log_noise_scale
    (slope,) = torch.autograd.grad(closed_form_elbo(model, guide, batch).sum(), scale)
    assert scale.item() != 0 and abs(slope.item()) < 1e-9


def test_the_program_with_owners_summed_out_is_the_mixture_over_sources():
    model, batch = problem()
    pyro.set_rng_seed(1)
    s = poutine.trace(model).get_trace(batch).nodes["s"]["value"]
    assert s.shape == (2, 1, 2, 3, 4)
    given = poutine.condition(model, data={"s": s})
    loss = TraceEnum_ELBO(max_plate_nesting=3).loss(given, lambda batch: None, batch)
    phi, own = 2 * batch.variance[..., 0], as_complex(s.squeeze(1).unflatten(-1, (-1, 2)))
    square = (as_complex(batch.observations).unsqueeze(1) - own).abs().square()  # (B, N, T, F)
    log_parts = -square / phi.unsqueeze(1) - (math.pi * phi).log().unsqueeze(1)
    likelihood = ((log_parts.logsumexp(1) - math.log(2)) * batch.mask).sum()
    power = model.prior.power.unsqueeze(1)
    prior = (-own.abs().square() / power - (math.pi * power).log()).sum()
    assert -loss == pytest.approx((likelihood + prior).item(), rel=1e-12)


def test_the_estimator_of_pyro_agrees_with_the_closed_bound():
    model, batch = problem()
    guide = MeanField(model, batch)
    VEM(model, guide, SWEEP).sweep(batch)
    pyro.set_rng_seed(2)
    elbo = TraceEnum_ELBO(max_plate_nesting=3)
    draws = -torch.tensor([elbo.loss(model, guide, batch) for _ in range(300)])
    bound = closed_form_elbo(model, guide, batch).sum()
    assert (draws.mean() - bound).abs() < 5 * draws.std() / math.sqrt(len(draws))


def test_the_exact_posterior_has_the_evidence_of_independent_bins():
    model, batch = problem(num_frames=2)
    exact = Enumerated(model, batch)
    torch.testing.assert_close(exact.log_evidence, log_evidence(model, batch), **CLOSE)


def test_a_posterior_draws_and_weighs_owners():
    model, batch = problem()
    guide = MeanField(model, batch)
    VEM(model, guide, SWEEP).sweep(batch)
    posterior = Posterior(model, guide, batch)
    torch.manual_seed(3)
    draws = posterior.sample(5)
    assert draws["s"].shape == (5, 2, 2, 3, 4) and draws["w"].shape == (5, 2, 3, 2)
    assert (draws["w"][:, ~batch.mask] == -1).all()
    # log p(o, w): a bin is N_c(0, v_w + phi) with probability 1 / N
    power = model.prior.power[draws["w"].clamp_min(0), torch.arange(2)]
    total = power + 2 * batch.variance[..., 0]
    parts = -as_complex(batch.observations).abs().square() / total - (2 * math.pi * total).log()
    expected = (parts * batch.mask).sum((-1, -2))
    found = owner_evidence(model, batch, draws["w"]).log_evidence
    torch.testing.assert_close(found, expected, **CLOSE)


def test_a_batch_without_anchors_keeps_its_number_of_sources():
    _, batch = problem(num_sources=3)
    for other in (batch.subset(torch.tensor([1])), batch.repeat(2), batch.to("cpu", torch.float32)):
        assert other.num_sources == 3 and other.anchor is None
    parts = batch.observations, batch.mask, batch.variance
    with pytest.raises(ShapeError, match="num_sources: given none"):
        MixtureBatch(*parts, None)
    anchor = Anchor(torch.zeros(2, 2, 4), torch.ones(2, 2, 4))
    with pytest.raises(ShapeError, match="num_sources: given 3; expected 2"):
        MixtureBatch(*parts, anchor, num_sources=3)


def test_a_start_that_does_not_fit_the_prior_is_refused(mixture):
    model, batch = problem()
    anchored = MixtureBatch(
        batch.observations, batch.mask, batch.variance,
        Anchor(torch.zeros(2, 2, 4), torch.ones(2, 2, 4)),
    )
    with pytest.raises(SpecError, match="anchor.*given one; expected none: Power"):
        model(anchored)
    linear, boxes = mixture()
    without = MixtureBatch(boxes.observations, boxes.mask, boxes.variance, None, num_sources=2)
    with pytest.raises(SpecError, match="anchor.*given none; expected one.*LinearGaussian"):
        MeanField(linear, without)
    with pytest.raises(ShapeError, match="observations with a detector: given 2 coordinates"):
        MixDVAE(Power(torch.ones(2, 2)), Spectra(), detector=Detector())


def test_state_dicts_of_models_that_held_the_law_themselves_load():
    prior = LinearGaussian(num_coordinates=2)
    model = MixDVAE(prior, GaussianObservations(prior, noise_scale=0.5))
    state = {key.removeprefix("observation."): v for key, v in model.state_dict().items()}
    assert "projection" in state and "log_noise_scale" in state
    other = MixDVAE(LinearGaussian(num_coordinates=2))
    other.load_state_dict(state, strict=True)
    assert other.observation.log_noise_scale.item() == pytest.approx(math.log(0.5))
