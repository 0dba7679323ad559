"""Sound files of your own to be taken apart: nobody knows their sources."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from pyromodels.errors import SpecError, mismatch
from pyromodels.experiments.datasets import DATASETS
from pyromodels.experiments.datasets.mixtures.mixtures import Mixture, MixtureData
from pyromodels.experiments.datasets.speech.audio import conversion, read_audio
from pyromodels.experiments.datasets.speech.recordings import load_training_folder

SUFFIXES = (".wav", ".flac", ".ogg")


@DATASETS.register("mixture_files")
def load_mixture_files(
    path: str | Path, kinds: tuple[str, ...], recordings: str | Path | None = None
) -> MixtureData:
    """Sound files of your own, 16 kHz mono or converted to it; their sources are unknown.

    What is converted is said on stderr, a line a file. The level stays as it is.

    Args:
        path: a file, or a folder whose wav, flac and ogg files are taken.
        kinds: of sources, in their order.
        recordings: a folder with a folder for each kind, with the folders train and valid: what
            priors and networks are trained on. None: all of them come trained.

    Raises:
        FileNotFoundError: for a file or folder that is not there, or has no sound.
        ValueError: for a file that cannot be read, or is silent.
        SpecError: for fewer than two kinds, or one twice.
    """
    if len(set(kinds)) != len(kinds) or len(kinds) < 2:
        given = ", ".join(kinds) or "none"
        raise SpecError(mismatch("kinds", given=given, expected="two or more, each once"))
    files = sound_files(path)
    known = {
        kind: None if recordings is None else load_training_folder(Path(recordings) / kind)
        for kind in kinds
    }
    times = Counter(file.stem for file in files)
    mixtures = tuple(
        _heard(file, file.stem if times[file.stem] == 1 else file.name) for file in files
    )
    return MixtureData(Path(path).name, known, mixtures)


def sound_files(path: str | Path) -> list[Path]:
    """Return a file, or the sound files of a folder, each of which has the header of one.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: for a file that cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        found = [path]
    else:
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    if not found:
        raise FileNotFoundError(f"folder {path} has no {', '.join(SUFFIXES)} file")
    for file in found:
        conversion(file)
    return found


def _heard(path: Path, name: str) -> Mixture:
    signal = read_audio(path)
    if not signal.any():
        raise ValueError(mismatch(str(path), given="digital silence", expected="a sound"))
    if done := conversion(path):
        print(f"{path.name}: {done}", file=sys.stderr)
    return Mixture(name, None, signal)
