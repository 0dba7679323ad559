"""Phones of TIMIT (LDC93S1) as labelled segments of 40-dimensional frames.

Layout, in upper or lower case: TRAIN|TEST / dialect / speaker / SENTENCE.PHN and, beside it,
SENTENCE.WAV (NIST SPHERE, or RIFF; a RIFF copy may also be called SENTENCE.WAV.wav). A line of a
PHN file is ``begin end symbol``, in samples at 16 kHz. The corpus is licensed and not shipped.

References: K.-F. Lee and H.-W. Hon, "Speaker-independent phone recognition using hidden Markov
models", IEEE Trans. ASSP 37(11), 1989, for the 39 classes; A. Ghosh, A. Espuña Fontcuberta,
M. Abdalmoaty and S. Chatterjee, "Time-varying normalizing flow for generative modeling of dynamical
signals", section III-A, for the splits.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pyromodels.errors import mismatch, unknown
from pyromodels.experiments.datasets.labelled.mfcc import NUM_FEATURES, SHIFT, WINDOW, features
from pyromodels.experiments.datasets.labelled.problem import SPLITS, LabelledData
from pyromodels.experiments.datasets.speech.audio import SAMPLE_RATE, read_audio
from pyromodels.labelled import LabelledSequences

CLASSES = (
    "aa", "ae", "ah", "aw", "ay", "b", "ch", "d", "dh", "dx", "eh", "er", "ey", "f", "g", "hh",
    "ih", "iy", "jh", "k", "l", "m", "n", "ng", "ow", "oy", "p", "r", "s", "sh", "sil", "t", "th",
    "uh", "uw", "v", "w", "y", "z",
)
"""The 39 classes of Lee and Hon."""

_FOLDED = {
    "aa": "ao", "ah": "ax ax-h", "er": "axr", "hh": "hv", "ih": "ix", "l": "el", "m": "em",
    "n": "en nx", "ng": "eng", "sh": "zh", "uw": "ux",
    "sil": "h# pau epi bcl dcl gcl pcl tcl kcl",
}

CLASS_OF: dict[str, str | None] = {
    "q": None,
    **{name: name for name in CLASSES if name != "sil"},
    **{symbol: name for name, symbols in _FOLDED.items() for symbol in symbols.split()},
}
"""Class of each of the 61 symbols; the glottal stop ``q`` has none and is left out."""

_SHIFT, _WINDOW = round(SHIFT * SAMPLE_RATE), round(WINDOW * SAMPLE_RATE)
_OVERHANG = SAMPLE_RATE // 10         # samples that the last boundary may lie behind the signal
_SPHERE = {"sample_rate": str(SAMPLE_RATE), "channel_count": "1", "sample_n_bytes": "2",
           "sample_byte_format": "01", "sample_coding": "pcm"}


def load_timit(
    path: str | Path,
    *,
    classes: Sequence[str] | None = None,
    keep_sa: bool = True,
    valid_share: float = 0.2,
    seed: int = 0,
    min_frames: int = 1,
    max_frames: int | None = None,
) -> LabelledData:
    """Cut the features of every utterance into phones.

    A frame belongs to the segment its centre lies in, so no frame is used twice; a segment shorter
    than the shift may have none and is left out. Segments side by side that fall into one class
    stay two. The test split is the folder TEST. Of the training segments of each class a share is
    drawn at random for validation, as in the paper: speakers are in both. The draw of a class
    depends on ``seed`` alone, not on the other classes asked for.

    Args:
        path: the folder that holds TRAIN and TEST.
        classes: some of ``CLASSES``, numbered in this order; all 39 by default, which padded to the
            longest pause take several gigabytes: then give ``max_frames`` too.
        keep_sa: keep the sentences SA1 and SA2. They are kept by default because the paper counts
            4620 and 1680 utterances, which includes them; work on recognition mostly drops them,
            since all speakers, those of the test too, read the same two.
        valid_share: share of each class's training segments, rounded.
        seed: of the draw.
        min_frames: shorter segments are left out, before the draw.
        max_frames: longer segments are left out likewise; no limit by default.

    Raises:
        FileNotFoundError: if a folder, the PHN files or the audio of one is missing.
        ModuleNotFoundError: for RIFF files without the extra ``audio``.
        ValueError: for a file that is not as above, an unknown class, a class without segments in
            one of the three splits, or limits that make no sense.
    """
    path, classes = Path(path), checked_classes(classes, CLASSES)
    if not 0 < valid_share < 1:
        raise ValueError(mismatch("valid_share", given=valid_share, expected="0 < share < 1"))
    check_limits(min_frames, max_frames)

    def of(name: str) -> list[list[Tensor]]:
        folder, found = _folder(path, name), [[] for _ in classes]
        for file in _transcripts(folder, keep_sa):
            for phone, frames in _segments(file):
                if phone in classes and min_frames <= len(frames) <= (max_frames or len(frames)):
                    found[classes.index(phone)].append(frames)
        return found

    train, valid = [], []
    for name, segments in zip(classes, of("train"), strict=True):
        generator = torch.Generator().manual_seed(seed * len(CLASSES) + CLASSES.index(name))
        order = torch.randperm(len(segments), generator=generator).tolist()
        drawn = set(order[:round(valid_share * len(segments))])
        valid.append([segment for i, segment in enumerate(segments) if i in drawn])
        train.append([segment for i, segment in enumerate(segments) if i not in drawn])
    splits = zip(SPLITS, (train, valid, of("test")), strict=True)
    data = LabelledData("timit", classes, **{split: _padded(found) for split, found in splits})
    return with_every_class(data, str(path))


def checked_classes(classes: Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """Return the classes asked for, all known ones for None.

    Raises:
        ValueError: for an unknown one, one named twice, or none.
    """
    classes = tuple(known if classes is None else classes)
    for name in classes:
        if name not in known:
            raise ValueError(unknown("class", given=name, known=known))
    if not classes or len(set(classes)) < len(classes):
        raise ValueError(mismatch("classes", given=classes, expected="at least one, each once"))
    return classes


def check_limits(min_frames: int, max_frames: int | None) -> None:
    """Refuse limits that no segment can meet.

    Raises:
        ValueError: unless 1 <= min_frames <= max_frames.
    """
    if min_frames < 1 or (max_frames is not None and max_frames < min_frames):
        raise ValueError(mismatch("frames", given=f"{min_frames} to {max_frames}",
                                  expected="1 <= min_frames <= max_frames"))


def with_every_class(data: LabelledData, where: str) -> LabelledData:
    """Return the data, if no class lacks a sequence in one of the splits.

    Raises:
        ValueError: for the first class that does.
    """
    for split in SPLITS:
        counts = getattr(data, split).labels.bincount(minlength=len(data.classes))
        for name, count in zip(data.classes, counts.tolist(), strict=True):
            if count == 0:
                raise ValueError(f"{where}: class {name} has no sequence in {split}; leave it out "
                                 "of classes, or relax min_frames and max_frames")
    return data


def _folder(path: Path, name: str) -> Path:
    if not path.is_dir():
        raise FileNotFoundError(f"folder {path} is missing; expected one with TRAIN and TEST")
    for folder in sorted(path.iterdir()):
        if folder.is_dir() and folder.name.lower() == name:
            return folder
    deeper = [child for child in sorted(path.iterdir()) if any(child.glob("[Tt][Rr][Aa][Ii][Nn]"))]
    hint = f"; did you mean {deeper[0]}?" if deeper else ""
    raise FileNotFoundError(f"folder {path} has no folder {name.upper()}{hint}")


def _transcripts(folder: Path, keep_sa: bool) -> list[Path]:
    """Return the PHN files in one order, whatever the case of their names."""
    files = [p for p in folder.glob("*/*/*") if p.suffix.lower() == ".phn"
             and (keep_sa or not p.stem.lower().startswith("sa"))]
    if not files:
        raise FileNotFoundError(f"folder {folder} has no PHN file at dialect/speaker/SENTENCE.PHN")
    return sorted(files, key=lambda p: p.relative_to(folder).as_posix().lower())


def _segments(transcript: Path) -> list[tuple[str, Tensor]]:
    """Return class and frames of each phone of one utterance but ``q``."""
    signal = _signal(transcript)
    frames, found = features(signal, SAMPLE_RATE), []
    for number, line in enumerate(transcript.read_text(encoding="ascii").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            begin, end, symbol = line.split()
            begin, end = int(begin), int(end)
        except ValueError:
            raise ValueError(mismatch(f"{transcript}, line {number}", given=repr(line),
                                      expected="begin end symbol, in samples")) from None
        if symbol.lower() not in CLASS_OF:
            raise ValueError(f"{transcript}, line {number}: "
                             + unknown("symbol", given=symbol, known=CLASS_OF))
        if not 0 <= begin <= end <= len(signal) + _OVERHANG:
            raise ValueError(mismatch(f"{transcript}, line {number}", given=f"{begin} to {end}",
                                      expected=f"0 <= begin <= end <= {len(signal)} samples"))
        phone = CLASS_OF[symbol.lower()]
        if phone is not None:
            found.append((phone, frames[_first_centre(begin):_first_centre(end)]))
    return found


def _first_centre(sample: int) -> int:
    """Return the first frame whose centre is not before a sample."""
    return max(0, -((_WINDOW // 2 - sample) // _SHIFT))


def _signal(transcript: Path) -> Tensor:  # float32, shape: (n,)
    names = [f"{transcript.stem.lower()}.wav{more}" for more in ("", ".wav")]
    beside = {p.name.lower(): p for p in transcript.parent.iterdir()}
    for name in names:
        if name in beside:
            with beside[name].open("rb") as file:
                sphere = file.read(7) == b"NIST_1A"
            return (_read_sphere if sphere else read_audio)(beside[name])
    raise FileNotFoundError(f"{transcript} has no audio beside it; expected "
                            f"{transcript.with_suffix('.WAV').name}")


def _read_sphere(path: Path) -> Tensor:  # float32, shape: (n,)
    """Read 16 bit samples behind a SPHERE header, its length in bytes on its second line."""
    content = path.read_bytes()
    try:
        size = int(content[8:16])
        lines = content[16:size].decode("ascii").partition("end_head")[0].splitlines()
        parts = [line.split(None, 2) for line in lines]
        fields = {part[0]: part[2].strip() for part in parts if len(part) == 3}
        available = (len(content) - size) // 2
        count = int(fields.get("sample_count", available))
    except ValueError as error:
        raise ValueError(f"{path} has no SPHERE header that can be read ({error})") from None
    for name, expected in _SPHERE.items():
        given = fields.get(name, expected)
        if given != expected:
            raise ValueError(mismatch(f"{path}: {name}", given=given, expected=expected,
                                      hint="Convert it to plain 16 bit wav first."))
    if not 0 < count <= available:
        raise ValueError(mismatch(str(path), given=f"{available} samples",
                                  expected=f"{count}, as its header says, and at least 1"))
    samples = np.frombuffer(content, "<i2", count=count, offset=size)
    return torch.from_numpy(samples.astype(np.float32) / 32768)


def _padded(found: list[list[Tensor]]) -> LabelledSequences:
    pieces = [segment for segments in found for segment in segments]
    labels = torch.arange(len(found)).repeat_interleave(torch.tensor([len(s) for s in found]))
    x = pad_sequence(pieces, batch_first=True) if pieces else torch.zeros(0, 1, NUM_FEATURES)
    lengths = torch.tensor([len(segment) for segment in pieces], dtype=torch.long)
    return LabelledSequences(x, lengths, labels)
