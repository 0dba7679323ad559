"""What every conditional of every model and encoder looks at: exactly zero, or not, by Jacobian."""

import pytest
import torch

from pyromodels.networks.encoders import PRESETS
from pyromodels.registry import DYNAMICS

T = 5
ALL = torch.ones(T, T, dtype=torch.bool)  # row t, column u: whether frame t looks at frame u
NOTHING = ~ALL
NOW = torch.eye(T, dtype=torch.bool)
PAST_AND_NOW, NOW_AND_LATER = ALL.tril(), ALL.triu()
PAST = ALL.tril(-1)
BEFORE = PAST & ALL.triu(-1)
MODELS = {
    # name: (arguments, what of s and z the prior of z_t sees, what of s and z the law of s_t sees)
    "vae": ({}, (NOTHING, NOTHING), (NOTHING, NOW)),
    "dkf": ({}, (NOTHING, BEFORE), (NOTHING, NOW)),
    "rvae": ({}, (NOTHING, NOTHING), (NOTHING, PAST_AND_NOW)),
    "rvae_noncausal": ({"causal": False}, (NOTHING, NOTHING), (NOTHING, ALL)),
    "storn": ({}, (NOTHING, NOTHING), (PAST, PAST_AND_NOW)),
    "vrnn": ({}, (PAST, PAST), (PAST, PAST_AND_NOW)),
    "srnn": ({}, (PAST, BEFORE), (PAST, NOW)),
}
ENCODERS = {
    # preset: (model, what of s and z the posterior of z_t sees)
    "vae": ("vae", (NOW, NOTHING)),
    "dkf": ("dkf", (NOW_AND_LATER, BEFORE)),
    "rvae": ("rvae", (NOW_AND_LATER, PAST)),
    "rvae_noncausal": ("rvae", (ALL, PAST)),
    "storn": ("storn", (PAST_AND_NOW, NOTHING)),
    "vrnn": ("vrnn", (PAST_AND_NOW, PAST)),
    "srnn": ("srnn", (ALL, BEFORE)),
    "srnn_filter": ("srnn", (PAST_AND_NOW, BEFORE)),
}


def build(name, **keywords):
    torch.manual_seed(0)
    prior = DYNAMICS.build({"name": name.removesuffix("_noncausal"), "source_dim": 2, **keywords})
    return prior.double().requires_grad_(False)


def seen(law):
    """(of s, of z), each (T, T): whether row t of a law of (z, x) depends on frame u."""
    z, x = torch.randn(T, 4, dtype=torch.float64), torch.randn(T, 2, dtype=torch.float64)

    def each(z, x):
        return torch.cat(law(z, x), -1).sum(-1)

    jacobians = torch.autograd.functional.jacobian(each, (z, x))
    of_z, of_x = (j.abs().sum(-1) > 0 for j in jacobians)
    return of_x, of_z


def check(law, expected):
    for found, allowed in zip(seen(law), expected, strict=True):
        assert torch.equal(found, allowed), found.int()


@pytest.mark.parametrize("name", MODELS)
def test_generative_conditionals(name):
    keywords, prior_sees, emission_sees = MODELS[name]
    prior = build(name, **keywords)
    check(prior.cell.all_latents, prior_sees)
    check(prior.cell.all_outputs, emission_sees)


@pytest.mark.parametrize("preset", ENCODERS)
def test_encoders(preset):
    name, expected = ENCODERS[preset]
    prior = build(name, encoder=preset)
    check(lambda z, x: prior.encoder.parameters_of(prior.cell, z, x), expected)


@pytest.mark.parametrize("name", MODELS)
def test_what_a_model_says_of_itself(name):
    keywords, prior_sees, emission_sees = MODELS[name]
    prior = build(name, **keywords)
    cell, sees = prior.cell, (prior_sees, emission_sees)
    assert cell.feeds_back is any(of_s.any().item() for of_s, _ in sees)
    assert cell.looks_ahead is emission_sees[1].triu(1).any().item()


@pytest.mark.parametrize("name", ["vrnn", "srnn"])
def test_a_shared_hidden_state_knows_the_past_alone(name):
    """h_t knows x_<t, and z_<t exactly where the model says so."""
    prior = build(name)
    latents = PAST if prior.cell.sharing.needs_latents else NOTHING
    check(lambda z, x: (prior.cell.hidden(z, x),), (PAST, latents))


def test_every_preset_is_in_the_table():
    assert set(ENCODERS) == set(PRESETS)
