"""Corpora of speech as named splits of files: WSJ0, VoiceBank, or a folder of your own.

Pre-processing is that of the thesis, section 7.4.1: both ends trimmed at 30 dB below the loudest
frame, peak 1, power of a short-time Fourier transform. Nothing is read before it is asked for.

Sources: WSJ0 (LDC93S6A, licensed by the Linguistic Data Consortium); VoiceBank, "Noisy speech
database for training speech enhancement algorithms and TTS models", C. Valentini-Botinhao,
University of Edinburgh, 2017, CC BY 4.0. Neither is shipped.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pyromodels.audio.stft import STFT
from pyromodels.errors import mismatch, unknown
from pyromodels.experiments.datasets import DATASETS
from pyromodels.experiments.datasets.speech.audio import (
    peak_normalise,
    read_audio,
    segments,
    trim_silence,
)

SPLITS = ("train", "valid", "test")
VOICEBANK_VALIDATION = ("p226", "p287")

_SUFFIXES = (".flac", ".wav")


class Utterance(NamedTuple):
    """One file that was read: trimmed, its level as recorded."""

    name: str
    signal: Tensor                    # float32, shape: (n,), 16 kHz


@dataclass(frozen=True)
class SpeechData:
    """Files of one corpus; each split is sorted and has at least one file.

    Raises:
        ValueError: for an empty split.
    """

    name: str
    train: tuple[Path, ...]
    valid: tuple[Path, ...]
    test: tuple[Path, ...]

    def __post_init__(self) -> None:
        """Refuse an empty split here, where the corpus is still known."""
        empty = [split for split in SPLITS if not getattr(self, split)]
        if empty:
            raise ValueError(f"{self.name}: no file in {', '.join(empty)}; each of "
                             f"{', '.join(SPLITS)} needs one")

    @property
    def fingerprint(self) -> str:
        """Sixteen digits; others where a file was added, removed, renamed, or changed in size."""
        listed = [[(f.name, f.stat().st_size) for f in self.files(split)] for split in SPLITS]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]

    def files(self, split: str) -> tuple[Path, ...]:
        """Return the files of ``train``, ``valid`` or ``test``."""
        if split not in SPLITS:
            raise ValueError(f"{self.name}: {unknown('split', given=split, known=SPLITS)}")
        return getattr(self, split)

    def part(self, fraction: float, seed: int) -> "SpeechData":
        """Return the data with a share of the training files, at least one, chosen at random.

        A smaller part of the same seed lies within a larger one.
        """
        if fraction == 1:
            return self
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.train), generator=generator).tolist()
        kept = sorted(order[: max(1, round(fraction * len(order)))])
        return replace(self, train=tuple(self.train[i] for i in kept))

    def named(self, pattern: str) -> "SpeechData":
        """Return the data with those files of train and valid whose names match a pattern.

        Raises:
            ValueError: for a pattern that one of the two has no file of.
        """
        if pattern == "*":
            return self
        train, valid = (tuple(file for file in files if fnmatch(file.name, pattern))
                        for files in (self.train, self.valid))
        if not (train and valid):
            expected = f"a pattern of files in {'valid' if train else 'train'}"
            raise ValueError(
                mismatch(f"files of {self.name}", given=repr(pattern), expected=expected)
            )
        return replace(self, train=train, valid=valid)

    def utterances(self, split: str, *, threshold_db: float = 30.0) -> Iterator[Utterance]:
        """Read one file after the other and trim its ends; see ``trim_silence``."""
        for path in self.files(split):
            yield Utterance(path.stem, trim_silence(read_audio(path), threshold_db=threshold_db))


@DATASETS.register("speech_folder")
def load_speech_folder(path: str | Path, *, may_lack_valid: bool = False) -> SpeechData:
    """Find wav and flac files in the folders train, valid and test of ``path``, at any depth.

    If it has none of the three, the files directly in it are sorted by name and cut in that order:
    the last tenth, rounded up, is the test split, the tenth before it the validation split. So
    names that start alike, often one speaker's, mostly stay together; that no speaker is in two
    splits is not certain.

    Args:
        path: the folder.
        may_lack_valid: take the training files for validation where there is no folder valid; of
            noise there are few recordings.

    Raises:
        FileNotFoundError: if the folder, one of the three, or the audio is missing.
        ValueError: for fewer than three files without split folders.
    """
    path = Path(path)
    present = [split for split in SPLITS if (path / split).is_dir()]
    if present:
        folders = {split: split for split in SPLITS}
        if may_lack_valid and "valid" not in present:
            folders["valid"] = "train"
        found = {split: _audio(path / folder, "**/*") for split, folder in folders.items()}
        return SpeechData(path.resolve().name, **found)
    files = _audio(path, "*")
    tenth = math.ceil(len(files) / 10)
    if len(files) < len(SPLITS):
        raise ValueError(mismatch(str(path), given=f"{len(files)} files", expected="at least 3, to "
                                  f"split, or folders {', '.join(SPLITS)}"))
    return SpeechData(path.resolve().name, files[:-2 * tenth], files[-2 * tenth:-tenth],
                      files[-tenth:])


def load_training_folder(path: str | Path) -> SpeechData:
    """Find what `load_speech_folder` does, but that the folder test may be missing.

    Its place is then taken by the files of valid: nothing is judged on them.

    Raises:
        FileNotFoundError, ValueError: as `load_speech_folder`.
    """
    path = Path(path)
    if not (path / "train").is_dir() or (path / "test").is_dir():
        return load_speech_folder(path)
    train, valid = (_audio(path / split, "**/*") for split in ("train", "valid"))
    return SpeechData(path.resolve().name, train, valid, valid)


@DATASETS.register("wsj0")
def load_wsj0(path: str | Path) -> SpeechData:
    """Find the speakers' wav files in si_tr_s, si_dt_05 and si_et_05 of ``path``.

    The thesis counts 12,765, 1,026 and 651 utterances for training, validation and test.

    Raises:
        FileNotFoundError: if one of the three, or its audio, is missing.
    """
    hint = "Original .wv1 files must be converted to wav first."
    folders = zip(SPLITS, ("si_tr_s", "si_dt_05", "si_et_05"), strict=True)
    return SpeechData("wsj0", **{s: _audio(Path(path) / f, "*/*", hint) for s, f in folders})


@DATASETS.register("voicebank")
def load_voicebank(path: str | Path) -> SpeechData:
    """Find clean_trainset_28spk_wav and clean_testset_wav in ``path``; p226 and p287 validate.

    The thesis counts 770 utterances of these two speakers, and 824 for test.

    Raises:
        FileNotFoundError: if one of the two folders, its audio, or a validation speaker is missing.
    """
    folder = Path(path) / "clean_trainset_28spk_wav"
    clean = _audio(folder, "*")
    speakers = [file.name.partition("_")[0] for file in clean]
    missing = [speaker for speaker in VOICEBANK_VALIDATION if speaker not in speakers]
    if missing:
        raise FileNotFoundError(f"{folder} has no file {missing[0]}_*; expected the validation "
                                f"speakers {' and '.join(VOICEBANK_VALIDATION)}")
    pairs = list(zip(clean, speakers, strict=True))
    return SpeechData(
        "voicebank",
        train=tuple(file for file, speaker in pairs if speaker not in VOICEBANK_VALIDATION),
        valid=tuple(file for file, speaker in pairs if speaker in VOICEBANK_VALIDATION),
        test=_audio(Path(path) / "clean_testset_wav", "*"),
    )


def power_segments(
    data: SpeechData,
    split: str,
    num_frames: int,
    stft: STFT,
    *,
    floor: float = 0.0,
) -> Tensor:                          # float32, shape: (S, T, F)
    """Return the power spectrograms of all segments of a split, in the order of its files.

    Files are trimmed whole; each segment is scaled to a peak of 1 after it is cut (``segments``).

    Args:
        data: the corpus.
        split: which of its splits.
        num_frames: frames T of a segment.
        stft: the transform.
        floor: smallest power kept; a smaller one is raised to it. As published there is none, and
            most recordings need none. But digital silence has power 0, whose logarithm is infinite,
            and a frame of it occurs in edited recordings. Powers of speech at 16 bits begin near
            1e-13, so 1e-10 also raises a few bins that are not silent.

    Raises:
        ValueError: if a power is 0 and ``floor`` is 0, or no file is long enough; it names both.
    """
    parts = [
        _power(data, u.name, segments(u.signal, num_frames, stft), stft, floor)
        for u in data.utterances(split)
    ]
    found = torch.cat(parts)
    if len(found) == 0:
        raise ValueError(f"{data.name}: none of the {len(parts)} files of {split} has num_frames="
                         f"{num_frames} frames of hop {stft.hop}; give fewer")
    return found


def padded_segments(
    data: SpeechData,
    split: str,
    num_frames: int,
    stft: STFT,
    *,
    shortest: int,
    floor: float = 0.0,
) -> tuple[Tensor, Tensor]:           # float32, shape: (S, T, F); bool, shape: (S, T)
    """Return power spectrograms of all pieces, the last of each file too, and where frames are.

    As ``power_segments``, but that the rest of a file is kept and padded with zeros if it has
    ``shortest`` frames: long segments would otherwise leave out every short utterance.

    Raises:
        ValueError: as ``power_segments``, or for ``shortest`` outside 2 ... ``num_frames``.
    """
    if not 2 <= shortest <= num_frames:
        raise ValueError(mismatch("shortest", given=shortest, expected=f"2 to {num_frames}"))
    length, parts = stft.num_samples(num_frames), []
    for utterance in data.utterances(split):
        for piece in utterance.signal.split(length):
            if stft.num_frames(len(piece)) >= shortest:
                parts.append(_power(data, utterance.name, peak_normalise(piece), stft, floor))
    if not parts:
        raise ValueError(f"{data.name}: no file of {split} has {shortest} frames of hop {stft.hop}")
    counts = torch.tensor([len(part) for part in parts])
    return pad_sequence(parts, batch_first=True), torch.arange(counts.max()) < counts[:, None]


def _power(data: SpeechData, name: str, signals: Tensor, stft: STFT, floor: float) -> Tensor:
    power = stft.analyse(signals).abs().square()
    silent = int((power == 0).sum())
    if silent and not floor > 0:
        raise ValueError(f"{data.name}: {name} has {silent} time-frequency bins of "
                         "power 0 (digital silence), whose logarithm is infinite; give a "
                         "floor such as 1e-10, or remove the file")
    return power.clamp_min(floor)


def _audio(folder: Path, pattern: str, hint: str = "") -> tuple[Path, ...]:
    if not folder.is_dir():
        raise FileNotFoundError(f"folder {folder} is missing")
    files = tuple(sorted(p for p in folder.glob(pattern) if p.suffix.lower() in _SUFFIXES))
    if not files:
        raise FileNotFoundError(
            f"folder {folder} has no wav or flac file at {pattern}. {hint}".rstrip()
        )
    return files
