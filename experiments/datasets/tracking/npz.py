"""Tracking data from one ``.npz`` file.

Layout: ``det`` (S, T, K, 4) with NaN = missing, required; ``gt`` (S, T, N, 4), ``perm``
(S, T, K), ``frame_rate`` (S,), ``image_size`` (S, 2), ``seq_name`` (S,), ``start_frame`` (S,) and
``track_ids`` (S, N), each optional.
"""

import zipfile
from pathlib import Path

import numpy as np

from pyromodels.experiments.datasets.tracking.sequences import TrackingData


def load_npz(
    path: str | Path, *, name: str | None = None, stored_order: bool = False
) -> TrackingData:
    """Read a ``.npz`` file of box sequences.

    Args:
        path: the file.
        name: name of the data set; the file's stem by default.
        stored_order: shuffle the detections of each frame with the permutation that the file
            holds under ``perm`` (detection k of frame t becomes ``det[s, t, perm[s, t, k]]``).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a file, or a key is missing or has a wrong shape.
    """
    path = Path(path)
    name = path.stem if name is None else name
    arrays = read_archive(path)
    if "det" not in arrays:
        raise ValueError(
            f"{path} has no key 'det' (it has: {', '.join(sorted(arrays)) or 'nothing'}); expected "
            "'det' (S, T, K, 4), [left, top, right, bottom] / image size, NaN = missing"
        )
    det = arrays["det"]
    if det.ndim != 4 or det.shape[-1] != 4:
        raise ValueError(f"{path}: 'det' has shape {det.shape}; expected (S, T, K, 4)")
    num_sequences = det.shape[0]
    for key in ("gt", "perm", "frame_rate", "image_size", "seq_name", "start_frame", "track_ids"):
        if key in arrays and arrays[key].shape[:1] != (num_sequences,):
            raise ValueError(
                f"{path}: {key!r} has shape {arrays[key].shape}; expected {num_sequences} entries "
                "on the first axis, as 'det'"
            )
    if stored_order:
        det = _reorder(path, det, arrays.get("perm"))
    return TrackingData.from_arrays(
        name, det, truth=arrays.get("gt"), frame_rate=arrays.get("frame_rate"),
        image_size=arrays.get("image_size"), names=_names(name, num_sequences, arrays),
    )


def read_archive(path: str | Path) -> dict[str, np.ndarray]:
    """Read all arrays of a ``.npz`` file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such archive, or holds objects.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"path {path} is not a file; expected a .npz file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(
            f"{path} is not a readable .npz archive of plain arrays ({error}); object arrays are "
            "refused because unpickling them can run code"
        ) from error


def _reorder(path: Path, det: np.ndarray, perm: np.ndarray | None) -> np.ndarray:
    if perm is None:
        raise ValueError(f"{path} has no key 'perm', so stored_order=True has no order to apply; "
                         "use TrackingData.shuffled instead")
    identity = np.arange(det.shape[2])
    if perm.shape != det.shape[:3] or not (np.sort(perm, -1) == identity).all():
        raise ValueError(f"{path}: 'perm' with shape {perm.shape} is not a permutation of "
                         f"{det.shape[2]} slots for each of {det.shape[:2]} sequences and frames")
    return np.take_along_axis(det, perm[..., None], axis=2)


def _names(name: str, num_sequences: int, arrays: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Name each sequence after its video, first frame and tracks, as far as the file knows."""
    names = []
    for s in range(num_sequences):
        label = str(arrays["seq_name"][s]) if "seq_name" in arrays else f"{name}/{s}"
        if "start_frame" in arrays:
            label += f"@{int(arrays['start_frame'][s])}"
        if "track_ids" in arrays:
            label += "#" + "-".join(str(int(i)) for i in np.ravel(arrays["track_ids"][s]))
        names.append(label)
    return tuple(names)
