"""Labelled sequences from one path: spoken phones, spoken digits, or made by hidden Markov models.

Three layouts of a ``.npz`` file, told apart by the names of their arrays; ``x`` is zero padded.

    phones   x (n, T, 40), len (n,), phone (n,), phones (names), split (n,)
    digits   x (n, T, 40), len (n,), digit (n,), split (n,), split_theo (n,)
    hmm5     {train,val,test}_x (n, T, 2), {train,val,test}_len (n,), {train,val,test}_y (n,)

A split is 0 for training, 1 for validation, 2 for test. The forty columns are those of
``mfcc.features``. Nothing is scaled; see ``LabelledData.standardised``.

Sources: prompts of Asterisk (Allison Smith / Digium, CC BY-SA 3.0), cut by forced alignment; the
Free Spoken Digit Dataset (Z. Jackson et al., CC BY-SA 4.0); the five classes of 3-state hidden
Markov models published with the paper on time-varying normalizing flows.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyromodels.errors import mismatch, unknown
from pyromodels.experiments.datasets.labelled.problem import SPLITS, LabelledData
from pyromodels.experiments.datasets.labelled.timit import (
    check_limits,
    checked_classes,
    load_timit,
    with_every_class,
)
from pyromodels.experiments.datasets.tracking.npz import read_archive
from pyromodels.labelled import LabelledSequences

Arrays = Mapping[str, NDArray[Any]]

_LAYOUTS = {
    "phones": ("x", "len", "phone", "phones", "split"),
    "digits": ("x", "len", "digit", "split", "split_theo"),
    "hmm5": tuple(f"{split}_{name}" for split in ("train", "val", "test")
                  for name in ("x", "len", "y")),
}
_DIGIT_SPLITS = {"official": "split", "theo": "split_theo"}


def load_labelled(path: str | Path, **options: Any) -> LabelledData:
    """Load TIMIT if ``path`` is a folder, else the ``.npz`` file of one of the three layouts.

    Args:
        path: the folder with TRAIN and TEST, or the file.
        options: arguments of ``load_timit``, ``load_phones``, ``load_digits`` or ``load_hmm5``.

    Raises:
        FileNotFoundError: if there is nothing at ``path``, and as ``load_timit``.
        ValueError: for a file of none of the layouts, an option that its loader does not have, and
            as the loader.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; expected a TIMIT folder or a .npz file")
    if path.is_dir():
        return load_timit(path, **_checked(load_timit, options))
    arrays = read_archive(path)
    for layout, loader in (("phones", load_phones), ("digits", load_digits), ("hmm5", load_hmm5)):
        if set(_LAYOUTS[layout]) <= set(arrays):
            return loader(path, **_checked(loader, options))
    layouts = "; ".join(f"{name}: {', '.join(keys)}" for name, keys in _LAYOUTS.items())
    raise ValueError(mismatch(str(path), given=f"arrays {', '.join(sorted(arrays)) or '(none)'}",
                              expected=f"those of one layout ({layouts})"))


def load_phones(
    path: str | Path,
    *,
    classes: Sequence[str] | None = None,
    min_frames: int = 1,
    max_frames: int | None = None,
) -> LabelledData:
    """Read segments of phones, in the splits of the file.

    Args:
        path: the file.
        classes: names among ``phones``, numbered in this order; all by default.
        min_frames: shorter segments are left out.
        max_frames: longer segments are left out; no limit by default.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if an array is missing or does not fit, for unknown classes, for a class
            without segments in one of the splits, or limits that make no sense.
    """
    check_limits(min_frames, max_frames)
    arrays = _arrays(path, "phones")
    names = tuple(str(name) for name in arrays["phones"])
    data = _split(path, "phones", names, arrays, "phone", "split")
    return _chosen(path, data, classes, min_frames, max_frames)


