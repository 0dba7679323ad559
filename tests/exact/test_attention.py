"""Attention against torch's own Transformer layers; what frames see; stepwise against at once."""

import math

import pytest
import torch
from torch import nn

from pyromodels.errors import ShapeError
from pyromodels.networks.attention import (
    Attention,
    Decoder,
    DecoderLayer,
    Encoder,
    EncoderLayer,
    positional_encoding,
)

DIM, NUM_FRAMES, FF_DIM = 8, 6, 12
CLOSE = {"atol": 1e-12, "rtol": 0.0}
HEADS = pytest.mark.parametrize(
    "heads",
    [{"num_heads": 1}, {"num_heads": 4}, {"num_heads": 4, "relative": True}],
    ids=["one", "four", "relative"],
)
RESIDUAL = pytest.mark.parametrize("residual", [True, False])
LENGTHS = torch.tensor([NUM_FRAMES, 4, 1])


@pytest.fixture(autouse=True)
def double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def encoder(**heads):
    return Encoder(DIM, num_layers=2, ff_dim=FF_DIM, **heads)


def decoder(*, residual=True, **heads):
    return Decoder(DIM, num_layers=2, ff_dim=FF_DIM, residual=residual, **heads)


def score_biases(num_rows, *, num_heads, relative=False):
    """What torch's layers add to the scores of every row and head: -4^-h |t - j|."""
    frames = torch.arange(NUM_FRAMES)
    distance = (frames[:, None] - frames).abs()
    slopes = torch.tensor([1.0, 0.25, 0.0625, 0.015625][:num_heads]) * relative
    return (-slopes[:, None, None] * distance).repeat(num_rows, 1, 1)


def frames(*batch):
    return torch.randn(*batch, NUM_FRAMES, DIM)


def reads(function, x, *, least=0.0):
    """True at (t, j) where frame t of the result depends on frame j of x by more than `least`."""
    jacobian = torch.autograd.functional.jacobian(function, x)
    return (jacobian.abs() > least).any(-1).any(1)


def generate(model, queries, memory):
    cache, result = model.init_cache(queries[..., 0, :]), []
    for query, known in zip(queries.unbind(-2), memory.unbind(-2), strict=True):
        frame, cache = model.step(query, known, cache)
        result.append(frame)
    return torch.stack(result, -2)


def copy_attention(ours, theirs):
    parts = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
    theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())


@torch.no_grad()
def randomised(layer):
    """Give biases and layer norms values of their own, so that no two can be exchanged."""
    for parameter in layer.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


@torch.no_grad()
def copy_layer(ours, theirs, *, attentions, norms):
    for mine, yours in attentions:
        copy_attention(getattr(ours, mine), getattr(theirs, yours))
    for mine, yours in norms:
        getattr(theirs, yours).load_state_dict(getattr(ours, mine).state_dict())
    theirs.linear1.load_state_dict(ours.feed_forward[0].state_dict())
    theirs.linear2.load_state_dict(ours.feed_forward[2].state_dict())


# ---- torch's layers


@HEADS
@pytest.mark.parametrize("masked", [False, True])
def test_encoder_layer_is_torchs(heads, masked):
    ours = randomised(EncoderLayer(DIM, ff_dim=FF_DIM, **heads))
    sizes = (DIM, heads["num_heads"], FF_DIM)
    theirs = nn.TransformerEncoderLayer(*sizes, dropout=0.0, batch_first=True)
    copy_layer(
        ours,
        theirs,
        attentions=[("self_attention", "self_attn")],
        norms=[("self_norm", "norm1"), ("norm", "norm2")],
    )
    x, mask = frames(3), torch.arange(NUM_FRAMES) < LENGTHS[:, None]
    biases = score_biases(3, **heads)
    if masked:
        padding = torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
        got = ours(x, mask=mask)[mask]
        expected = theirs(x, src_mask=biases, src_key_padding_mask=padding)[mask]
    else:
        got, expected = ours(x), theirs(x, src_mask=biases)
    torch.testing.assert_close(got, expected, **CLOSE)


