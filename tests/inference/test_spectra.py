"""MixDVAE and the additive model on complex spectra, against closed forms and published outputs."""

import dataclasses
import itertools

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import TraceEnum_ELBO

from pyromodels.distributions.kalman import smooth_and_compare
from pyromodels.distributions.message import GaussianMessage
from pyromodels.dynamics.by_source import BySource
from pyromodels.dynamics.deep_ar import DeepAR
from pyromodels.dynamics.srnn import SRNN, SRNNCell, SRNNState
from pyromodels.dynamics.vae import VAE
from pyromodels.emissions.complex import Complex
from pyromodels.errors import SpecError
from pyromodels.guides.mean_field import MeanField
from pyromodels.guides.wiener import Wiener
from pyromodels.inference.additive.wiener import VarianceUpdate, closed_form_bound, wiener_em
from pyromodels.inference.mixture.forward import ForwardSourceUpdate
from pyromodels.inference.mixture.updates import AssignmentUpdate, SourceUpdate
from pyromodels.models.additive import Additive
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.observations.spectra import ComplexSpectra, spectra_batch
from pyromodels.published_weights.load import load_published

SIZES = {"source_dim": 3, "emission": "complex"}


@pytest.fixture
def prior():
    torch.manual_seed(0)
    return BySource([SRNN(**SIZES), VAE(**SIZES)]).double().eval()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return spectra_batch(torch.randn(2, 5, 3, dtype=torch.complex128), 2, ratio=0.3)


def test_a_message_of_independent_frames_needs_no_smoother(prior, batch):
    model = MixDVAE(prior, ComplexSpectra(prior))
    guide = MeanField(model, batch)
    message = prior.gaussian_message(guide.sources.loc, anchor=None)
    evidence = model.observation.pseudo_observations(batch, guide.assigned)
    fast, _ = smooth_and_compare(message, *evidence, compare=False)
    slow, _ = smooth_and_compare(GaussianMessage(*message), *evidence, compare=False)
    torch.testing.assert_close(fast.loc, slow.loc)
    torch.testing.assert_close(fast.covariance, slow.covariance)


def test_a_sweep_is_the_published_closed_forms(prior, batch):
    """Equations A.34-A.37 in complex arithmetic."""
    model = MixDVAE(prior, ComplexSpectra(prior))
    guide = MeanField(model, batch)
    seen = prior.iterate(guide.sources.loc, guide.sources.variance)
    power = (guide.sources.loc.square() + guide.sources.variance).unflatten(-1, (-1, 2)).sum(-1)
    torch.testing.assert_close(seen.unflatten(-1, (-1, 2)).square().sum(-1), power)
    variance = prior.gaussian_message(seen, anchor=None).covariance.flatten(3)
    v = 2 * variance[..., ::2].movedim(1, -1)  # (B, T, F, N)
    o = torch.view_as_complex(batch.observations.contiguous()).unsqueeze(-1)
    phi = 2 * batch.variance[..., :1]
    SourceUpdate()(model, guide, batch)
    spread = 1 / (0.5 / phi + 1 / v)
    mean = spread * 0.5 / phi * o
    found = torch.view_as_complex(guide.sources.loc.unflatten(-1, (-1, 2)).contiguous())
    torch.testing.assert_close(found.movedim(1, -1), mean)
    AssignmentUpdate()(model, guide, batch)
    eta = (-((o - mean).abs().square() + spread) / phi).softmax(-1)
    torch.testing.assert_close(guide.responsibilities, eta)


