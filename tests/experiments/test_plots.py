"""Figures are written whole, and hold what they say they hold."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.collections import EllipseCollection
from matplotlib.image import imread

from pyromodels.experiments.datasets.tracking.scene import generate_scene
from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.experiments.tracking import plots
from pyromodels.experiments.tracking.presets import PRESETS
from pyromodels.experiments.tracking.tracker import track

NUM_SOURCES, NUM_FRAMES, NUM_SEQUENCES = 3, 20, 2


@pytest.fixture(scope="module")
def tracked():
    data = generate_scene(
        num_sources=NUM_SOURCES, num_frames=NUM_FRAMES, num_sequences=NUM_SEQUENCES, seed=1
    )
    trace = {}

    def progress(phase, sweep, elbo):
        trace.setdefault(phase, []).append(elbo)

    fitted = track(data.detections, data.mask, PRESETS["linear"], progress=progress)
    return fitted, trace, data


def test_write_figures_writes_three_images_of_one_size(tracked, tmp_path):
    paths = plots.write_figures(tmp_path, *tracked, index=1)
    assert [p.name for p in paths] == ["trajectories.png", "responsibilities.png", "bound.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)
    images = [imread(p) for p in paths]
    assert len({image.shape for image in images}) == 1
    assert all(image[..., :3].std() > 0.05 for image in images)


def test_figures_leave_pyplot_alone(tracked):
    before = dict(matplotlib.rcParams)
    plots.plot_trajectories(tracked[0], tracked[2])
    assert dict(matplotlib.rcParams) == before
    pyplot = pytest.importorskip("matplotlib.pyplot")
    assert pyplot.get_fignums() == []


def test_without_a_trace_there_is_no_bound(tracked, tmp_path):
    fitted, _, data = tracked
    names = [p.stem for p in plots.write_figures(tmp_path, fitted, {}, data)]
    assert names == ["trajectories", "responsibilities"]


def test_trajectories_hold_every_source_truth_and_detection(tracked):
    fitted, _, data = tracked
    figure = plots.plot_trajectories(fitted, data, index=1)
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
    fitted, _, data = tracked
    x_time = plots.plot_trajectories(fitted, data, index=0).axes[1]
    band = [c for c in x_time.collections if len(c.get_paths()) and c.get_alpha() == 0.3][0]
    mean, variance = (part[0, 10, 0, 0].item() for part in fitted.centres)
    drawn = band.get_paths()[0].vertices
    at = drawn[drawn[:, 0] == 10, 1]
    width = data.image_size[0, 0].item()
    expected = [width * (mean - 1.96 * variance**0.5), width * (mean + 1.96 * variance**0.5)]
    np.testing.assert_allclose([at.min(), at.max()], expected, atol=1e-2)


def test_data_without_truth_or_size_is_drawn_in_parts_of_the_image(tracked):
    fitted, _, data = tracked
    bare = TrackingData(name="bare", detections=data.detections, mask=data.mask)
    in_image = plots.plot_trajectories(fitted, bare).axes[0]
    assert "image sizes" in in_image.get_xlabel()
    assert "truth" not in in_image.get_legend_handles_labels()[1]


def test_responsibilities_are_summed_over_the_slots(tracked):
    fitted, _, data = tracked
    figure = plots.plot_responsibilities(fitted, data, index=1)
    owned, seen = (axes.images[0].get_array() for axes in figure.axes[:2])
    expected = fitted.guide.responsibilities[1].sum(1).T
    np.testing.assert_allclose(owned, expected)
    np.testing.assert_allclose(owned.sum(0), data.mask[1].sum(-1), rtol=1e-5)
    assert seen.shape == (NUM_SOURCES, NUM_FRAMES)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()][-1] == "clutter"


def test_bound_highlights_the_best_start(tracked):
    fitted, trace, _ = tracked
    (axes,) = plots.plot_bound(trace, NUM_SEQUENCES, index=1).axes
    starts = [line for line in axes.lines if len(line.get_xdata()) > 2]
    assert len(starts) == len(PRESETS["linear"].starts)
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
