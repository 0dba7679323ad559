"""A prior for each source: the sum of its parts, site by site."""

import pyro
import pytest
import torch
from pyro import poutine

from pyromodels.distributions.message import FrameMessage
from pyromodels.dynamics.autoregressive import Autoregressive
from pyromodels.dynamics.by_source import BySource
from pyromodels.dynamics.deep_ar import DeepAR
from pyromodels.dynamics.hit import HiT
from pyromodels.dynamics.srnn import SRNN
from pyromodels.dynamics.vae import VAE
from pyromodels.emissions.complex import Complex
from pyromodels.errors import ShapeError, SpecError

SIZES = {"source_dim": 3, "emission": "complex"}
SHAPE = torch.Size([4, 2])


@pytest.fixture
def prior():
    torch.manual_seed(0)
    return BySource([SRNN(**SIZES, latent_dim=2), VAE(**SIZES, latent_dim=5)]).double()


def test_its_density_is_the_sum_of_its_parts(prior):
    trace = poutine.trace(prior.sample_sources).get_trace("s", 6, batch_shape=SHAPE)
    s, z = (trace.nodes[name]["value"] for name in ("s", "s_z"))
    assert s.shape == (*SHAPE, 6, 6) and z.shape == (*SHAPE, 6, 5)
    assert not z[:, 0, :, 2:].any(), "coordinates that the smaller model has not"
    trace.compute_log_prob()
    for n, part in enumerate(prior.priors):
        values = {"s": s[:, n], "s_z": z[:, n, :, : part.latent_dim]}
        own = poutine.trace(poutine.condition(part.sample_sources, values)).get_trace(
            "s", 6, batch_shape=SHAPE[:1]
        )
        own.compute_log_prob()
        for name in values:
            torch.testing.assert_close(
                trace.nodes[name]["log_prob"][:, n], own.nodes[name]["log_prob"]
            )


def test_its_bound_is_that_of_each_part(prior):
    s = torch.randn(*SHAPE, 6, 6, dtype=torch.float64)
    torch.manual_seed(1)
    bound = prior.elbo(s)
    torch.manual_seed(1)
    expected = [part.elbo(s[:, n]) for n, part in enumerate(prior.priors)]
    torch.testing.assert_close(bound, torch.stack(expected, 1))
    assert prior.has_elbo and bound.shape == SHAPE


def test_the_guide_and_the_message_are_those_of_the_parts(prior):
    s = torch.randn(*SHAPE, 6, 6, dtype=torch.float64)
    trace = poutine.trace(prior.guide_sources).get_trace("s", s)
    trace.compute_log_prob()
    message = prior.gaussian_message(s, anchor=None)
    for n, part in enumerate(prior.priors):
        z = trace.nodes["s_z"]["value"][:, n, :, : part.latent_dim]
        own = poutine.trace(poutine.condition(part.guide_sources, {"s_z": z}))
        own = own.get_trace("s", s[:, n])
        own.compute_log_prob()
        torch.testing.assert_close(
            trace.nodes["s_z"]["log_prob"][:, n], own.nodes["s_z"]["log_prob"]
        )
        alone = part.gaussian_message(s[:, n], anchor=None)
        torch.testing.assert_close(message.covariance[:, n], alone.covariance)
    assert isinstance(message, FrameMessage) and not message.transition.any()


def test_a_prior_without_latents_stands_beside_one_with_them():
    torch.manual_seed(0)
    parts = [DeepAR(**SIZES), VAE(**SIZES, latent_dim=5)]
    prior = BySource(parts).double()
    trace = poutine.trace(prior.sample_sources).get_trace("s", 6, batch_shape=SHAPE)
    trace.compute_log_prob()
    s, z = (trace.nodes[name]["value"] for name in ("s", "s_z"))
    assert z.shape == (*SHAPE, 6, 5) and not z[:, 0].any() and z[:, 1].all()
    assert not trace.nodes["s_z"]["log_prob"][:, 0].any()
    torch.testing.assert_close(trace.nodes["s"]["log_prob"][:, 0], parts[0].elbo(s[:, 0]))
    guide = poutine.trace(prior.guide_sources).get_trace("s", s)
    guide.compute_log_prob()
    assert guide.nodes["s_z"]["value"].shape == z.shape
    message = prior.gaussian_message(s, anchor=None)
    for n, part in enumerate(parts):
        alone = part.gaussian_message(s[:, n], anchor=None)
        torch.testing.assert_close(message.covariance[:, n], alone.covariance)