@pytest.mark.parametrize("with_variance", [True, False])
def test_forward_updates_of_an_autoregressive_model_feed_it_with_the_posterior(
    batch, with_variance
):
    torch.manual_seed(0)
    prior = BySource([DeepAR(**SIZES), VAE(**SIZES)]).double().eval()
    model = MixDVAE(prior, ComplexSpectra(prior))
    guide = MeanField(model, batch)
    guide.responsibilities = torch.rand_like(guide.responsibilities).softmax(-1)
    precision, information = (
        part.flatten(3)[:, 0]
        for part in model.observation.pseudo_observations(batch, guide.assigned)
    )
    part, mean, variance = prior.priors[0], [], []
    fed = torch.zeros(2, 5, 6, dtype=torch.float64)
    for t in range(5):  # every frame anew from the posteriors of those before it
        own = 1 / part.gaussian_message(fed, anchor=None).covariance[:, t].flatten(1)
        variance.append(1 / (own + precision[:, t]))
        mean.append(variance[-1] * information[:, t])
        fed[:, t] = mean[-1]
        if with_variance:
            fed[:, t] = (mean[-1].square() + variance[-1]).sqrt()
    ForwardSourceUpdate(with_variance)(model, guide, batch)
    torch.testing.assert_close(guide.sources.loc[:, 0], torch.stack(mean, 1))
    torch.testing.assert_close(guide.sources.variance[:, 0], torch.stack(variance, 1))


def test_forward_updates_of_a_model_that_reads_no_past_are_the_whole_ones(batch):
    torch.manual_seed(0)
    prior = BySource([VAE(**SIZES), VAE(**SIZES)]).double().eval()
    model = MixDVAE(prior, ComplexSpectra(prior))
    guides = [MeanField(model, batch) for _ in range(2)]
    updates = SourceUpdate(), ForwardSourceUpdate()
    for guide, update in zip(guides, updates, strict=True):
        with torch.no_grad():
            update(model, guide, batch)
    torch.testing.assert_close(guides[0].loc, guides[1].loc)
    torch.testing.assert_close(guides[0].covariance, guides[1].covariance)


@pytest.mark.parametrize("with_variance", [True, False])
def test_forward_updates_feed_each_frame_with_the_posterior_of_the_last(
    prior, batch, with_variance
):
    """A fixed point of the decoder's pass: told of its own answer, it gives the same variances."""
    model = MixDVAE(prior, ComplexSpectra(prior))
    guide = MeanField(model, batch)
    srnn = prior.priors[0]
    before = guide.sources.loc[:, 0]
    if with_variance:
        before = (before.square() + guide.sources.covariance[:, 0].flatten(2)).sqrt()
    with torch.no_grad():
        ForwardSourceUpdate(with_variance=with_variance)(model, guide, batch)
        after, z = guide.sources.loc[:, 0], srnn.infer(before, noise=None).z
        if with_variance:
            after = (after.square() + guide.sources.covariance[:, 0].flatten(2)).sqrt()
        outputs = srnn.cell.all_outputs(z, srnn.see(after))
        own = 1 / srnn.emission.deviation(outputs).square()
    precision = (0.5 / batch.variance).flatten(-2)
    torch.testing.assert_close(
        guide.sources.covariance[:, 0].flatten(2), 1 / (own + precision)
    )


def test_forward_updates_refuse_transitions(batch):
    prior = SRNN(source_dim=6, emission={"name": "gaussian", "predicts": "increment",
                                         "scale": "unit"})
    model = MixDVAE(prior.double(), ComplexSpectra(prior))
    model.start = lambda batch: {}
    guide = MeanField(model, batch)
    with pytest.raises(SpecError, match="no transition"):
        ForwardSourceUpdate()(model, guide, batch)


def test_a_missing_bin_is_refused_where_sources_add_up(prior, batch):
    mask = batch.mask.clone()
    mask[0, 0, 0] = False
    partly = dataclasses.replace(batch, mask=mask)
    with pytest.raises(ValueError, match="1 bins masked out"):
        Wiener(Additive(prior), partly)


def test_every_draw_of_the_exact_posterior_says_the_evidence():
    """log p(o, s | v) - log q(s) is log p(o | v) whichever s is drawn."""
    torch.manual_seed(0)
    prior = BySource([VAE(**SIZES), VAE(**SIZES)]).double().eval()
    batch = spectra_batch(torch.randn(1, 2, 3, dtype=torch.complex128), 2, ratio=0.5)
    model = Additive(prior)
    guide = Wiener(model, batch)
    pyro.set_rng_seed(0)
    s = guide.sources(batch).rsample(torch.Size([4000]))
    q = guide.sources(batch).log_prob(s).sum(-1)
    v = guide.variances
    p = torch.distributions.Normal(0.0, v.sqrt()).log_prob(s).sum((-3, -2, -1))
    total = s.sum(-3).unflatten(-1, (-1, 2))
    law = torch.distributions.Normal(total, batch.variance.sqrt())
    values = p + law.log_prob(batch.observations).sum((-3, -2, -1)) - q
    torch.testing.assert_close(
        values, closed_form_bound(model, guide, batch).expand_as(values)
    )


