"""Metrics against cases counted by hand, limits, and the figures of the facts sheet."""

import math
import time
from pathlib import Path

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from pyromodels.experiments.datasets.tracking.box_overlap import assign, pairwise_iou
from pyromodels.experiments.datasets.tracking.npz import load_npz
from pyromodels.experiments.metrics.tracking.gospa import gospa
from pyromodels.experiments.metrics.tracking.mot import tracking_metrics
from pyromodels.experiments.metrics.tracking.nees import consistency

KEYS = {"mota", "motp", "idf1", "ids", "mt", "ml", "fp", "fn", "hota", "gospa", "ids_rate",
        "fp_rate", "fn_rate"}


def lanes(num_sequences: int = 1, num_frames: int = 10, num_objects: int = 2) -> Tensor:
    """Return unit-wide boxes that walk right in lanes far apart, shape (S, T, N, 4)."""
    x = torch.arange(num_frames, dtype=torch.float32)[:, None].expand(num_frames, num_objects)
    y = 10.0 * torch.arange(num_objects).expand(num_frames, num_objects)
    boxes = torch.stack([x, y, x + 1, y + 1], -1)
    return boxes.expand(num_sequences, *boxes.shape).clone()


def present(truth: Tensor) -> Tensor:
    return torch.ones(truth.shape[:-1], dtype=torch.bool)


def test_iou_by_hand() -> None:
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1], [1, 1, 0, 2], [math.nan, 0, 1, 1]])
    b = torch.tensor([[1.0, 0, 3, 2], [5, 5, 6, 6], [0, 0, 2, math.inf]])
    expected = torch.zeros(4, 3, dtype=torch.float64)
    expected[0, 0] = 2 / 6
    torch.testing.assert_close(pairwise_iou(a, b), expected)


def test_assign_finds_the_best_total_and_takes_empty_matrices() -> None:
    gain = torch.tensor([[[3.0, 2.9], [2.9, 0.0]]])
    assert assign(gain)[0].tolist() == [[False, True], [True, False]]
    for shape in ((0, 3), (3, 0), (2, 0, 3), (0, 2, 2)):
        assert assign(torch.zeros(shape)).shape == shape


def test_perfect_tracking() -> None:
    truth = lanes(3)
    figures = tracking_metrics(truth, present(truth), truth)
    assert set(figures) == KEYS
    expected = dict.fromkeys(KEYS, 0.0) | {"mota": 100, "motp": 100, "idf1": 100, "hota": 100,
                                           "mt": 6}
    assert figures == pytest.approx(expected, abs=1e-6)


def test_counts_of_a_lost_track_by_hand() -> None:
    truth = lanes()                                                        # 20 true boxes
    boxes = truth.clone()
    boxes[0, 3:, 1] += 100                                                 # lost for 7 of 10 frames
    boxes[..., 0, 2] += 0.25                                               # IoU 0.8 on object 0
    figures = tracking_metrics(truth, present(truth), boxes)
    assert (figures["fp"], figures["fn"], figures["ids"]) == (7, 7, 0)
    assert figures["mota"] == pytest.approx(100 * (1 - 14 / 20))
    assert figures["motp"] == pytest.approx(100 * (10 * 0.8 + 3) / 13, abs=1e-4)
    assert figures["idf1"] == pytest.approx(100 * 13 / 20)
    assert (figures["mt"], figures["ml"]) == (1, 0)
    assert figures["fp_rate"] == pytest.approx(35)


def test_a_swap_costs_two_switches_and_half_the_identity() -> None:
    truth = lanes()
    boxes = truth.clone()
    boxes[:, 5:] = truth[:, 5:].flip(2)
    figures = tracking_metrics(truth, present(truth), boxes)
    assert (figures["ids"], figures["fp"], figures["fn"]) == (2, 0, 0)
    assert figures["mota"] == pytest.approx(90) and figures["idf1"] == pytest.approx(50)
    assert figures["ids_rate"] == pytest.approx(10)
    # HOTA by hand: DetA = 1, A(c) = 5 / (10 + 10 - 5) for every match, at every threshold.
    assert figures["hota"] == pytest.approx(100 * math.sqrt(1 / 3), abs=1e-6)


