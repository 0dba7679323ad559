"""Every registered emission keeps its contract; so does every kind of coupling."""

import pytest
import torch

from pyromodels.emissions.base import DecodedEmission, Emission, make_emission
from pyromodels.emissions.mixture import Mixture
from pyromodels.errors import SpecError
from pyromodels.registry import DYNAMICS, EMISSIONS
from pyromodels.testing import EMISSION_CHECKS, check_transform, emission_specs
from pyromodels.transforms.coupling import CouplingFlow

COUPLINGS = [
    {},
    {"mixing": True, "num_hidden": 1},
    {"coupling": "spline", "split": 1},
    {"coupling": "spline", "dim": 1},
]


@pytest.mark.parametrize("check", EMISSION_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("spec", emission_specs(), ids=str)
def test_emission(check, spec):
    check(EMISSIONS.build(spec))


def test_every_registered_emission_is_walked():
    assert {spec["name"] for spec in emission_specs()} == set(EMISSIONS.names())


def coupling(num_members=1, dim=3, **more):
    torch.manual_seed(0)
    sizes = {"num_layers": 2, "hidden_dim": 4, "num_hidden": 0, **more}
    return CouplingFlow(num_members, dim, 2, **sizes).double()


@pytest.mark.parametrize("spec", COUPLINGS, ids=str)
def test_transform(spec):
    flow = coupling(**spec)
    e, z = torch.randn(5, 2).double(), torch.randn(5, flow.dim).double()
    check_transform(flow.given(e), z)


def test_a_transform_of_several_members_is_that_of_each():
    flow = coupling(num_members=3)
    e, z = torch.randn(4, 3, 6, 2).double(), torch.randn(4, 3, 6, 3).double()
    x = flow.given(e, frames=True)(z)
    for member in range(3):
        single = coupling()
        single.load_state_dict({k: v[member : member + 1] for k, v in flow.state_dict().items()})
        torch.testing.assert_close(single.given(e[:, member])(z[:, member]), x[:, member])


def test_weights_of_before_have_their_place():
    """Names under which TVNF, TVGMM and DeepAR were written before they had heads."""
    for name, renamed in {
        "tvnf": {"memory.": "past.", "head.": ""},
        "tvgmm": {"memory.": "past.", "head.": ""},
        "deep_ar": {"memory.": "", "head.": ""},
    }.items():
        prior, other = (DYNAMICS.build({"name": name}) for _ in range(2))
        old = {}
        for key, value in prior.state_dict().items():
            first = key[: key.index(".") + 1]
            old[renamed[first] + key[len(first) :]] = value
        other.load_state_dict(old)
        for key, value in other.state_dict().items():
            assert torch.equal(value, prior.state_dict()[key]), key


def test_an_emission_with_networks_of_its_own_is_refused_where_a_decoder_is_read():
    with pytest.raises(SpecError, match="given Mixture.*decoder's outputs"):
        DYNAMICS.build({"name": "srnn", "emission": "mixture"})
    with pytest.raises(SpecError, match="layers before Mixture.*of its own"):
        DYNAMICS.build({"name": "autoregressive", "emission": "mixture", "decoder_dims": [3]})
    with pytest.raises(SpecError, match="num_members.*side by side"):
        DYNAMICS.build({"name": "autoregressive", "emission": "gaussian", "num_members": 2})
    assert make_emission(Mixture(2), Emission).num_components == 2
    assert not issubclass(Mixture, DecodedEmission)
