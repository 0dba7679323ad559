"""Tracking data: what is refused, what shuffling keeps, and what each loader returns."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pyromodels.experiments.datasets.tracking.box_overlap import assign, pairwise_iou
from pyromodels.experiments.datasets.tracking.files import load_tracking
from pyromodels.experiments.datasets.tracking.motchallenge import load_motchallenge
from pyromodels.experiments.datasets.tracking.npz import load_npz
from pyromodels.experiments.datasets.tracking.scene import generate_scene
from pyromodels.experiments.datasets.tracking.sequences import TrackingData

NAN = float("nan")
BOX = [0.1, 0.2, 0.3, 0.6]


def grid(num_sequences: int = 2, num_frames: int = 3, num_slots: int = 2) -> np.ndarray:
    """Return valid, distinct boxes, shape (S, T, K, 4)."""
    corner = np.random.default_rng(0).uniform(0, 0.5, (num_sequences, num_frames, num_slots, 2))
    return np.concatenate([corner, corner + 0.2], -1).astype(np.float32)


def test_all_nan_box_is_missing_and_zero() -> None:
    boxes = grid()
    boxes[1, 2, 0] = NAN
    data = TrackingData.from_arrays("d", boxes)
    assert not data.mask[1, 2, 0] and int(data.mask.sum()) == data.mask.numel() - 1
    assert data.detections[1, 2, 0].tolist() == [0, 0, 0, 0]
    assert data.detections.dtype == torch.float32 and data.names == ("d/0", "d/1")


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([0.1, NAN, 0.3, 0.6], "is not finite"),
        ([0.1, 0.2, float("inf"), 0.6], "is not finite"),
        ([0.3, 0.2, 0.1, 0.6], "right <= left"),
        ([0.1, 0.2, 0.3, 0.2], "bottom <= top"),
    ],
)
@pytest.mark.parametrize("field", ["detections", "truth"])
def test_bad_box_is_refused_with_its_place(box: list[float], words: str, field: str) -> None:
    boxes = {"detections": grid(), "truth": grid()}
    boxes[field][1, 2, 0] = box
    with pytest.raises(ValueError, match=f"{field} of sequence 1 .*frame 2, slot 0 .*{words}"):
        TrackingData.from_arrays("d", boxes["detections"], truth=boxes["truth"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"detections": np.zeros((2, 3, 4))}, r"detections has shape \(2, 3, 4\); expected"),
        ({"detections": np.zeros((0, 3, 2, 4))}, "0 sequences of 3 frames"),
        ({"detections": np.zeros((2, 0, 2, 4))}, "2 sequences of 0 frames"),
        ({"detections": grid(), "truth": grid(2, 4)}, r"truth has shape \(2, 4\)"),
        ({"detections": grid(), "frame_rate": [30.0]}, "frame_rate has shape"),
        ({"detections": grid(), "image_size": [[1, 1], [0, 1]]}, "image_size must be positive"),
        ({"detections": grid(), "names": ["a"]}, "names has shape"),
    ],
)
def test_wrong_shapes_are_refused(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrackingData.from_arrays("d", **arguments)


def test_frames_without_any_detection_are_allowed() -> None:
    data = TrackingData.from_arrays("d", np.full((1, 4, 0, 4), NAN))
    assert data.num_slots == 0 and data.shuffled().num_frames == 4


def test_shuffling_permutes_every_frame_but_the_first() -> None:
    boxes = grid(3, 40, 4)
    boxes[:, 5, 1] = NAN
    data = TrackingData.from_arrays("d", boxes, truth=boxes[:, :, 2:])
    mixed = data.shuffled(torch.Generator().manual_seed(0))
    assert torch.equal(mixed.detections[:, 0], data.detections[:, 0])
    torch.testing.assert_close(mixed.detections.sum(2), data.detections.sum(2))
    assert torch.equal(mixed.mask.sum(2), data.mask.sum(2))
    assert not mixed.detections[~mixed.mask].any()
    # Frames are permuted independently: several different orders occur.
    slot = (mixed.detections[0, :, :, None] == data.detections[0, :, None]).all(-1).int().argmax(-1)
    assert len({tuple(row) for row in slot[1:].tolist()}) > 5
    assert torch.equal(mixed.truth, data.truth)
    again = data.shuffled(torch.Generator().manual_seed(0))
    assert torch.equal(again.detections, mixed.detections)


def test_a_spread_is_as_many_as_asked_for_from_all_over() -> None:
    boxes = torch.rand(16, 1, 1, 4)
    boxes[..., 2:] += 1
    data = TrackingData.from_arrays("d", boxes.numpy())
    for count in range(1, 20):
        kept = data.spread(count)
        assert kept.num_sequences == min(count, 16)
        assert kept.names[0] == "d/0" and len(set(kept.names)) == len(kept.names)
    assert data.spread(3).names == ("d/0", "d/5", "d/10")
    assert data.spread(None) is data
    with pytest.raises(ValueError, match="expected at least one"):
        data.spread(0)


def test_subset_keeps_everything_in_step() -> None:
    data = TrackingData.from_arrays("d", grid(4), truth=grid(4), frame_rate=[1.0, 2, 3, 4])
    assert data.subset([2, 0]).frame_rate.tolist() == [3, 1]
    assert data.subset(slice(1, 3)).names == ("d/1", "d/2")
    assert torch.equal(data.subset([3]).truth[0], data.truth[3])
    for index in ([], [4], [-1]):
        with pytest.raises(ValueError, match="index selects"):
            data.subset(index)


def test_npz_loader_reads_both_layouts(mot_data: Path) -> None:
    three = load_npz(mot_data / "TUD-Stadtmitte_T60.npz")
    hard = load_npz(mot_data / "MOT17-hard_T60.npz")
    assert three.detections.shape == (16, 60, 3, 4) and three.num_objects == 3
    assert three.names[0] == "TUD-Stadtmitte@1#2-4-5"
    assert three.image_size[0].tolist() == [640, 480] and three.frame_rate[0] == 25
    assert hard.detections.shape == (60, 60, 8, 4) and hard.num_objects == 5
    # Facts sheet, section 6: slots 0 to 4 of frame 1 are the people, and nothing else is there.
    assert hard.mask[:, 0, :5].all() and not hard.mask[:, 0, 5:].any()
    iou = pairwise_iou(hard.truth[:, 0], hard.detections[:, 0, :5]).diagonal(dim1=1, dim2=2)
    assert iou.min() > 0.5
    # The share of missing detections in the facts sheet's table.
    assert 1 - three.mask.float().mean().item() == pytest.approx(0.059, abs=5e-4)


def test_npz_stored_order_is_the_permutation_of_the_file(mot_data: Path) -> None:
    path = mot_data / "TUD-Stadtmitte_T60.npz"
    plain, mixed = load_npz(path), load_npz(path, stored_order=True)
    perm = torch.from_numpy(np.load(path)["perm"])
    for s, t, k in ((0, 0, 1), (3, 17, 2), (15, 59, 0)):
        assert torch.equal(mixed.detections[s, t, k], plain.detections[s, t, perm[s, t, k]])
    with pytest.raises(ValueError, match="no key 'perm'"):
        load_npz(mot_data / "MOT17-hard_T60.npz", stored_order=True)


def test_npz_loader_says_what_is_wrong(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", boxes=grid())
    np.savez(tmp_path / "b.npz", det=grid()[0])
    np.savez(tmp_path / "c.npz", det=grid(), gt=grid(3))
    np.savez(tmp_path / "d.npz", det=grid(), seq_name=np.array([{}, {}], dtype=object))
    (tmp_path / "e.npz").write_text("text")
    for name, words in (("a", "no key 'det' .*boxes"), ("b", r"expected \(S, T, K, 4\)"),
                        ("c", "'gt' has shape"), ("d", "object arrays"), ("e", "not a readable")):
        with pytest.raises(ValueError, match=words):
            load_npz(tmp_path / f"{name}.npz")


def test_motchallenge_windows_equal_the_prepared_set(mot_data: Path) -> None:
    ours = load_motchallenge(mot_data / "raw" / "TUD-Stadtmitte")
    prepared = load_npz(mot_data / "TUD-Stadtmitte_T60.npz")
    common = sorted(set(ours.names) & set(prepared.names))
    # The draws differ where more than 20 triples are possible; the windows and boxes do not.
    assert ours.num_sequences == 16 and len(common) >= 12
    a = ours.subset([ours.names.index(n) for n in common])
    b = prepared.subset([prepared.names.index(n) for n in common])
    assert torch.equal(a.mask, b.mask)
    torch.testing.assert_close(a.detections, b.detections, atol=1e-6, rtol=0)
    torch.testing.assert_close(a.truth, b.truth, atol=1e-6, rtol=0)


def test_motchallenge_rules_hold_for_any_number_of_tracks(mot_data: Path) -> None:
    data = load_motchallenge(mot_data / "raw", num_tracks=4, num_frames=40, seed=3)
    assert data.detections.shape[1:] == (40, 4, 4) and data.num_objects == 4
    assert {n.split("@")[0] for n in data.names} == {"MOT16-11", "TUD-Stadtmitte"}
    assert data.truth_mask.all() and data.mask[:, :5].all()
    assert data.mask.float().mean(1).min() >= 0.65
    assert len(set(data.names)) == len(data.names)
    iou = pairwise_iou(data.truth, data.detections).diagonal(dim1=-2, dim2=-1)
    assert iou[data.mask].min() >= 0.5 - 1e-4
    again = load_motchallenge(mot_data / "raw", num_tracks=4, num_frames=40, seed=3)
    assert again.names == data.names


def write_sequence(folder: Path, num_frames: int = 6, gt_tail: str = ",1,1,1") -> Path:
    """Write two parallel walkers, one of whom frame 6 misses, and one false detection."""
    (folder / "gt").mkdir(parents=True)
    (folder / "det").mkdir()
    (folder / "seqinfo.ini").write_text(
        f"[Sequence]\nname=walk\nframeRate=10\nseqLength={num_frames}\nimWidth=200\nimHeight=100\n"
    )
    gt, det = [], []
    for t in range(1, num_frames + 1):
        for i, left in ((7, 10 + t), (9, 100 - t)):
            gt.append(f"{t},{i},{left},20,20,50{gt_tail}")
            if not (t == 6 and i == 9):
                det.append(f"{t},-1,{left + 1},20,20,50,0.9,-1,-1,-1")
        det.append(f"{t},-1,170,70,10,20,0.9,-1,-1,-1")
    (folder / "gt" / "gt.txt").write_text("\n".join(gt))
    (folder / "det" / "det.txt").write_text("\n".join(det))
    return folder


def test_motchallenge_window_of_the_whole_sequence(tmp_path: Path) -> None:
    data = load_motchallenge(write_sequence(tmp_path / "walk"), num_frames=6, num_tracks=2)
    assert data.names == ("walk@1#7-9",)
    assert data.mask[0, :, 0].all() and data.mask[0, :, 1].tolist() == [True] * 5 + [False]
    expected = torch.tensor([12 / 200, 0.2, 32 / 200, 0.7])
    torch.testing.assert_close(data.detections[0, 0, 0], expected)


@pytest.mark.parametrize("tail", [",0,1,1", ",1,3,1"])
def test_motchallenge_ignores_flagged_boxes_and_other_classes(tmp_path: Path, tail: str) -> None:
    folder = write_sequence(tmp_path / "walk", gt_tail=tail)
    with pytest.raises(ValueError, match="no window .* 0 tracks span"):
        load_motchallenge(folder, num_frames=5, num_tracks=2)


def test_motchallenge_ten_columns_have_no_class(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path / "walk", gt_tail=",1,4.4,5.5,0")
    assert load_motchallenge(folder, num_frames=5, num_tracks=2).num_sequences == 1


def test_motchallenge_errors_name_the_file(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path / "walk")
    with pytest.raises(ValueError, match="num_tracks=3 .* 2 tracks span"):
        load_motchallenge(folder, num_frames=5)
    with pytest.raises(ValueError, match="slide is 0"):
        load_motchallenge(folder, slide=0)
    (folder / "det" / "det.txt").write_text("1,-1,nan,2,3,4,1")
    with pytest.raises(ValueError, match="row 1 holds a NaN"):
        load_motchallenge(folder, num_frames=5)
    (folder / "det" / "det.txt").unlink()
    with pytest.raises(FileNotFoundError, match="det.txt is missing"):
        load_motchallenge(folder, num_frames=5)
    (folder / "seqinfo.ini").unlink()
    with pytest.raises(FileNotFoundError, match="seqinfo.ini is missing"):
        load_motchallenge(folder, num_frames=5)


def test_load_tracking_dispatches(tmp_path: Path) -> None:
    sequence = write_sequence(tmp_path / "videos" / "walk")
    for folder in (sequence, sequence.parent):
        (data,) = load_tracking(folder, num_frames=5, num_tracks=2)
        assert data.num_objects == 2
    sets = tmp_path / "sets"
    sets.mkdir()
    for name in ("b", "a"):
        np.savez(sets / f"{name}.npz", det=grid())
    assert [d.name for d in load_tracking(sets)] == ["a", "b"]
    assert load_tracking(sets / "a.npz")[0].num_sequences == 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "readme.txt").write_text("")
    with pytest.raises(ValueError, match="no tracking data.*readme.txt"):
        load_tracking(tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_tracking(tmp_path / "nowhere")


@pytest.mark.parametrize("seed", range(5))
def test_scene_has_a_complete_first_frame_and_a_true_crossing(seed: int) -> None:
    data = generate_scene(num_sources=4, num_frames=60, seed=seed)
    assert data.mask[0, 0, :4].all() and not data.mask[0, 0, 4:].any()
    first = pairwise_iou(data.truth[:, 0], data.detections[:, 0, :4])
    assert first.diagonal(dim1=1, dim2=2).min() > 0.5
    centre = data.truth[0, :, :2, [0, 2]].mean(-1)                         # (T, 2)
    order = (centre[:, 0] < centre[:, 1])
    assert order[0] != order[-1]
    hidden = pairwise_iou(data.truth[0, :, :1], data.truth[0, :, 1:2]).flatten() > 0.4
    assert hidden.any()
    # While the two overlap, the farther one (1) has no detection of his own.
    iou = pairwise_iou(data.truth[0], data.detections[0])[:, :2] * data.mask[0, :, None]
    both = (assign(iou) & (iou > 0.5)).any(-1).all(-1)
    assert not both[hidden].any()


def test_scene_rates_are_those_asked_for() -> None:
    calm = generate_scene(
        num_sources=2, num_frames=50, miss_start=0.0, occlusion=1.0, clutter_rate=0.0,
        noise_scale=0.0, seed=1,
    )
    assert calm.num_slots == 2 and calm.mask.all()
    iou = pairwise_iou(calm.truth, calm.detections)
    assert (assign(iou) * iou).sum(-1).min() == pytest.approx(1, abs=1e-5)
    # One person, no occlusion: missing share is start / (start + end), clutter the rest.
    data = generate_scene(num_sources=1, num_frames=400, num_sequences=60, clutter_rate=0.3, seed=2)
    own = (pairwise_iou(data.truth, data.detections) * data.mask[:, :, None])[:, 100:, 0]
    missing = 1 - (own.max(-1).values > 0.3).double().mean().item()
    assert missing == pytest.approx(0.18, abs=0.03)
    clutter = (data.mask.sum(-1)[:, 100:] - (own.max(-1).values > 0.3).int()).double().mean().item()
    assert clutter == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize(("num_sources", "num_frames"), [(1, 1), (1, 5), (12, 3), (3, 1)])
def test_scene_limits(num_sources: int, num_frames: int) -> None:
    data = generate_scene(num_sources=num_sources, num_frames=num_frames, seed=0)
    assert data.truth.shape == (1, num_frames, num_sources, 4)


def test_scene_is_seeded_and_checks_its_arguments() -> None:
    one, two, other = (generate_scene(num_frames=20, seed=s) for s in (4, 4, 5))
    assert torch.equal(one.detections, two.detections)
    assert not torch.equal(one.truth, other.truth)
    for wrong in ({"num_sources": 0}, {"num_frames": 0}, {"miss_end": 1.5}, {"clutter_rate": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            generate_scene(**wrong)
