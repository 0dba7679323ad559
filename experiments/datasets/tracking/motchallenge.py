"""Windows of matched detections from a MOTChallenge folder, thesis appendix A.2.2.

A sequence folder holds ``gt/gt.txt``, ``det/det.txt`` and ``seqinfo.ini``. Detections are matched
to the true boxes frame by frame (Hungarian on IoU) and unmatched ones are discarded. The video is
cut into windows; in each window random sets of tracks are drawn among those whose truth spans it.

Departure: the appendix draws one set of tracks a window and names no coverage rule. Like the
published script we draw up to ``max_combinations`` sets, and keep a track only if enough of its
frames, and all of the first ones, have a detection, so that a tracker can start on frame 1.
"""

import configparser
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from pyromodels.experiments.datasets.tracking.box_overlap import assign, pairwise_iou
from pyromodels.experiments.datasets.tracking.sequences import TrackingData


class _Video(NamedTuple):
    """One sequence with its detections matched to its tracks."""

    name: str
    frame_rate: float
    image_size: tuple[float, float]
    track_ids: np.ndarray             # shape: (M,)
    truth: np.ndarray                 # shape: (F, M, 4), pixels, NaN = absent
    detections: np.ndarray            # shape: (F, M, 4), pixels, NaN = missing


def is_sequence_folder(path: Path) -> bool:
    """Tell whether ``path`` looks like the folder of one MOTChallenge sequence."""
    return (path / "gt" / "gt.txt").is_file()


def load_motchallenge(
    path: str | Path,
    *,
    num_frames: int = 60,
    num_tracks: int = 3,
    slide: int = 10,
    iou_threshold: float = 0.5,
    min_coverage: float = 0.65,
    num_complete_frames: int = 5,
    max_combinations: int = 20,
    seed: int = 0,
) -> TrackingData:
    """Cut windows of matched detections out of one sequence folder, or a folder of several.

    Args:
        path: folder of one sequence or of several.
        num_frames: frames T of a window.
        num_tracks: tracks N of a window.
        slide: frames between the starts of two windows.
        iou_threshold: a detection belongs to a track if matched to it with at least this IoU.
        min_coverage: fraction of the window's frames in which a track must be detected.
        num_complete_frames: first frames in which every chosen track must be detected.
        max_combinations: sets of tracks drawn per window; equal draws count once.
        seed: seed of the draws.

    Returns:
        Data with K = N slots, slot k being track k of the sorted choice; call ``shuffled`` to
        remove that order.

    Raises:
        FileNotFoundError: if a file of the layout is missing.
        ValueError: if a file cannot be read or no window passes; the message counts why.
    """
    for argument, value in (("num_frames", num_frames), ("num_tracks", num_tracks),
                            ("slide", slide), ("max_combinations", max_combinations)):
        if value < 1:
            raise ValueError(f"{argument} is {value}; expected at least 1")
    folders = _sequence_folders(Path(path))
    tally: Counter[str] = Counter()
    det, truth, rates, sizes, names = [], [], [], [], []
    for number, folder in enumerate(folders):
        video = _read_video(folder, iou_threshold)
        scale = np.tile(np.array(video.image_size), 2)
        for start in _window_starts(len(video.truth), num_frames, slide):
            window = slice(start, start + num_frames)
            rng = np.random.default_rng([seed, number, start])
            for tracks in _choose_tracks(
                rng, video.truth[window], video.detections[window], num_tracks, min_coverage,
                num_complete_frames, max_combinations, tally,
            ):
                det.append(video.detections[window][:, tracks] / scale)
                truth.append(video.truth[window][:, tracks] / scale)
                rates.append(video.frame_rate)
                sizes.append(video.image_size)
                ids = "-".join(str(i) for i in video.track_ids[tracks])
                names.append(f"{video.name}@{start + 1}#{ids}")
    if not det:
        raise ValueError(
            f"{path}: no window of num_frames={num_frames} with num_tracks={num_tracks} passes; "
            f"{len(folders)} sequences, {tally['windows']} windows, {tally['spanning']} tracks "
            f"span a window, {tally['covered']} of them detected in at least {min_coverage:.0%} "
            f"of it, {tally['incomplete']} sets of tracks refused for a miss in the first "
            f"{num_complete_frames} frames. Try fewer frames or fewer tracks."
        )
    return TrackingData.from_arrays(
        Path(path).resolve().name, np.stack(det), truth=np.stack(truth), frame_rate=rates,
        image_size=sizes, names=names,
    )


def _sequence_folders(path: Path) -> list[Path]:
    if is_sequence_folder(path):
        return [path]
    folders = sorted(p for p in path.iterdir() if is_sequence_folder(p)) if path.is_dir() else []
    if not folders:
        raise FileNotFoundError(f"path {path} has no gt/gt.txt, nor has a folder in it; expected "
                                "the folder of a MOTChallenge sequence, or a folder of several")
    return folders