def test_identities_never_cross_sequences() -> None:
    truth = lanes(2)
    boxes = truth.clone()
    boxes[1] = truth[1][:, [1, 0]]                                         # other identities there
    figures = tracking_metrics(truth, present(truth), boxes)
    assert figures["ids"] == 0 and figures["idf1"] == pytest.approx(100)


def test_absent_objects_are_not_missed() -> None:
    truth, mask = lanes(), present(lanes())
    mask[0, 6:, 1] = False
    figures = tracking_metrics(truth, mask, truth)
    assert (figures["fp"], figures["fn"]) == (4, 0)
    assert figures["mota"] == pytest.approx(100 * (1 - 4 / 16))


@pytest.mark.parametrize("bad", [[math.nan] * 4, [math.inf, 0, 1, 1], [1.0, 0, 0, 1], [0.0] * 4])
def test_a_broken_box_is_one_false_and_one_missed(bad: list[float]) -> None:
    truth = lanes()
    boxes = truth.clone()
    boxes[0, 4, 0] = torch.tensor(bad)
    figures = tracking_metrics(truth, present(truth), boxes, variance=torch.ones_like(boxes))
    assert (figures["fp"], figures["fn"], figures["ids"]) == (1, 1, 0)
    assert all(math.isfinite(value) for value in figures.values())


def test_more_hypotheses_than_objects_and_fewer() -> None:
    truth = lanes(num_objects=3)
    assert tracking_metrics(truth[:, :, :2], present(truth)[:, :, :2], truth)["fp"] == 10
    assert tracking_metrics(truth, present(truth), truth[:, :, :2])["fn"] == 10


def test_all_lost() -> None:
    truth = lanes()
    figures = tracking_metrics(truth, present(truth), truth + 1000)
    assert figures["mota"] == pytest.approx(-100) and figures["ml"] == 2
    assert figures["motp"] == figures["idf1"] == figures["hota"] == 0


def test_wrong_arguments_are_refused() -> None:
    truth = lanes()
    with pytest.raises(ValueError, match="boxes has shape"):
        tracking_metrics(truth, present(truth), truth[:, :5])
    with pytest.raises(ValueError, match="truth_mask has shape"):
        tracking_metrics(truth, present(truth)[0], truth)
    with pytest.raises(ValueError, match="truth_mask is False everywhere"):
        tracking_metrics(truth, ~present(truth), truth)
    with pytest.raises(ValueError, match="iou_threshold"):
        tracking_metrics(truth, present(truth), truth, iou_threshold=0.0)
    with pytest.raises(ValueError, match="cutoff"):
        gospa(truth, present(truth), truth, cutoff=2.0)


