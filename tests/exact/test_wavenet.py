"""WaveNet against its equations, its queues, its causality, and the sum of its probabilities."""

import math

import pytest
import torch
from torch.nn import functional as F

from pyromodels.audio.mu_law import companded, decode, encode
from pyromodels.distributions.message import Anchor
from pyromodels.distributions.quantised import Quantised
from pyromodels.dynamics.autoregressive import Autoregressive
from pyromodels.dynamics.wavenet import WaveNetPrior
from pyromodels.errors import ShapeError, SpecError
from pyromodels.networks.memory import GatedMemory, make_memory
from pyromodels.networks.wavenet import GatedStack, WaveNet, fold_weight_norm
from pyromodels.networks.wavenet_queues import StackSteps


def built(**more):
    torch.manual_seed(0)
    options = {"width": 3, "num_layers": 3, **more}
    return GatedStack(2, 4, **options).double()


@pytest.mark.parametrize("causal", [True, False])
def test_it_is_its_equations(causal):
    stack = built(causal=causal, told_dim=2, num_blocks=2, post_kernel_size=1 if causal else 3)
    x, e = torch.randn(5, 2, 20).double(), torch.randn(5, 2).double()

    def convolved(v, weight, by):
        reach = (weight.shape[-1] - 1) * by
        left = reach if causal else reach // 2
        wide = F.pad(v, (left, reach - left))
        length = v.shape[-1]
        taps = (wide[..., k * by : k * by + length] for k in range(weight.shape[-1]))
        return sum(weight[:, :, k] @ tap for k, tap in enumerate(taps))

    h = convolved(x, stack.front.weight, 1) + stack.front.bias[:, None]
    skip, told = 0, stack.told(e).view(5, 6, 6)
    for number, by in enumerate((1, 2, 4, 1, 2, 4)):
        gate = stack.gates[number]
        both = convolved(h, gate.weight, by) + gate.bias[:, None] + told[:, number, :, None]
        a = torch.tanh(both[:, :3]) * torch.sigmoid(both[:, 3:])
        out = stack.outs[number].weight[..., 0]
        skip = skip + out[:3] @ a
        if number < 5:
            h = (h + out[3:] @ a) / math.sqrt(2)
        else:
            assert out.shape == (3, 3), "the last residual is not there"
    post = convolved(torch.relu(skip), stack.post.weight, 1) + stack.post.bias[:, None]
    torch.testing.assert_close(stack(x, e), torch.relu(post))


@pytest.mark.parametrize(
    "options",
    [
        {"causal": True},
        {"causal": True, "kernel_size": 2, "num_blocks": 2},
        {},
        {"post_kernel_size": 3, "num_layers": 2},
    ],
    ids=str,
)
def test_it_sees_what_it_says_it_sees_and_nothing_else(options):
    stack, t, length = built(**options), 20, 41
    x = torch.randn(1, 2, length).double()
    jacobian = torch.autograd.functional.jacobian(lambda v: stack(v)[0, :, t].sum(), x)
    seen = jacobian.abs().sum((0, 1)) != 0
    before = stack.reach - 1 if stack.causal else (stack.reach - 1) // 2
    expected = torch.zeros(length, dtype=torch.bool)
    expected[t - before : t + 1 + (0 if stack.causal else before)] = True
    assert not (seen & ~expected).any(), "it looks at what is not there"
    assert seen[[t - before, t]].all() and (stack.causal or seen[t + before])


@pytest.mark.parametrize("kernel_size", [2, 3])
def test_queues_are_the_pass_over_all_frames(kernel_size):
    stack = built(causal=True, kernel_size=kernel_size, num_blocks=2)
    x = torch.randn(5, 2, 30).double()
    steps = StackSteps(stack)
    queues, found = steps.start(x), []
    for frame in x.unbind(-1):
        y, queues = steps.step(frame, queues)
        found.append(y)
    torch.testing.assert_close(torch.stack(found, -1), stack(x), rtol=1e-12, atol=1e-12)
    for kept, by in zip(queues.layers, stack.dilations, strict=True):
        assert len(kept) <= 2 * (kernel_size - 1) * by + 1, "it keeps what nobody reads"


