"""Baselines: exactness of the filter, order of the slots, limits, and published figures."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pyromodels.experiments.baselines import Tracks, hold_last_box, kalman_tracker
from pyromodels.experiments.baselines.motion import ConstantVelocity, Sort
from pyromodels.experiments.datasets.tracking.npz import load_npz
from pyromodels.experiments.datasets.tracking.scene import generate_scene
from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.experiments.metrics.tracking.mot import tracking_metrics

RULES = [
    {"association": "iou"},
    {"association": "iou", "gate": 0.3},
    {"association": "mahalanobis", "gate": 20.0},
    {"association": "mahalanobis"},
    {"motion": "sort"},
    {"association": "iou", "smooth": True},
]


def mota(data: TrackingData, tracks: Tracks) -> float:
    return tracking_metrics(data.truth, data.truth_mask, tracks.boxes)["mota"]


def one_walker(missing: tuple[int, ...] = ()) -> TrackingData:
    """Return one sequence with one noisy box walking right, absent in some frames."""
    generator = torch.Generator().manual_seed(0)
    left = 0.2 + 0.002 * torch.arange(12.0)
    box = torch.stack([left, torch.full((12,), 0.3), left + 0.1, torch.full((12,), 0.6)], -1)
    noisy = box + 0.002 * torch.randn(box.shape, generator=generator)
    noisy[list(missing)] = math.nan
    return TrackingData.from_arrays("walker", noisy[None, :, None], truth=box[None, :, None])


def joint_posterior(
    model: ConstantVelocity, boxes: Tensor, seen: list[int], size: Tensor
) -> tuple[Tensor, Tensor]:
    """Return E and var of each side and frame given all detections, from one big Gaussian.

    The prior covariance of the whole path is built from its definition, then conditioned by the
    textbook formula: no recursion. Noise is scaled by the given constant sizes.
    """
    num_frames = len(boxes)
    means, variances = [], []
    for side in range(4):
        q = (model.process_noise_scale * size[side]) ** 2
        r = (model.observation_noise_scale * size[side]) ** 2
        step = torch.tensor([[1.0, 1], [0, 1]], dtype=torch.float64)
        noise = q * torch.tensor([[1 / 3, 1 / 2], [1 / 2, 1]], dtype=torch.float64)
        start = torch.diag(torch.stack([r, (model.start_velocity_scale * size[side]) ** 2]))
        marginal = [start]
        for _ in range(num_frames - 1):
            marginal.append(step @ marginal[-1] @ step.T + noise)
        prior = torch.zeros(num_frames, num_frames, dtype=torch.float64)
        for a in range(num_frames):
            for b in range(a, num_frames):
                ahead = torch.linalg.matrix_power(step, b - a) @ marginal[a]
                prior[a, b] = prior[b, a] = ahead[0, 0]
        rows = prior[:, seen]
        gram = prior[seen][:, seen] + r * torch.eye(len(seen), dtype=torch.float64)
        weight = torch.linalg.solve(gram, rows.T).T
        level = boxes[0, side]
        means.append(level + weight @ (boxes[seen, side] - level))
        variances.append((prior - weight @ rows.T).diagonal())
    return torch.stack(means, -1), torch.stack(variances, -1)


@pytest.mark.parametrize("missing", [(), (4, 5, 6), (11,)])
def test_smoother_equals_conditioning_one_joint_gaussian(
    missing: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = one_walker(missing)
    size = torch.tensor([0.1, 0.3, 0.1, 0.3], dtype=torch.float64)
    monkeypatch.setattr(
        "pyromodels.experiments.baselines.motion.box_size", lambda boxes: size.expand(boxes.shape)
    )
    boxes = data.detections[0, :, 0].double()
    seen = [t for t in range(1, 12) if t not in missing]
    mean, variance = joint_posterior(ConstantVelocity(), boxes, seen, size)
    tracks = kalman_tracker(data, smooth=True)
    torch.testing.assert_close(tracks.boxes[0, :, 0].double(), mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(tracks.variance[0, :, 0].double(), variance, atol=0, rtol=1e-5)
    # The filter agrees at the last frame, and only there has it seen everything.
    filtered = kalman_tracker(data)
    torch.testing.assert_close(filtered.boxes[0, -1, 0].double(), mean[-1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", RULES)
def test_order_of_the_slots_does_not_matter(options: dict) -> None:
    data = generate_scene(num_sources=4, num_frames=30, num_sequences=3, seed=0)
    mixed = data.shuffled(torch.Generator().manual_seed(7))
    one, two = kalman_tracker(data, num_sources=4, **options), kalman_tracker(mixed, **options)
    torch.testing.assert_close(one.boxes, two.boxes, atol=1e-6, rtol=0)
    torch.testing.assert_close(one.variance, two.variance, atol=0, rtol=1e-4)
    assert torch.equal(one.assignment.sum(2), two.assignment.sum(2))


@pytest.mark.parametrize("options", [*RULES, None])
def test_assignment_is_one_to_one_and_within_the_mask(options: dict | None) -> None:
    data = generate_scene(num_sources=4, num_frames=30, num_sequences=2, clutter_rate=2.0, seed=3)
    tracks = hold_last_box(data) if options is None else kalman_tracker(data, **options)
    assert tracks.boxes.shape == (2, 30, 4, 4) == tracks.variance.shape
    assert tracks.assignment.shape == (2, 30, data.num_slots, 4)
    assert tracks.assignment.sum(2).max() <= 1 and tracks.assignment.sum(3).max() <= 1
    assert not (tracks.assignment & ~data.mask[..., None]).any()
    assert tracks.boxes.isfinite().all()
    assert options is None or (tracks.variance > 0).all()


def test_gates_leave_far_detections_alone() -> None:
    data = one_walker()
    far = data.detections.clone()
    far[0, 6] += 0.5
    moved = dataclasses.replace(data, detections=far)
    for options, kept in (({"gate": 0.3}, False), ({"gate": 0.0}, False), ({}, True),
                          ({"association": "mahalanobis", "gate": 20.0}, False),
                          ({"association": "mahalanobis"}, True)):
        tracks = kalman_tracker(moved, **options)
        assert bool(tracks.assignment[0, 6, 0, 0]) is kept, options
        assert tracks.assignment[0, 5, 0, 0]


def test_a_track_without_detections_coasts_and_grows_unsure() -> None:
    tracks = kalman_tracker(one_walker(tuple(range(6, 12))))
    step = tracks.boxes[0, 6:, 0].diff(dim=0)
    torch.testing.assert_close(step, step[:1].expand_as(step), atol=1e-6, rtol=0)
    assert (tracks.variance[0, 6:, 0].diff(dim=0) > 0).all()


@pytest.mark.parametrize("options", [*RULES, None])
def test_limits(options: dict | None) -> None:
    def track(data: TrackingData) -> Tracks:
        return hold_last_box(data) if options is None else kalman_tracker(data, **options)

    one_frame = generate_scene(num_sources=2, num_frames=1, seed=0)
    torch.testing.assert_close(
        track(one_frame).boxes[:, 0], one_frame.detections[:, 0, :2], atol=1e-5, rtol=0
    )
    nothing_later = one_walker(tuple(range(1, 12)))
    assert track(nothing_later).assignment.sum() == 1
    assert track(nothing_later).boxes.isfinite().all()


def test_tracks_start_on_the_detections_of_frame_one_in_order() -> None:
    boxes = torch.full((2, 2, 4, 4), math.nan)
    box = torch.tensor([0.1, 0.1, 0.2, 0.4])
    boxes[0, 0, 1], boxes[0, 0, 3] = box, box + 0.5
    boxes[1, 0, 0], boxes[1, 0, 2] = box + 0.3, box
    data = TrackingData.from_arrays("d", boxes)
    start = kalman_tracker(data).boxes[:, 0]
    expected = torch.stack([torch.stack([box, box + 0.5]), torch.stack([box + 0.3, box])])
    torch.testing.assert_close(start, expected)
    assert kalman_tracker(data, num_sources=1).boxes.shape == (2, 2, 1, 4)
    for number in (0, 3):
        with pytest.raises(ValueError, match=f"num_sources is {number}, and frame 1"):
            kalman_tracker(data, num_sources=number)
    boxes[1, 0, 2] = math.nan
    with pytest.raises(ValueError, match="holds 1 to 2 detections"):
        hold_last_box(TrackingData.from_arrays("d", boxes))
    for wrong in ({"association": "nearest"}, {"motion": "static"}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is "):
            kalman_tracker(data, **wrong)


def test_sort_box_is_the_inverse_of_its_observation_and_its_variance_the_jacobian() -> None:
    model = Sort(torch.tensor([[640.0, 480.0]]))
    box = torch.tensor([[[0.2, 0.3, 0.35, 0.9]]], dtype=torch.float64)
    mean, covariance = model.start(box)
    back, variance = model.to_box(mean, covariance)
    torch.testing.assert_close(back, box)
    jacobian = torch.autograd.functional.jacobian(
        lambda x: model.to_box(x[None, None], covariance)[0][0, 0], mean[0, 0]
    )
    expected = (jacobian @ covariance[0, 0] @ jacobian.T).diagonal()
    torch.testing.assert_close(variance[0, 0], expected)


def test_hold_repeats_the_last_box_and_its_oracle_beats_a_crossing() -> None:
    data = one_walker((3, 4))
    tracks = hold_last_box(data)
    assert torch.equal(tracks.boxes[0, 4], data.detections[0, 2])
    assert torch.equal(tracks.boxes[0, 5], data.detections[0, 5])
    assert tracks.variance.isnan().all()
    assert torch.equal(hold_last_box(data, oracle=True).boxes, tracks.boxes)


def test_figures_of_the_facts_sheet(mot_data: Path) -> None:
    """Section 2e: SORT's model, every association in the table that does not depend on ties."""
    data = load_npz(mot_data / "MOT16-11_T60.npz").shuffled(torch.Generator().manual_seed(1))
    for gate, expected in ((None, [98.81, 81.83, 99.40]), (0.3, [95.57, 81.81, 97.78])):
        tracks = kalman_tracker(data, motion="sort", gate=gate)
        figures = tracking_metrics(data.truth, data.truth_mask, tracks.boxes)
        assert [round(figures[key], 2) for key in ("mota", "motp", "idf1")] == expected
    sim = load_npz(mot_data / "MOT17-sim_T60.npz")
    assert mota(sim, kalman_tracker(sim, motion="sort", gate=0.3)) == pytest.approx(89.71, abs=5e-3)
    assert mota(sim, kalman_tracker(sim, motion="sort")) == pytest.approx(96.74, abs=0.15)
    assert mota(sim, hold_last_box(sim, oracle=True)) == pytest.approx(96.04, abs=5e-3)


def test_classical_trackers_on_the_hard_set(mot_data: Path) -> None:
    """Section 6: 95.9 with a Mahalanobis gate, 94.4 on IoU >= 0.3, clutter ruins no gate."""
    data = load_npz(mot_data / "MOT17-hard_T60.npz")
    gated = mota(data, kalman_tracker(data, association="mahalanobis", gate=20.0))
    assert gated == pytest.approx(95.9, abs=0.6)
    assert mota(data, kalman_tracker(data, gate=0.3)) == pytest.approx(94.4, abs=0.4)
    assert mota(data, kalman_tracker(data, association="mahalanobis")) < 70