@HEADS
def test_decoder_layer_is_torchs(heads):
    ours = randomised(DecoderLayer(DIM, ff_dim=FF_DIM, **heads))
    sizes = (DIM, heads["num_heads"], FF_DIM)
    theirs = nn.TransformerDecoderLayer(*sizes, dropout=0.0, batch_first=True)
    copy_layer(
        ours,
        theirs,
        attentions=[("self_attention", "self_attn"), ("cross_attention", "multihead_attn")],
        norms=[("self_norm", "norm1"), ("cross_norm", "norm2"), ("norm", "norm3")],
    )
    queries, memory = frames(3), frames(3)
    future = torch.ones(NUM_FRAMES, NUM_FRAMES, dtype=torch.bool).triu(1)
    biases = score_biases(3, **heads).masked_fill(future, -math.inf)
    expected = theirs(queries, memory, tgt_mask=biases, memory_mask=biases)
    torch.testing.assert_close(ours(queries, memory), expected, **CLOSE)


def test_number_of_parameters_is_torchs():
    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    theirs = nn.TransformerEncoderLayer(256, 1, 1024), nn.TransformerDecoderLayer(256, 1, 1024)
    assert count(EncoderLayer(256, ff_dim=1024)) == count(theirs[0])
    assert count(DecoderLayer(256, ff_dim=1024)) == count(theirs[1])


# ---- what a frame sees


@HEADS
def test_encoder_reads_every_frame(heads):
    assert reads(encoder(**heads), frames()).all()


@HEADS
@RESIDUAL
def test_decoder_reads_past_and_present_only(heads, residual):
    model = decoder(**heads, residual=residual)
    queries, memory = frames(), frames()
    past = torch.ones(NUM_FRAMES, NUM_FRAMES, dtype=torch.bool).tril()
    of_queries = reads(lambda x: model(x, memory), queries)
    of_memory = reads(lambda x: model(queries, x), memory)
    assert not (of_queries & ~past).any()
    assert torch.equal(of_memory, past)
    if residual:
        assert torch.equal(of_queries, past)
    else:  # frame 1 has one frame of memory to weigh: its query has no say, up to rounding
        assert torch.equal(of_queries[1:], past[1:])
        felt = reads(lambda x: model(x, memory), queries, least=1e-20)
        assert torch.equal(felt[1:], past[1:]) and not felt[0].any()


@HEADS
@pytest.mark.parametrize("causal", [False, True])
def test_masked_attention_reads_the_frames_that_count(heads, causal):
    attention = Attention(DIM, **heads)
    mask = torch.tensor([True, True, False, True, False, False])
    queries = frames()
    expected = mask | torch.eye(NUM_FRAMES, dtype=torch.bool)
    got = reads(lambda x: attention(queries, x, causal=causal, mask=mask), frames())
    assert torch.equal(got, expected.tril() if causal else expected)


@HEADS
def test_padding_changes_nothing_in_the_encoder(heads):
    model, x = encoder(**heads), frames(3)
    mask = torch.arange(NUM_FRAMES) < LENGTHS[:, None]
    padded = model(x, mask=mask)
    assert torch.equal(padded[mask], model(torch.where(mask[..., None], x, 1e3), mask=mask)[mask])
    for row, length in enumerate(LENGTHS):
        alone = model(x[row, :length])
        torch.testing.assert_close(padded[row, :length], alone, **CLOSE)


def test_padding_changes_nothing_in_the_decoder():
    model, queries, memory = decoder(), frames(3), frames(3)
    padded = model(queries, memory)
    for row, length in enumerate(LENGTHS):
        alone = model(queries[row, :length], memory[row, :length])
        torch.testing.assert_close(padded[row, :length], alone, **CLOSE)


def test_a_sequence_without_frames_has_finite_values_and_gradients():
    model, x = encoder(), frames(2).requires_grad_()
    mask = torch.tensor([[True], [False]]).expand(2, NUM_FRAMES)
    y = model(x, mask=mask)
    y.square().sum().backward()
    assert y.isfinite().all() and x.grad.isfinite().all()


@RESIDUAL
def test_without_residuals_queries_only_weigh_the_memory(residual):
    """Where all of memory is equal, weights do not matter; what the residuals carry does."""
    model = decoder(residual=residual)
    memory = torch.randn(DIM).expand(NUM_FRAMES, DIM)
    difference = (model(frames(), memory) - model(frames(), memory)).abs().max()
    assert (difference > 0.1) if residual else (difference < 1e-12)