def load_digits(
    path: str | Path,
    *,
    split: str = "official",
    classes: Sequence[str] | None = None,
) -> LabelledData:
    """Read spoken digits, the classes being "0" to "9".

    Args:
        path: the file.
        split: ``official``, by number of the recording, where all speakers are in all three splits;
            ``theo``, where the speaker of that name is the test split and in no other.
        classes: some digits, numbered in this order; all by default.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for an unknown split, and as ``load_phones``.
    """
    if split not in _DIGIT_SPLITS:
        raise ValueError(unknown("split", given=split, known=_DIGIT_SPLITS))
    names = tuple(str(digit) for digit in range(10))
    arrays = _arrays(path, "digits")
    data = _split(path, f"digits-{split}", names, arrays, "digit", _DIGIT_SPLITS[split])
    return _chosen(path, data, classes)


def load_hmm5(path: str | Path, *, classes: Sequence[str] | None = None) -> LabelledData:
    """Read the five classes that hidden Markov models made, called "1" to "5" as their files were.

    Args:
        path: the file.
        classes: some of them, numbered in this order; all by default.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: as ``load_phones``.
    """
    arrays, names = _arrays(path, "hmm5"), tuple("12345")
    stored = zip(SPLITS, ("train", "val", "test"), strict=True)
    splits = {split: _sequences(path, names, *(arrays[f"{s}_{key}"] for key in ("x", "len", "y")))
              for split, s in stored}
    return _chosen(path, LabelledData("hmm5", names, **splits), classes)


def _checked(loader: Callable[..., LabelledData], options: dict[str, Any]) -> dict[str, Any]:
    known = list(inspect.signature(loader).parameters)[1:]
    for name in options:
        if name not in known:
            raise ValueError(unknown(f"option of {loader.__name__}", given=name, known=known))
    return options


def _arrays(path: str | Path, layout: str) -> Arrays:
    arrays = read_archive(path)
    missing = [key for key in _LAYOUTS[layout] if key not in arrays]
    if missing:
        raise ValueError(mismatch(str(path), given=f"no array {missing[0]!r} (it has: "
                                  f"{', '.join(sorted(arrays)) or 'nothing'})",
                                  expected=", ".join(_LAYOUTS[layout])))
    return arrays


def _split(path: str | Path, name: str, names: tuple[str, ...], arrays: Arrays, label: str,
           split: str) -> LabelledData:
    assigned = arrays[split]
    if assigned.shape != arrays["len"].shape or not np.isin(assigned, range(len(SPLITS))).all():
        raise ValueError(mismatch(f"{path}: {split}", given=f"{assigned.dtype}, shape "
                                  f"{assigned.shape}", expected="0, 1 or 2 for each sequence"))
    whole = _sequences(path, names, arrays["x"], arrays["len"], arrays[label])
    rows = {s: torch.from_numpy(np.flatnonzero(assigned == i)) for i, s in enumerate(SPLITS)}
    return LabelledData(name, names, **{s: whole[rows[s]] for s in SPLITS})


def _sequences(path: str | Path, names: tuple[str, ...], x: NDArray[Any], lengths: NDArray[Any],
               labels: NDArray[Any]) -> LabelledSequences:
    for name, array, kind in (("x", x, "f"), ("lengths", lengths, "iu"), ("labels", labels, "iu")):
        if array.dtype.kind not in kind:
            raise ValueError(mismatch(f"{path}: {name}", given=array.dtype,
                                      expected="integers" if kind == "iu" else "floats"))
    try:
        integers = [torch.from_numpy(array.astype(np.int64)) for array in (lengths, labels)]
        found = LabelledSequences(torch.from_numpy(x.astype(np.float32)), *integers)
    except ValueError as error:
        raise type(error)(f"{path}: {error}") from None
    if len(labels) and not (0 <= labels.min() and labels.max() < len(names)):
        raise ValueError(mismatch(f"{path}: labels", given=f"{labels.min()} to {labels.max()}",
                                  expected=f"0 to {len(names) - 1}"))
    return found


def _chosen(path: str | Path, data: LabelledData, classes: Sequence[str] | None,
            min_frames: int = 1, max_frames: int | None = None) -> LabelledData:
    data = data.only(checked_classes(classes, data.classes))

    def kept(split: LabelledSequences) -> LabelledSequences:
        longest = split.x.shape[1] if max_frames is None else max_frames
        fits = (min_frames <= split.lengths) & (split.lengths <= longest)
        return split[fits.nonzero().squeeze(-1)]

    return with_every_class(replace(data, **{s: kept(getattr(data, s)) for s in SPLITS}), str(path))
