"""Blocks of long spectra: what they say together, and how much of them is looked at at once."""

import pytest
import torch
from torch.nn import functional as F

from pyromodels.audio.blocks import in_blocks
from pyromodels.errors import ShapeError
from pyromodels.networks.assigner import Assigner


def neighbours(spectra, reach=3):
    """A function of frames and of `reach` frames on either side, zeros beyond the ends."""
    kernel = torch.arange(1.0, 2 * reach + 2, dtype=spectra.dtype).expand(1, 1, -1)
    columns = spectra.mT.flatten(0, -2).unsqueeze(1)
    return F.conv1d(columns, kernel, padding=reach).reshape(spectra.mT.shape).mT


@pytest.mark.parametrize("length", [1, 9, 10, 11, 17, 40, 41])
def test_blocks_are_the_whole_where_a_frame_is_all_that_matters(length):
    spectra = torch.randn(2, length, 5, dtype=torch.complex128)
    torch.testing.assert_close(in_blocks(torch.square, spectra, 10, 3), spectra.square())


def test_blocks_are_the_whole_but_where_context_is_cut():
    torch.manual_seed(0)
    spectra, size, overlap, reach = torch.rand(2, 100, 4, dtype=torch.float64), 30, 10, 3
    gap = (in_blocks(neighbours, spectra, size, overlap) - neighbours(spectra)).abs().amax((0, 2))
    near = torch.zeros(100, dtype=torch.bool)  # frames whose neighbours some block lacks
    for start in (20, 40, 60, 70):
        near[start : start + reach] = True
        near[start + overlap - reach : start + overlap] = True
    near[90 - reach : 90] = True  # the end of the last block but one, beyond the last overlap
    assert gap[~near].max() < 1e-12 and gap[near].max() > 1e-3


def test_a_change_of_mind_is_faded_linearly():
    answers = iter([torch.zeros(10, 1), torch.ones(10, 1)])
    said = in_blocks(lambda block: next(answers), torch.zeros(16, 1), 10, 4).flatten()
    expected = torch.cat((torch.zeros(6), torch.arange(1, 5) / 5, torch.ones(6)))
    torch.testing.assert_close(said, expected)


def test_no_block_is_longer_than_asked_and_none_is_short():
    seen = []
    in_blocks(lambda block: seen.append(block.shape) or block, torch.zeros(3, 1000, 2), 64, 16)
    assert set(seen) == {(3, 64, 2)} and len(seen) == 21


def test_masks_of_a_network_add_up_and_axes_may_follow():
    torch.manual_seed(0)
    network, power = Assigner(33, 3, hidden_dim=4), torch.rand(2, 50, 33)
    with torch.no_grad():
        shares = in_blocks(lambda block: network(block).softmax(-1), power, 20, 6)
    assert shares.shape == (2, 50, 33, 3)
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 50, 33))


def test_starts_pass_through_what_shows_progress():
    told = []
    in_blocks(lambda block: block, torch.zeros(25, 1), 10, 0,
              each=lambda starts: told.append(list(starts)) or starts)
    assert told == [[0, 10, 15]]


@pytest.mark.parametrize(
    "shape, size, overlap, error, said",
    [
        ((9, 2), 0, 0, ValueError, "num_frames: given 0"),
        ((9, 2), 4, 4, ValueError, "overlap: given 4; expected 0 to 3"),
        ((9, 2), 4, -1, ValueError, "overlap: given -1"),
        ((0, 2), 4, 1, ShapeError, "at least one frame"),
        ((9,), 4, 1, ShapeError, "spectra"),
    ],
)
def test_what_is_no_block_is_refused(shape, size, overlap, error, said):
    with pytest.raises(error, match=said):
        in_blocks(torch.square, torch.zeros(shape), size, overlap)


def test_a_function_that_loses_frames_is_refused():
    with pytest.raises(ShapeError, match="function"):
        in_blocks(lambda block: block[1:], torch.zeros(9, 2), 4, 1)
