"""Transforms of sounds and images: the contract, against formulas, and from process to process."""

import subprocess
import sys

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.transforms import AffineTransform
from torch import nn
from torch.distributions import constraints

from pyromodels.errors import ShapeError, SpecError
from pyromodels.testing import check, check_transform
from pyromodels.transforms.actnorm import ActNorm
from pyromodels.transforms.affine_coupling import AffineCoupling, halves
from pyromodels.transforms.base import Composition
from pyromodels.transforms.invertible_convolution import InvertibleConvolution
from pyromodels.transforms.multiscale import MultiScale
from pyromodels.transforms.squeeze import Squeeze


class Told(nn.Module):
    """A convolution that is told e, from channels to channels."""

    def __init__(self, in_dim, out_dim, told_dim, space_dim):
        super().__init__()
        kind = {1: nn.Conv1d, 2: nn.Conv2d}[space_dim]
        self.convolution = kind(in_dim, out_dim, 3, padding=1)
        self.told = nn.Linear(told_dim, out_dim, bias=False) if told_dim else None

    def forward(self, x, e=None):
        said = torch.tanh(self.convolution(x))
        space = [1] * (x.dim() - 2)
        return said if e is None else said + self.told(e).view(*said.shape[:2], *space)


def network(in_dim, out_dim, space_dim, told_dim=0):
    return Told(in_dim, out_dim, told_dim, space_dim)


def level(channels, space_dim, bound="none", told_dim=0):
    parts = [ActNorm(channels, space_dim=space_dim)]
    parts.append(InvertibleConvolution(channels, space_dim=space_dim))
    for moved in ("second", "first"):
        moves = halves(channels, moved=moved)
        said = network(channels - sum(moves), 2 * sum(moves), space_dim, told_dim)
        parts.append(AffineCoupling(said, moves, space_dim=space_dim, bound=bound))
    return Composition(parts)