def test_where_no_source_has_latents_there_is_no_site_of_them():
    prior = BySource([DeepAR(**SIZES), DeepAR(**SIZES)])
    trace = poutine.trace(prior.sample_sources).get_trace("s", 6, batch_shape=SHAPE)
    assert [n for n, node in trace.nodes.items() if node["type"] == "sample"] == ["s"]
    guide = poutine.trace(prior.guide_sources).get_trace("s", trace.nodes["s"]["value"])
    assert "s_z" not in guide.nodes and prior.latent_dim == 0


def test_autoregressive_powers_are_those_of_the_spectra():
    torch.manual_seed(0)
    powers = DeepAR(source_dim=3, emission="spectral")
    spectra = powers.with_emission(Complex.of(powers.emission))
    s = torch.randn(2, 5, 6)
    power = s.unflatten(-1, (-1, 2)).square().sum(-1)
    torch.testing.assert_close(
        spectra.elbo(s), powers.elbo(power) - 15 * torch.tensor(torch.pi).log()
    )  # the phase of each of three bins in five frames is uniform
    assert {id(p) for p in spectra.parameters()} == {id(p) for p in powers.parameters()}
    with pytest.raises(SpecError, match="with_emission.*decoder"):
        Autoregressive(emission="mixture").with_emission("spectral")


def test_masked_frames_have_no_density(prior):
    mask = torch.ones(4, 2, 6, dtype=torch.bool)
    mask[:, 1, 4:] = False
    trace = poutine.trace(prior.sample_sources).get_trace(
        "s", 6, batch_shape=SHAPE, mask=mask
    )
    s = trace.nodes["s"]["value"].clone()
    before = trace.nodes["s"]["fn"].log_prob(s)
    s[:, 1, 4:] += 1.0
    torch.testing.assert_close(trace.nodes["s"]["fn"].log_prob(s), before)


def test_several_draws_at_once(prior):
    with pyro.plate("draws", 7, dim=-3):
        s = prior.sample_sources("s", 6, batch_shape=SHAPE)
    assert s.shape[-4:] == (*SHAPE, 6, 6)


def test_what_does_not_fit_is_refused_by_name(prior):
    with pytest.raises(ShapeError, match="ends with 2 sources"):
        prior.sample_sources("s", 6, batch_shape=torch.Size([4, 3]))
    with pytest.raises(ShapeError, match="one D for all"):
        BySource([SRNN(**SIZES), VAE(source_dim=4, emission="complex")])
    with pytest.raises(SpecError, match="latent of the whole sequence"):
        BySource([HiT(source_dim=4), HiT(source_dim=4)])
    with pytest.raises(SpecError, match="given Autoregressive.*single autoregressive"):
        BySource([Autoregressive(emission="mixture", num_members=2)])


def test_weights_of_powers_are_weights_of_spectra():
    powers = SRNN(source_dim=3, emission="spectral")
    spectra = SRNN(source_dim=3, emission="complex")
    spectra.load_state_dict(powers.state_dict())
    s = torch.randn(2, 5, 6)
    power = s.unflatten(-1, (-1, 2)).square().sum(-1)
    z = powers.infer(power, noise=None).z
    torch.testing.assert_close(spectra.infer(s, noise=None).z, z)
    given = powers.pair(5, batch_shape=torch.Size([2])).source(z).log_prob_by_frame(power)
    wide = spectra.pair(5, batch_shape=torch.Size([2])).source(z).log_prob_by_frame(s)
    # the phase of each of the three bins is uniform
    torch.testing.assert_close(wide, given - 3 * torch.tensor(torch.pi).log())