def test_queues_go_on_from_any_of_their_states():
    stack = built(causal=True)
    x = torch.randn(5, 2, 12).double()
    steps = StackSteps(stack)
    states = [steps.start(x)]
    for frame in x.unbind(-1):
        states.append(steps.step(frame, states[-1])[1])
    other = x.clone()
    other[..., 8] += 1.0
    for t in (8, 11, 8):
        y, _ = steps.step(other[..., t], states[t])
        whole = torch.cat((x[..., :t], other[..., t : t + 1]), -1)
        torch.testing.assert_close(y, stack(whole)[..., -1], rtol=1e-12, atol=1e-12)


def test_weight_norm_is_a_way_to_write_weights():
    plain, normed = built(), built(weight_norm=True)
    x = torch.randn(5, 2, 20).double()
    torch.testing.assert_close(normed(x), plain(x))
    lengths = [p for name, p in normed.named_parameters() if name.endswith("original0")]
    assert len(lengths) == 2 + 2 * 3
    with torch.no_grad():
        for length in lengths:
            length.mul_(1.5)
    before = normed(x)
    assert not torch.allclose(before, plain(x))
    fold_weight_norm(normed)
    torch.testing.assert_close(normed(x), before)
    assert set(normed.state_dict()) == set(plain.state_dict())


def test_a_conditioner_says_nothing_at_first():
    network = WaveNet(2, 3, width=4, num_layers=2)
    assert not network(torch.randn(5, 2, 20)).any()
    network.out.convolution.bias.data.fill_(2.0)
    network.out.log_scale.data.fill_(0.1)
    expected = torch.full((5, 3, 20), 2 * math.exp(0.3))
    torch.testing.assert_close(network(torch.randn(5, 2, 20)), expected)


def tiny(**more):
    torch.manual_seed(0)
    prior = WaveNetPrior(width=4, num_layers=2, **more).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.mul_(3.0)
    return prior


def test_probabilities_of_all_pairs_of_samples_add_up_to_one():
    prior = tiny()
    levels = decode(torch.arange(256), dtype=torch.float64)
    pairs = torch.cartesian_prod(levels, levels).unsqueeze(-1)
    with torch.no_grad():
        log_prob = torch.cat([prior.path(2).log_prob(some) for some in pairs.split(4096)])
    assert log_prob.shape == (256**2,)
    assert abs(log_prob.exp().sum().item() - 1.0) < 1e-12
    second = log_prob.view(256, 256).log_softmax(-1)
    assert (second[0] - second[255]).abs().max() > 0.01, "the second knows the first"


def test_a_sample_changes_the_law_of_later_ones_alone():
    """By other samples, not by gradients: a class has none."""
    prior = tiny()
    s = prior.path(12).sample()
    before = prior.path(12).log_prob_by_frame(s)
    for t in range(12):
        other = s.clone()
        other[t] = -other[t]
        after = prior.path(12).log_prob_by_frame(other)
        assert torch.equal(after[:t], before[:t]), "it knows the future"
        if t + 1 < 12:
            assert after[t + 1] != before[t + 1]


@pytest.mark.parametrize("kernel_size", [2, 3])
def test_draws_by_queues_are_those_of_whole_passes_to_the_bit(kernel_size):
    prior = tiny(num_blocks=2, kernel_size=kernel_size)
    path = prior.path(60, batch_shape=torch.Size([3]))
    torch.manual_seed(1)
    noise = path.noise()
    with torch.no_grad():
        cached = path.roll_out(noise)
        naive = torch.zeros(3, 0, 1).double()
        for t in range(60):
            longer = torch.cat((naive, torch.zeros(3, 1, 1).double()), 1)
            e = prior.summary(longer)[:, -1]
            s = prior.head.draw(e.unsqueeze(0), noise[:, t].unsqueeze(0), None).squeeze(0)
            naive = torch.cat((naive, s.unsqueeze(1)), 1)
    assert torch.equal(cached, naive)
    assert len(cached.unique()) > 20


