"""Figures are written whole, and hold what they say they hold."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.collections import EllipseCollection
from matplotlib.colors import to_rgba
from matplotlib.image import imread

from pyromodels.audio.stft import STFT
from pyromodels.experiments.datasets.tracking.scene import generate_scene
from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.experiments.harness.figures import bulk, line_style, save
from pyromodels.experiments.speech import figures as speech_figures
from pyromodels.experiments.speech.resynthesis import Resynthesis
from pyromodels.experiments.tracking.figures import plots
from pyromodels.experiments.tracking.methods.base import Options
from pyromodels.experiments.tracking.methods.by_name import run_method
from pyromodels.experiments.tracking.stages import NOISES

NUM_SOURCES, NUM_FRAMES, NUM_SEQUENCES = 3, 20, 2


@pytest.fixture(scope="module")
def tracked():
    data = generate_scene(
        num_sources=NUM_SOURCES, num_frames=NUM_FRAMES, num_sequences=NUM_SEQUENCES, seed=1
    )
    trace = {}

    def progress(phase, sweep, elbo):
        trace.setdefault(phase, []).append(elbo)

    fitted = run_method("linear", data, Options(progress=progress)).fitted
    return fitted.marginals, trace, data


def test_figures_are_three_images_of_one_size(tracked, tmp_path):
    drawn = plots.figures(*tracked, index=1)
    assert list(drawn) == ["trajectories", "responsibilities", "bound"]
    images = [imread(save(figure, tmp_path / f"{name}.png")) for name, figure in drawn.items()]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"{name}.png" for name in drawn)
    assert len({image.shape for image in images}) == 1
    assert all(image[..., :3].std() > 0.05 for image in images)


def test_figures_leave_pyplot_alone(tracked):
    before = dict(matplotlib.rcParams)
    plots.plot_trajectories(tracked[0], tracked[2])
    assert dict(matplotlib.rcParams) == before
    pyplot = pytest.importorskip("matplotlib.pyplot")
    assert pyplot.get_fignums() == []


def test_without_a_trace_there_is_no_bound(tracked):
    found, _, data = tracked
    assert list(plots.figures(found, {}, data)) == ["trajectories", "responsibilities"]


def test_trajectories_hold_every_source_truth_and_detection(tracked):
    found, _, data = tracked
    figure = plots.plot_trajectories(found, data, index=1)
    in_image, x_time, y_time, radius = figure.axes
    ellipses = [c for c in in_image.collections if isinstance(c, EllipseCollection)]
    assert len(ellipses) == NUM_SOURCES
    labels = in_image.get_legend_handles_labels()[1]
    assert {f"source {n}" for n in range(NUM_SOURCES)} | {"truth"} <= set(labels)
    assert len(x_time.lines) == len(y_time.lines) == 2 * NUM_SOURCES  # means and truths
    assert len(radius.lines) == NUM_SOURCES
    dots = [c for c in x_time.collections if len(c.get_offsets()) and c.get_offsets().any()]
    assert sum(len(c.get_offsets()) for c in dots) == int(data.mask[1].sum())
    assert "px" in in_image.get_xlabel() and "frame" in x_time.get_xlabel()


def test_bands_are_95_percent_of_the_posterior(tracked):
    found, _, data = tracked
    x_time = plots.plot_trajectories(found, data, index=0).axes[1]
    band = [c for c in x_time.collections if len(c.get_paths()) and c.get_alpha() == 0.3][0]
    mean, variance = (part[0, 10, 0, 0].item() for part in found[:2])
    drawn = band.get_paths()[0].vertices
    at = drawn[drawn[:, 0] == 10, 1]
    width = data.image_size[0, 0].item()
    expected = [width * (mean - 1.96 * variance**0.5), width * (mean + 1.96 * variance**0.5)]
    np.testing.assert_allclose([at.min(), at.max()], expected, atol=1e-2)


def test_data_without_truth_or_size_is_drawn_in_parts_of_the_image(tracked):
    found, _, data = tracked
    bare = TrackingData(name="bare", detections=data.detections, mask=data.mask)
    in_image = plots.plot_trajectories(found, bare).axes[0]
    assert "image sizes" in in_image.get_xlabel()
    assert "truth" not in in_image.get_legend_handles_labels()[1]


def test_responsibilities_are_summed_over_the_slots(tracked):
    found, _, data = tracked
    figure = plots.plot_responsibilities(found, data, index=1)
    owned, seen = (
        np.concatenate([image.get_array() for image in axes.images]) for axes in figure.axes[:2]
    )
    expected = found.responsibilities[1].sum(1).T
    np.testing.assert_allclose(owned, expected)
    np.testing.assert_allclose(owned.sum(0), data.mask[1].sum(-1), rtol=1e-5)
    assert seen.shape == (NUM_SOURCES, NUM_FRAMES)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()][-1] == "clutter"


def test_responsibilities_have_the_colours_of_their_sources(tracked):
    found, _, data = tracked
    owned, seen = plots.plot_responsibilities(found, data, index=1).axes[:2]
    map_lines = plots.plot_trajectories(found, data, index=1).axes[0].lines
    colours = {line.get_label(): line.get_color() for line in map_lines}
    for panel in (owned, seen):
        for n in range(NUM_SOURCES):
            image, full = panel.images[n], to_rgba(colours[f"source {n}"])
            assert image.cmap(1.0) == pytest.approx(full)
            assert image.cmap(0.0) == pytest.approx((1, 1, 1, 1))
            bottom, top = image.get_extent()[2:]
            assert (bottom, top) == (n + 0.5, n - 0.5)  # the row beside its name
    (doubt,) = {bar.get_facecolor() for bar in _doubt_panel(found, data).patches}
    assert doubt not in {to_rgba(colour) for colour in colours.values()}


def _doubt_panel(found, data):
    return next(axes for axes in plots.plot_responsibilities(found, data).axes
                if axes.get_title(loc="left").startswith("Doubt"))


def test_bound_highlights_the_best_start(tracked):
    found, trace, _ = tracked
    (axes,) = plots.plot_bound(trace, NUM_SEQUENCES, index=1).axes
    starts = [line for line in axes.lines if len(line.get_xdata()) > 2]
    assert len(starts) == len(NOISES)
    widest = max(starts, key=lambda line: line.get_linewidth())
    assert widest.get_ydata()[-1] == max(line.get_ydata()[-1] for line in starts)
    assert len(widest.get_ydata()) == sum(map(len, trace.values()))


def test_bound_of_the_start_that_goes_on_has_its_own_panel_in_order():
    sweeps = [torch.tensor([1.0, 2.0, 3.0]) for _ in range(4)]
    trace = {"bound": sweeps, "final": [sweeps[0], torch.tensor([9.0])]}
    trace["prior"] = [torch.tensor([7.0]), torch.tensor([8.0])]
    left, right = plots.plot_bound(trace).axes
    assert [len(line.get_xdata()) for line in left.lines[:3]] == [5, 5, 5]
    np.testing.assert_array_equal(right.lines[0].get_ydata(), [7.0, 8.0, 9.0])


def test_the_bound_shows_where_all_starts_end_and_says_what_is_below():
    sweeps = [torch.tensor([-1e6, -500.0]), *[torch.tensor([v, -50.0]) for v in range(30)]]
    (axes,) = plots.plot_bound({"bound": sweeps}).axes
    low, high = axes.get_ylim()
    assert low < -50 and high > 29
    assert "1 below, down to -1e+06" in axes.get_xlabel()


def test_bound_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no sweep"):
        plots.plot_bound({"bound": []})


def test_metric_curves_draw_and_name_every_curve():
    curves = {"r = 0.01": [50.0, 70.0, 80.0], "r = 0.04": [60.0, float("nan"), 90.0]}
    (axes,) = plots.plot_metric_curves([1, 5, 70], curves, title="MOTA").axes
    assert len(axes.lines) == 2
    assert {text.get_text() for text in axes.texts} == set(curves)
    assert axes.get_xlabel() == "iteration" and axes.get_ylabel() == "MOTA (%)"


def test_metric_curve_of_another_length_is_refused():
    with pytest.raises(ValueError, match="given 2 values; expected 3"):
        plots.plot_metric_curves([1, 2, 3], {"a": [1.0, 2.0]})


def test_many_curves_differ_in_colour_or_dashes():
    styles = [line_style(n) for n in range(30)]
    assert len(set(styles)) == 30
    assert [dashes for _, dashes in styles[:6]] == ["-"] * 6
    (axes,) = plots.plot_metric_curves([1, 2], {str(n): [n, n] for n in range(9)}).axes
    drawn = {(line.get_color(), str(line._dash_pattern)) for line in axes.lines}
    assert len(drawn) == 9


def test_limits_of_the_bulk_count_what_they_leave_out():
    low, high, outside = bulk(np.r_[np.arange(100.0), 1e4, np.nan], high=0.95)
    assert low < 0 and 95 < high < 1e4
    assert "of 101 values outside" in outside and "up to 1e+04" in outside
    assert bulk(np.array([1.0, 2.0, 900.0]), high=0.95)[1:] == (pytest.approx(953.94), "")
    low, high, outside = bulk(np.array([5.0, 5.0]))
    assert low < 5 < high and outside == ""


def history(*losses):
    return [{"epoch": n, "train_loss": train, "valid_loss": valid, "kl_weight": 1.0,
             "use_prediction": 0.0} for n, (train, valid) in enumerate(losses, 1)]


def loss_axes(losses):
    return speech_figures.loss_curves(history(*losses)).axes[0]


def test_losses_fill_their_axes_whatever_their_unit():
    losses = [(0.9 - 0.01 * n, 1.0 - 0.01 * n) for n in range(10)]
    low, high = loss_axes(losses).get_ylim()
    assert 0.75 < low < 0.81 and 1.0 < high < 1.05


def test_few_losses_are_all_in_view_and_of_many_the_rest_is_told():
    axes = loss_axes([(900.0, 800.0), (300.0, 250.0), (200.0, 220.0)])
    low, high = axes.get_ylim()
    assert low < 200 and high > 900
    assert axes.get_title(loc="left") == "all epochs"
    late = [(200.0 - n, 210.0 - n) for n in range(99)]
    axes = loss_axes([(9e3, 8e3), *late])
    assert axes.get_ylim()[1] < 300
    assert "of 200 values outside: 3 above, up to 9000" in axes.get_title(loc="left")


def test_spectrograms_say_their_decibels():
    stft = STFT(64, 32)
    power = torch.rand(2, 17, 33)
    made = {"generation": Resynthesis(torch.randn(2, 17, 3), power, torch.randn(2, 512))}
    signals = {"one": torch.randn(512), "two": torch.randn(512)}
    swapped = {(i, j): torch.randn(512) for i in range(2) for j in range(2)}
    for figure, words in (
        (speech_figures.resynthesis(torch.randn(512), made, stft), "dB"),
        (speech_figures.swap(swapped, ("a", "b"), stft), "dB"),
        (speech_figures.spectrograms("both", signals, stft), "dB below the loudest bin"),
    ):
        assert words in [axes.get_ylabel() for axes in figure.axes]
        shown = {image.get_clim() for axes in figure.axes for image in axes.images
                 if image.get_cmap().name == "magma"}
        assert len(shown) == 1  # or one bar could not speak for all