def _window_starts(length: int, num_frames: int, slide: int) -> list[int]:
    """Start of every window, from 0; one that touches the end is used only if it is the first."""
    starts = [s for s in range(0, length - num_frames + 1, slide) if s + num_frames < length]
    return starts or [0] * (length == num_frames)


def _choose_tracks(
    rng: np.random.Generator,
    truth: np.ndarray,                # shape: (T, M, 4)
    detections: np.ndarray,           # shape: (T, M, 4)
    num_tracks: int,
    min_coverage: float,
    num_complete_frames: int,
    max_combinations: int,
    tally: Counter[str],
) -> list[list[int]]:
    """Draw sorted, distinct sets of tracks that obey the rules of the window."""
    seen = ~np.isnan(detections).any(-1)                                   # (T, M)
    spanning = ~np.isnan(truth).any((0, 2))
    eligible = np.flatnonzero(spanning & (seen.mean(0) >= min_coverage))
    tally.update(windows=1, spanning=int(spanning.sum()), covered=len(eligible))
    if len(eligible) < num_tracks:
        return []
    draws = {tuple(sorted(rng.choice(eligible, num_tracks, replace=False).tolist()))
             for _ in range(max_combinations)}
    kept = [list(d) for d in sorted(draws) if seen[:num_complete_frames, list(d)].all()]
    tally["incomplete"] += len(draws) - len(kept)
    return kept


def _read_video(folder: Path, iou_threshold: float) -> _Video:
    info = _read_info(folder / "seqinfo.ini")
    gt = _read_table(folder / "gt" / "gt.txt", min_columns=6)
    det = _read_table(folder / "det" / "det.txt", min_columns=6)
    # Column 7 is the flag "consider this box"; column 8 is the class in the nine-column layout
    # (MOT16 on), but a world coordinate in the ten-column layout of MOT15.
    keep = np.ones(len(gt), dtype=bool)
    if gt.shape[1] >= 7:
        keep &= gt[:, 6] != 0
    if gt.shape[1] == 9:
        keep &= gt[:, 7] == 1
    gt = gt[keep]
    last_frame = max([0, *gt[:, 0].astype(int), *det[:, 0].astype(int)])
    length = int(info.get("seqlength", last_frame))
    track_ids = np.unique(gt[:, 1].astype(int))
    truth = np.full((length, len(track_ids), 4), np.nan)
    matched = np.full_like(truth, np.nan)
    for frame in range(length):
        true = gt[gt[:, 0] == frame + 1]
        seen = torch.from_numpy(det[det[:, 0] == frame + 1, 2:6])
        column = np.searchsorted(track_ids, true[:, 1].astype(int))
        truth[frame, column] = true[:, 2:6]
        iou = pairwise_iou(torch.from_numpy(true[:, 2:6]), seen)
        pairs = (assign(iou * (iou >= iou_threshold)) & (iou >= iou_threshold)).nonzero()
        for i, k in pairs.tolist():
            matched[frame, column[i]] = seen[k].numpy()
    return _Video(
        name=info.get("name", folder.name), frame_rate=float(info.get("framerate", 30.0)),
        image_size=(float(info["imwidth"]), float(info["imheight"])), track_ids=track_ids,
        truth=truth, detections=matched,
    )


def _read_info(path: Path) -> dict[str, str]:
    parser = configparser.ConfigParser()
    if not parser.read(path):
        raise FileNotFoundError(f"{path} is missing; expected a file with [Sequence] imWidth, "
                                "imHeight, frameRate, seqLength")
    info = dict(parser["Sequence"]) if parser.has_section("Sequence") else {}
    missing = [key for key in ("imwidth", "imheight") if key not in info]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)} in [Sequence]; boxes are divided by "
                         "the size of the image, so both are needed")
    return info


def _read_table(path: Path, *, min_columns: int) -> np.ndarray:
    """Read comma-separated rows frame, id, left, top, width, height, ... with corners in 2:6."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; expected the MOTChallenge layout")
    try:
        rows = np.loadtxt(path, delimiter=",", ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path} is not a table of comma-separated numbers ({error})") from error
    if rows.size == 0:
        return np.zeros((0, min_columns))
    if rows.shape[1] < min_columns:
        raise ValueError(f"{path} has {rows.shape[1]} columns; expected frame, id, left, top, "
                         "width, height, ...")
    bad = ~np.isfinite(rows[:, :6]).all(1)
    if bad.any():
        line = int(np.flatnonzero(bad)[0])
        raise ValueError(f"{path}: row {line + 1} holds a NaN or infinite box, "
                         f"{rows[line, :6].tolist()} ({int(bad.sum())} such rows); remove it")
    rows[:, 4:6] += rows[:, 2:4]
    return rows