def test_it_is_a_memory_and_an_emission():
    torch.manual_seed(0)
    named = Autoregressive(source_dim=1, past_dim=4, memory="wavenet", emission="categorical")
    assert isinstance(named.memory, GatedMemory) and named.head.num_classes == 256
    s = named.path(9, batch_shape=torch.Size([2])).sample()
    assert s.shape == (2, 9, 1) and not named.path(9).has_rsample
    whole = named.memory(named.head.see(s).unsqueeze(0))
    e, kept = named.memory.start(s.unsqueeze(0))
    for t in range(9):
        torch.testing.assert_close(e, whole[:, :, t])
        e, kept = named.memory.step(named.head.see(s[:, t]).unsqueeze(0), kept)


def test_mu_law_is_its_formula():
    s = torch.linspace(-1, 1, 1001).double()
    kept = s.clone()
    y = s.sign() * (1 + 255 * s.abs()).log() / math.log(256)
    torch.testing.assert_close(companded(s), y)
    classes = encode(s)
    assert torch.equal(s, kept), "what was given is as it was"
    assert torch.equal(classes, ((y + 1) / 2 * 255).round().long())
    assert classes.min() == 0 and classes.max() == 255
    assert (companded(decode(classes, dtype=torch.float64)) - y).abs().max() < 1 / 255 + 1e-12
    for number in (2, 6, 255, 256):
        every = torch.arange(number)
        assert torch.equal(encode(decode(every, number), number), every)


def test_levels_are_drawn_as_often_as_their_probability_says():
    torch.manual_seed(0)
    law = Quantised(torch.randn(2, 5).double())
    draws = law.sample(torch.Size([20000]))
    probabilities = law.logits.softmax(-1)
    counts = (draws.unsqueeze(-1) == law.levels).double()
    assert (counts.sum(-1) == 1).all(), "a draw is a level"
    error = (probabilities * (1 - probabilities) / 20000).sqrt()
    assert ((counts.mean(0) - probabilities).abs() < 5 * error).all()
    expected = (draws.double().mean(0), draws.double().var(0))
    torch.testing.assert_close(law.mean, expected[0], atol=0.03, rtol=0)
    torch.testing.assert_close(law.variance, expected[1], atol=0.03, rtol=0)
    each = probabilities.log().gather(-1, encode(draws[0], 5).unsqueeze(-1)).sum()
    torch.testing.assert_close(law.log_prob(draws[0]), each)
    assert law.log_prob(torch.tensor([0.1, 1.01]).double()) == -torch.inf


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: built(kernel_size=1), SpecError, "kernel_size: given 1"),
        (lambda: built(kernel_size=2), SpecError, "odd numbers"),
        (lambda: built(causal=True, post_kernel_size=3), SpecError, "post_kernel_size: given 3"),
        (lambda: make_memory("wavenet", 2, 1, 3), SpecError, "num_members of a wavenet: given 2"),
        (lambda: make_memory("wavnet", 1, 1, 3), SpecError, "did you mean 'wavenet'"),
        (lambda: WaveNetPrior(num_classes=1), SpecError, "num_classes: given 1"),
        (lambda: tiny().path(3, anchor=Anchor(torch.zeros(1), torch.ones(1))).log_prob(
            torch.zeros(3, 1).double()), ValueError, "anchor"),
        (lambda: tiny().elbo(torch.zeros(4, 3, 2).double()), ShapeError, "trajectory"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(make, error, words):
    with pytest.raises(error, match=words):
        make()
