"""The pictures and words of the adequacy report show and say the same numbers."""

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from pyromodels.inference.adequacy import figures
from pyromodels.inference.adequacy.page import CAPTIONS
from pyromodels.inference.adequacy.verdict import MAX_RHAT, check_rhat

ONE_OFF = np.r_[np.full(24, 1.0), 1.5]  # of 25 sequences


def test_rhat_that_is_judged_and_the_worst_are_both_said():
    found = check_rhat("s", {"s": ONE_OFF}, {"s": ONE_OFF})
    assert found.passed and found.value == 1.0
    assert "1.00 in 90% of 25 sequences, 1.50 at worst" in found.finding


def test_rhat_of_one_sequence_is_said_alone():
    found = check_rhat("s", {"s": np.array([1.02])}, {"s": np.array([1.02])})
    assert found.finding == "up to 1.02: fits from different starts agree"


def test_rhat_draws_what_is_judged_and_what_is_infinite():
    values = {"s": ONE_OFF, "w": np.r_[np.full(20, 1.2), np.full(5, np.inf)]}
    (axes,) = figures.rhat_figure(values, values, MAX_RHAT).axes
    bars = {path.vertices[0, 1] for c in axes.collections for path in c.get_paths()
            if len(path.vertices) == 2}
    assert bars == {1.0}  # of w it is infinite
    heights = np.concatenate([c.get_offsets()[:, 1] for c in axes.collections
                              if c.get_offset_transform() == axes.transData])
    assert heights.max() == 1.5
    arrows = [c for c in axes.collections
              if c.get_offset_transform() == axes.get_xaxis_transform()]
    assert [round(float(c.get_offsets()[0, 0]), 2) for c in arrows] == [0.85, 1.15]
    assert axes.get_yscale() == "log"


def test_seven_lines_are_seven_styles():
    ranks = {str(n): np.random.default_rng(n).random(50) for n in range(7)}
    (axes,) = figures.coverage_figure(ranks).axes
    lines = [line for line in axes.lines if line.get_label() in ranks]
    assert len({(line.get_color(), str(line._dash_pattern)) for line in lines}) == 7


def test_bars_have_the_colour_that_the_caption_names():
    (axes,) = figures.rank_figure({"s": np.full(100, 0.05)}).axes
    colours = {bar.get_facecolor() for bar in axes.patches if hasattr(bar, "get_height")}
    assert to_rgba(figures.ORANGE) in colours
    red, green, blue, _ = to_rgba(figures.ORANGE)
    assert red > green > blue  # between red and yellow
    assert "orange" in CAPTIONS["ranks"] and "red" not in CAPTIONS["ranks"].split()


@pytest.mark.parametrize("name", ["k_hat", "rhat", "ranks", "coverage", "pit"])
def test_every_figure_has_a_caption(name):
    assert CAPTIONS[name].endswith(".")