def test_the_additive_program_and_its_guide_run_under_pyro(prior, batch):
    model = Additive(prior)
    guide = Wiener(model, batch)
    VarianceUpdate()(model, guide, batch)
    pyro.set_rng_seed(0)
    loss = TraceEnum_ELBO(max_plate_nesting=3).loss(model, guide, batch)
    assert np.isfinite(loss)
    drawn = pyro.poutine.trace(model).get_trace(batch, generate=True).nodes
    assert drawn["s"]["value"].shape == (2, 1, 2, 5, 6)
    assert drawn["o"]["value"].shape == batch.observations.shape


def test_em_of_a_known_variance_ends_after_one_sweep(batch):
    torch.manual_seed(0)
    prior = BySource([VAE(**SIZES), VAE(**SIZES)]).double().eval()
    for part in prior.priors:  # what the decoder says no longer depends on z
        for head in part.cell.decoder.heads():
            head.weight.data.zero_()
    model = Additive(prior)
    guide = Wiener(model, batch)
    engine = wiener_em(model, guide)
    bounds = []
    for _ in range(3):
        engine.step(batch)
        bounds.append(engine.elbo(batch))
    for earlier, later in itertools.pairwise(bounds):
        torch.testing.assert_close(earlier, later)
    torch.testing.assert_close(
        guide.sources(batch).mean.sum(1),
        batch.observations.flatten(-2) * (1 - batch.variance.flatten(-2)
                                          / guide.sources(batch).total),
    )


# ---- the authors' outputs


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PublishedStart(SRNNCell):
    """The published recursion is told of the source's own first frame before that frame."""

    first: torch.Tensor | None = None

    def start(self, batch_shape, like):
        memory = self.recurrence.initial_state(self.first)
        return SRNNState(
            self.recurrence.step(self.first, memory),
            like.new_zeros(batch_shape.numel(), self.latent_dim),
        )


def test_the_first_iteration_is_the_published_one(audio_data):
    folder = audio_data
    published = {k: torch.from_numpy(v) for k, v in np.load(folder / "parity_scass.npz").items()
                 if v.dtype.kind != "U"}
    priors = []
    for name in ("cbf", "wsj"):
        prior = load_published(folder / "weights" / f"model_scass_{name}.pt").float()
        priors.append(prior.with_emission(Complex.of(prior.emission)))
    for prior, power in zip(priors, published["s_init"], strict=True):
        fields = {f.name: getattr(prior.cell, f.name) for f in dataclasses.fields(prior.cell)}
        prior.cell = PublishedStart(**fields, first=power[:, 0])
    prior = BySource(priors).eval()
    model = MixDVAE(prior, ComplexSpectra(prior))
    batch = spectra_batch(published["mixture_stft"], 2, ratio=0.03, floor=0.0)
    guide = MeanField(model, batch)
    power = published["s_init"]
    started = torch.stack((power.sqrt(), torch.zeros_like(power)), -1).flatten(-2)
    guide.loc = started.movedim(0, 1).unsqueeze(-1)
    with torch.no_grad():
        ForwardSourceUpdate(with_variance=False)(model, guide, batch)
    parts = guide.sources.loc.unflatten(-1, (-1, 2)).contiguous()
    error = torch.view_as_complex(parts).movedim(1, 0) - published["m_1"]
    assert error.norm() < 1e-4 * published["m_1"].norm()
    variance = guide.sources.covariance.flatten(3).unflatten(-1, (-1, 2)).sum(-1).movedim(1, 0)
    assert (variance - published["V_1"]).norm() < 1e-4 * published["V_1"].norm()
