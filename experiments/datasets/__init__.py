"""Data sets: tracking sequences from files, and a synthetic scene for an empty machine."""

from pathlib import Path

from experiments.datasets.motchallenge import is_sequence_folder, load_motchallenge
from experiments.datasets.npz import load_npz
from experiments.datasets.scene import generate_scene
from experiments.datasets.sequences import TrackingData

__all__ = ["TrackingData", "generate_scene", "load_motchallenge", "load_npz", "load_tracking"]


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