def test_gospa_by_hand() -> None:
    truth = lanes(num_frames=4)
    boxes = truth.clone()
    boxes[0, 1, 1] += 100                       # one lost: one missed and one false
    boxes[0, 2, 0, 2] += 0.25                   # IoU 0.8
    boxes[0, 3, 0] = math.nan                   # not finite: one missed and one false
    mask = present(truth)
    found = gospa(truth, mask, boxes)
    expected = torch.tensor([[0, 0.5, 0.2, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    mask[0, 0, 1] = False                       # one false alone: c / sqrt(2)
    assert gospa(truth, mask, boxes)[0, 0].item() == pytest.approx(0.5 / math.sqrt(2))


def honest_posterior(scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw truth around the mean from correlated posteriors; return truth, mask, mean, V."""
    generator = torch.Generator().manual_seed(0)
    mean = lanes(60, 20, 3).double()
    factor = 0.03 * torch.randn(*mean.shape, 4, generator=generator, dtype=torch.float64).tril()
    factor = factor + 0.02 * torch.eye(4)
    noise = torch.randn(*mean.shape, 1, generator=generator, dtype=torch.float64)
    truth = mean + scale * (factor @ noise)[..., 0]
    return truth, present(truth), mean, factor @ factor.mT


def test_nees_of_an_honest_posterior_is_four() -> None:
    truth, mask, mean, variance = honest_posterior()
    result = consistency(truth, mask, mean, variance, frames_independent=True)
    assert result.low < result.nees < result.high
    assert result.num_pairs == 3600
    standard_error = math.sqrt(0.95 * 0.05 / 3600)
    assert abs(result.coverage95 - 0.95) < 5 * standard_error
    assert result.median == pytest.approx(chi2.ppf(0.5, 4), rel=0.1)
    # The draws are independent here, so the interval for whole tracks is sqrt(20) times as wide.
    tracks = consistency(truth, mask, mean, variance)
    ratio = (tracks.high - tracks.low) / (result.high - result.low)
    assert ratio == pytest.approx(math.sqrt(20), rel=0.01)
    assert tracks.low == pytest.approx(chi2.ppf(0.025, 4 * 180) / 180)


def test_nees_tells_over_confidence_from_caution() -> None:
    bold = consistency(*honest_posterior(scale=2.0))
    shy = consistency(*honest_posterior(scale=0.5))
    assert bold.nees > bold.high and bold.coverage95 < 0.8
    assert bold.nees == pytest.approx(16, rel=0.1)
    assert shy.nees < shy.low and shy.coverage95 > 0.99 and shy.nees == pytest.approx(1, rel=0.1)


def test_nees_diagonal_equals_full_and_by_hand() -> None:
    truth = lanes()
    boxes, variance = truth.clone(), torch.full_like(truth, 0.04)
    boxes[..., 0] -= 0.2                                                   # one sigma on the left
    diagonal = consistency(truth, present(truth), boxes, variance)
    full = consistency(truth, present(truth), boxes, torch.diag_embed(variance))
    assert diagonal.nees == pytest.approx(1, rel=1e-5) and full == pytest.approx(diagonal)


def test_nees_counts_the_frames_of_a_lost_track() -> None:
    truth = lanes()
    boxes, variance = truth.clone(), torch.full_like(truth, 0.01)
    boxes[0, 5:, 1, 1::2] += 3.0                                           # lost, and sure of it
    result = consistency(truth, present(truth), boxes, variance)
    assert result.nees == pytest.approx(5 * 2 * 9 / 0.01 / 20, rel=1e-5)
    assert result.coverage95 == pytest.approx(15 / 20) and result.median == 0


def test_nees_refuses_what_it_cannot_judge() -> None:
    truth = lanes()
    with pytest.raises(ValueError, match="variance has shape"):
        consistency(truth, present(truth), truth, truth[..., 0])
    for variance in (torch.zeros_like(truth), torch.full_like(truth, math.nan)):
        with pytest.raises(ValueError, match="expected finite, positive"):
            consistency(truth, present(truth), truth, variance)
        with pytest.raises(ValueError, match="variance has"):
            consistency(truth, present(truth), truth, torch.diag_embed(variance))
    with pytest.raises(ValueError, match="no frame with a finite box"):
        consistency(truth, present(truth), truth * math.nan, truth)


def test_figures_of_the_facts_sheet_and_speed(mot_data: Path) -> None:
    """Holding the last box with known identities: section 2e, first column, 384 sequences."""
    for name, mota, motp, idf1 in (("MOT17-sim", 96.04, 78.31, 98.02),
                                   ("TUD-Stadtmitte", 99.51, 73.78, 99.76)):
        data = load_npz(mot_data / f"{name}_T60.npz")
        boxes = data.detections.clone()
        for t in range(1, data.num_frames):
            boxes[:, t] = torch.where(data.mask[:, t, :, None], boxes[:, t], boxes[:, t - 1])
        start = time.perf_counter()
        figures = tracking_metrics(data.truth, data.truth_mask, boxes)
        assert time.perf_counter() - start < 5
        found = [round(figures[key], 2) for key in ("mota", "motp", "idf1")]
        assert found == [mota, motp, idf1] and figures["ids"] == 0