# ---- frame by frame


@HEADS
@RESIDUAL
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_steps_equal_the_full_pass(heads, residual, batch):
    model = decoder(**heads, residual=residual)
    queries, memory = frames(*batch), frames(*batch)
    full = model(queries, memory)
    torch.testing.assert_close(generate(model, queries, memory), full, **CLOSE)
    with torch.no_grad():
        torch.testing.assert_close(generate(model, queries, memory), full, **CLOSE)


@HEADS
@RESIDUAL
def test_gradients_of_steps_equal_those_of_the_full_pass(heads, residual):
    model = decoder(**heads, residual=residual)
    queries, memory, weights = frames(3).requires_grad_(), frames(3).requires_grad_(), frames(3)
    inputs = [queries, memory, *model.parameters()]
    expected = torch.autograd.grad((weights * model(queries, memory)).sum(), inputs)
    got = torch.autograd.grad((weights * generate(model, queries, memory)).sum(), inputs)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=0.0)


def test_a_cache_may_be_continued_twice():
    model, (query, memory, other) = decoder(), torch.randn(3, 2, DIM)
    _, cache = model.step(query, memory, model.init_cache(query))
    first, _ = model.step(query, memory, cache)
    model.step(other, other, cache)
    assert torch.equal(model.step(query, memory, cache)[0], first)


# ---- shapes, parameters, positions


@HEADS
def test_batch_dims_are_rows_and_broadcast(heads):
    model, queries, memory = decoder(**heads), frames(2, 3), frames(3)
    got = model(queries, memory)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(got[i, j], model(queries[i, j], memory[j]), **CLOSE)


@pytest.mark.parametrize("build", [encoder, decoder, lambda: decoder(residual=False)])
def test_gradients_reach_every_parameter(build):
    model = build()
    streams = (frames(3),) if isinstance(model, Encoder) else (frames(3), frames(3))
    (model(*streams) * frames(3)).sum().backward()
    for name, parameter in model.named_parameters():
        if name.endswith("key.bias"):  # adds the same to every score
            assert parameter.grad.abs().max() < 1e-12
        else:
            assert (parameter.grad.abs().amax(-1) > 1e-12).any(), name


def test_wrong_sizes_are_named():
    x = frames(3)
    with pytest.raises(ShapeError, match=r"memory: given 5 frames; expected 6"):
        decoder()(x, x[:, 1:])
    with pytest.raises(ShapeError, match=r"mask: given 1 frames; expected 6"):
        encoder()(x, mask=torch.ones(3, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"num_heads: given 3; expected a divisor of dim = 8"):
        encoder(num_heads=3)


def test_relative_attention_in_half_precision_is_that_in_full():
    model, x = encoder(num_heads=2, relative=True), frames(2)
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        got = model.float()(x.float())
    assert 1e-6 < (got - expected).abs().max() < 0.1


@pytest.mark.parametrize("dim", [1, 7, 8])
def test_positional_encoding_is_its_formula(dim):
    positions = torch.tensor([[0, 1], [5, 3000]])
    got = positional_encoding(positions, dim)
    assert got.shape == (2, 2, dim)
    for index in range(dim):
        angle = positions / 10_000.0 ** (2 * (index // 2) / dim)
        expected = torch.cos(angle) if index % 2 else torch.sin(angle)
        torch.testing.assert_close(got[..., index], expected, atol=1e-10, rtol=0.0)


def test_shifted_positions_are_rotated_by_the_shift_alone():
    encoding = positional_encoding(torch.arange(50), DIM)
    dots = (encoding[:-3] * encoding[3:]).sum(-1)
    expected = sum(math.cos(3 * 10_000.0 ** (-2 * i / DIM)) for i in range(DIM // 2))
    torch.testing.assert_close(dots, torch.full_like(dots, expected), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_positional_encoding_is_exact_to_its_dtype(dtype):
    positions = torch.arange(4000)
    got = positional_encoding(positions, DIM, dtype=dtype)
    assert got.dtype == dtype
    error = (got.double() - positional_encoding(positions, DIM)).abs().max()
    assert error < max(torch.finfo(dtype).eps, 1e-3)
