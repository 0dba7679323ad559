"""Detections and tracks from disk: `.npz` files and MOTChallenge folders."""

from pathlib import Path

import torch

from pyromodels.errors import SpecError
from pyromodels.experiments.datasets import DATASETS
from pyromodels.experiments.datasets.tracking.motchallenge import (
    is_sequence_folder,
    load_motchallenge,
)
from pyromodels.experiments.datasets.tracking.npz import load_npz
from pyromodels.experiments.datasets.tracking.sequences import TrackingData


def load_tracking(
    path: str | Path,
    *,
    num_frames: int = 60,
    num_tracks: int = 3,
    slide: int = 10,
    seed: int = 0,
) -> tuple[TrackingData, ...]:
    """Load every tracking data set found at ``path``.

    Args:
        path: a ``.npz`` file; a folder of ``.npz`` files (one data set each, by name); or a
            MOTChallenge folder, of one sequence or of several (one data set).
        num_frames: frames of a window, MOTChallenge only.
        num_tracks: tracks of a window, MOTChallenge only.
        slide: frames from one window to the next, MOTChallenge only.
        seed: seed of the choice of tracks, MOTChallenge only.

    Raises:
        FileNotFoundError: if there is no such path.
        ValueError: if nothing there is tracking data; the message lists what was found.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path {path} does not exist; expected a .npz file or a folder")
    if path.is_file():
        if path.suffix != ".npz":
            raise ValueError(f"path {path} is a {path.suffix or 'nameless'} file; expected .npz")
        return (load_npz(path),)
    archives = sorted(path.glob("*.npz"))
    if archives and not is_sequence_folder(path):
        return tuple(load_npz(archive) for archive in archives)
    if is_sequence_folder(path) or any(is_sequence_folder(p) for p in path.iterdir()):
        return (
            load_motchallenge(
                path, num_frames=num_frames, num_tracks=num_tracks, slide=slide, seed=seed
            ),
        )
    found = sorted(p.name + ("/" if p.is_dir() else "") for p in path.iterdir())
    raise ValueError(
        f"path {path} holds no tracking data; expected *.npz files, or gt/gt.txt, det/det.txt and "
        f"seqinfo.ini, there or in subfolders. Found: {', '.join(found[:20]) or 'nothing'}"
        + (f" and {len(found) - 20} more" if len(found) > 20 else "")
    )


def data_sets(path: Path) -> list[Path]:
    """Return the path of every data set there: the `.npz` files of a folder, else itself."""
    archives = sorted(path.glob("*.npz")) if path.is_dir() and not is_sequence_folder(path) else []
    return archives or [path]


@DATASETS.register("files")
def load_files(
    *,
    path: str,
    num_frames: int = 60,
    num_tracks: int = 3,
    slide: int = 10,
    shuffle: bool = False,
    max_sequences: int | None = None,
    seed: int = 0,
) -> TrackingData:
    """One data set from disk: a `.npz` file or a MOTChallenge folder.

    Args:
        path: see `load_tracking`; where it holds several data sets, name one of them.
        num_frames, num_tracks, slide: see `load_tracking`.
        shuffle: shuffle the detections of every frame after the first.
        max_sequences: keep the first so many; None keeps all.
        seed: of the choice of tracks and of the shuffling.

    Raises:
        FileNotFoundError: if there is no such path.
        SpecError: if there are several data sets, or no sequence is to be kept.
        ValueError: if nothing there is tracking data.
    """
    found = load_tracking(
        path, num_frames=num_frames, num_tracks=num_tracks, slide=slide, seed=seed
    )
    if len(found) > 1:
        names = ", ".join(data.name for data in found)
        raise SpecError(f"data: {path} holds several data sets ({names}); name one file")
    if max_sequences is not None and max_sequences < 1:
        raise SpecError(f"data: max_sequences: given {max_sequences}; expected at least 1")
    data = found[0].subset(slice(0, max_sequences))
    return data.shuffled(torch.Generator().manual_seed(seed)) if shuffle else data