def multiscale(space_dim, told_dim=0):
    by = 2**space_dim
    sizes = ((by, "none"), (by * by // 2, "tanh"))
    levels = [level(channels, space_dim, bound, told_dim) for channels, bound in sizes]
    prior = network(by // 2, by, space_dim, told_dim)
    return MultiScale(levels, [prior, None], space_dim=space_dim)


FLOWS = {
    "actnorm": (lambda: ActNorm(3), (3, 4)),
    "actnorm of images": (lambda: ActNorm(2, space_dim=2), (2, 3, 2)),
    "convolution": (lambda: InvertibleConvolution(3), (3, 4)),
    "convolution of images": (lambda: InvertibleConvolution(4, space_dim=2), (4, 2, 3)),
    "squeeze": (lambda: Squeeze(), (2, 6)),
    "squeeze of images": (lambda: Squeeze(space_dim=2), (2, 4, 6)),
    "coupling": (lambda: AffineCoupling(network(2, 4, 1), halves(4)), (4, 3)),
    "coupling of odd channels": (
        lambda: AffineCoupling(network(3, 4, 1), [True, False, True, False, False], bound="tanh"),
        (5, 3),
    ),
    "coupling of images": (
        lambda: AffineCoupling(network(1, 6, 2), [True, True, False, True], space_dim=2,
                               bound="sigmoid"),
        (4, 2, 3),
    ),
    "composition": (lambda: level(4, 1), (4, 3)),
    "multiscale": (lambda: multiscale(1), (1, 8)),
    "multiscale of images": (lambda: multiscale(2), (1, 4, 4)),
}  # fmt: skip
"""Maps, and the shape of what they map."""


def built(name, batch=(3, 2)):
    """A map that a first batch has started, and data of the shape that it maps."""
    torch.manual_seed(0)
    make, event = FLOWS[name]
    flow = make().double()
    flow.to_noise(0.5 + 2.0 * torch.randn(50, *event).double())
    return flow, torch.randn(*batch, *event).double()


@pytest.mark.parametrize("name", FLOWS)
def test_contract(name):
    flow, x = built(name)
    z, _ = flow.to_noise(x)
    transform = flow.given()
    check(transform, z)
    assert transform.domain.event_dim == x.dim() - 2
    assert transform.codomain.check(x).shape == (3, 2)


@pytest.mark.parametrize("space_dim", [1, 2])
def test_networks_may_be_told_a_vector_of_every_row(space_dim):
    torch.manual_seed(0)
    flow = multiscale(space_dim, told_dim=2).double()
    z = torch.randn(3, 2, 1, *[4] * space_dim).double()
    e = torch.randn(3, 1, 2).double()  # the same for both of a pair
    flow.to_noise(z, e)
    check_transform(flow.given(e), z)
    other = flow.from_noise(z, torch.cat((e[:1], e[1:] + 1.0)))
    same = torch.isclose(other, flow.from_noise(z, e)).flatten(2).all(-1)
    assert same[0].all() and not same[1:].any()


def test_the_contract_finds_a_wrong_determinant_and_a_parameter_that_does_nothing():
    class Wrong(ActNorm):
        def to_noise(self, x, e=None):
            z, log_det = super().to_noise(x, e)
            return z, log_det / x.shape[-1]

    class Idle(ActNorm):
        def __init__(self, num_channels):
            super().__init__(num_channels)
            self.idle = nn.Parameter(torch.zeros(1))

    z = torch.randn(3, 2, 5).double()
    for kind, words in ((Wrong, "not close"), (Idle, "idle gets no gradient")):
        flow = kind(2).double()
        flow.to_noise(torch.randn(9, 2, 5).double())
        with pytest.raises(AssertionError, match=words):
            check_transform(flow.given(), z)


@pytest.mark.parametrize("space_dim", [1, 2])
def test_squeezing_is_counted_by_hand(space_dim):
    x = torch.arange(float(2 * 4**space_dim)).view(2, *[4] * space_dim)
    z, log_det = Squeeze(space_dim=space_dim).to_noise(x)
    assert log_det == 0
    for c in range(2):
        if space_dim == 1:
            assert torch.equal(z[2 * c], x[c, 0::2]) and torch.equal(z[2 * c + 1], x[c, 1::2])
        else:
            for row in range(2):
                for column in range(2):
                    assert torch.equal(z[4 * c + 2 * row + column], x[c, row::2, column::2])


def test_actnorm_starts_once_with_the_first_batch_of_a_training():
    mean, std = torch.tensor([[[1.0], [-2.0]], [[3.0], [0.5]]])
    x = mean + std * torch.randn(4, 2, 9)
    norm = ActNorm(2).eval()
    assert torch.equal(norm.to_noise(x)[0], x) and not norm.started
    norm.train()
    assert torch.equal(norm.from_noise(x), x) and not norm.started
    z, log_det = norm.to_noise(x)
    assert norm.started
    torch.testing.assert_close(z.mean((0, 2)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std((0, 2), correction=0), torch.ones(2))
    scale = x.movedim(1, 0).flatten(1).std(1, correction=0)
    torch.testing.assert_close(log_det, (-9 * scale.log().sum()).expand(4))
    constant = ActNorm(2)
    z, log_det = constant.to_noise(torch.full((4, 2, 9), 3.0))
    assert not z.any() and not log_det.any(), "a constant channel is shifted alone"
    before = norm.shift.clone()
    norm.to_noise(x + 7.0)
    assert torch.equal(norm.shift, before)


def test_actnorm_that_is_loaded_does_not_start_anew():
    norm, other, fresh = ActNorm(2), ActNorm(2), ActNorm(2)
    norm.to_noise(torch.randn(4, 2, 9))
    other.load_state_dict(norm.state_dict())
    x = 5.0 + torch.randn(4, 2, 9)
    assert torch.equal(other.to_noise(x)[0], norm.to_noise(x)[0])
    norm.load_state_dict(fresh.state_dict())  # and one that had not started starts
    norm.to_noise(x)
    assert norm.started and norm.shift.abs().min() > 3.0


def test_the_convolution_is_one_and_its_determinant_that_of_its_matrix():
    torch.manual_seed(0)
    flow = InvertibleConvolution(4, space_dim=2)
    lower, upper = flow.mixing.factors()
    weight = (flow.permutation @ lower @ upper).squeeze(0)
    torch.testing.assert_close(weight @ weight.mT, torch.eye(4))  # a rotation at the start
    flow.double().mixing.log_diagonal.data.normal_()
    x = torch.randn(3, 4, 2, 5).double()
    lower, upper = flow.mixing.factors()
    weight = (flow.permutation @ lower @ upper).squeeze(0)
    z, log_det = flow.to_noise(x)
    torch.testing.assert_close(z, nn.functional.conv2d(x, weight[:, :, None, None]))
    torch.testing.assert_close(log_det, (10 * torch.linalg.slogdet(weight)[1]).expand(3))


def test_all_latents_are_returned_and_standardised():
    torch.manual_seed(0)
    flow = multiscale(1).double()
    x = torch.randn(5, 1, 8).double()
    z, _ = flow.to_noise(x)
    finest, last = flow.latents(z)
    assert finest.shape == (5, 1, 4) and last.shape == (5, 2, 2)
    assert torch.equal(flow.placed([finest, last]), z)
    kept, factored = flow.levels[0].to_noise(Squeeze().to_noise(x)[0])[0].chunk(2, 1)
    mean, log_std = flow.priors[0](kept).chunk(2, 1)
    torch.testing.assert_close(finest, (factored - mean) / log_std.exp())
    torch.testing.assert_close(last, flow.levels[1].to_noise(Squeeze().to_noise(kept)[0])[0])


def test_it_composes_with_other_transforms_in_a_distribution():
    flow, x = built("multiscale", (5,))
    base = dist.Normal(torch.zeros(5, 1, 8).double(), 1.0).to_event(2)
    stretch = AffineTransform(0.0, 2.0, event_dim=2)
    law = dist.TransformedDistribution(base, [flow.given(), stretch])
    assert law.event_shape == (1, 8) and law.support.event_dim == 2
    expected = flow.to_noise(x / 2)
    normal = dist.Normal(0.0, 1.0).log_prob(expected[0]).sum((-1, -2))
    torch.testing.assert_close(
        law.log_prob(x), normal + expected[1] - 8 * torch.tensor(2.0).double().log()
    )
    assert isinstance(flow.given().domain, type(constraints.independent(constraints.real, 2)))


SAVE = """
import sys, torch
sys.path.insert(0, sys.argv[2])
from test_transforms import FLOWS
kept = torch.load(sys.argv[1], weights_only=True)
for name, (state, x, z, log_det) in kept.items():
    flow = FLOWS[name][0]().double()
    flow.load_state_dict(state)
    found = flow.to_noise(x)  # in training mode
    assert torch.equal(found[0], z) and torch.equal(found[1], log_det), name
print("same", len(kept))
"""


def test_weights_mean_the_same_in_a_fresh_process(tmp_path):
    kept = {}
    for name in FLOWS:
        flow, x = built(name)
        kept[name] = (flow.state_dict(), x, *(v.detach() for v in flow.to_noise(x)))
    torch.save(kept, tmp_path / "kept.pt")
    folder = str(__file__).rpartition("/")[0]
    done = subprocess.run(
        [sys.executable, "-c", SAVE, str(tmp_path / "kept.pt"), folder],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == f"same {len(FLOWS)}\n", done.stderr


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Squeeze().to_noise(torch.zeros(2, 5)), ShapeError, r"\(2, 5\).*even sides"),
        (lambda: Squeeze(space_dim=2).to_noise(torch.zeros(1, 4, 3)), ShapeError, "even sides"),
        (lambda: Squeeze(space_dim=2).from_noise(torch.zeros(6, 2, 2)), ShapeError, "of 4"),
        (lambda: ActNorm(3).to_noise(torch.zeros(2, 5)), ShapeError, r"\(\*, 3, T\)"),
        (lambda: AffineCoupling(nn.Identity(), [True]), SpecError, "moves: given"),
        (lambda: AffineCoupling(nn.Identity(), halves(2), bound="tan"), SpecError, "tanh"),
        (lambda: MultiScale([ActNorm(2)], [nn.Identity()]), SpecError, "the last of them None"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(make, error, words):
    with pytest.raises(error, match=words):
        make()
