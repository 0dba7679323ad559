"""Songs as stems that add up: one file for each part of a song."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyromodels.errors import SpecError, mismatch
from pyromodels.experiments.datasets import DATASETS
from pyromodels.experiments.datasets.mixtures.mixtures import Mixture, MixtureData, list_entries
from pyromodels.experiments.datasets.speech.audio import read_audio
from pyromodels.experiments.datasets.speech.recordings import SPLITS, SpeechData


@DATASETS.register("stem_list")
def load_stem_list(path: str | Path, most: int = 0) -> MixtureData:
    """Pieces of songs that a JSON list names, each song as one file for each kind of stem.

    The list, [{"id": ..., "song": ..., "offset": sample, "n": samples}, ...], lies beside the
    folders train, valid and test, and a song is the files SONG_KIND.flac (or wav) of one of them:
    kinds of sources are what the names of files end with. A mixture is the sum of its stems.

    Args:
        path: the JSON list.
        most: take the first so many entries; 0: all.

    Raises:
        FileNotFoundError: for a list, or one of the three folders, that is not there.
        ValueError: for a kind that a split has no stem of.
        SpecError: for a list that does not say all of this, or songs whose stems do not fit it.
    """
    path = Path(path)
    entries = list_entries(path)[: most or None]
    stems = {split: _stems(path.parent / split) for split in SPLITS}
    kinds = sorted({kind for songs in stems.values() for files in songs.values() for kind in files})
    if len(kinds) < 2:
        given = ", ".join(kinds) or "none"
        raise SpecError(mismatch(f"stems beside {path}", given=given, expected="two or more kinds"))
    recordings = {
        kind: SpeechData(kind, **{
            split: tuple(files[kind] for files in songs.values() if kind in files)
            for split, songs in stems.items()
        }) for kind in kinds
    }
    known = {song: files for songs in stems.values() for song, files in songs.items()}
    read = cache(read_audio)  # pieces of a song follow each other
    mixtures = tuple(_mixture(path, entry, known, kinds, read) for entry in entries)
    return MixtureData(path.stem, recordings, mixtures, as_recorded=True)


def _stems(folder: Path) -> dict[str, dict[str, Path]]:
    """Return song -> kind -> file."""
    if not folder.is_dir():
        raise FileNotFoundError(f"folder {folder} is missing; expected files SONG_KIND.flac")
    found: dict[str, dict[str, Path]] = {}
    for file in sorted(folder.iterdir()):
        song, _, kind = file.stem.rpartition("_")
        if song and file.suffix.lower() in (".flac", ".wav"):
            found.setdefault(song, {})[kind] = file
    return found


def _mixture(
    path: Path,
    entry: dict[str, Any],
    songs: dict[str, dict[str, Path]],
    kinds: Sequence[str],
    read: Callable[[Path], Tensor],
) -> Mixture:
    if missing := {"song", "offset", "n"} - entry.keys():
        given = f"an entry without {sorted(missing)[0]!r}: {', '.join(entry)}"
        raise SpecError(mismatch(str(path), given=given, expected="song, offset and n"))
    song, offset, length = entry["song"], entry["offset"], entry["n"]
    files = songs.get(song, {})
    if missing := set(kinds) - files.keys():
        given = f"song {song!r} without {', '.join(sorted(missing))}"
        expected = f"a file for each of {', '.join(kinds)}, in train, valid or test"
        raise SpecError(mismatch(str(path), given=given, expected=expected))
    parts = [read(files[kind])[offset : offset + length] for kind in kinds]
    if short := [kind for kind, part in zip(kinds, parts, strict=True) if len(part) != length]:
        given = f"{files[short[0]].name} without {length} samples from {offset}"
        raise SpecError(mismatch(str(path), given=given, expected="pieces within their song"))
    name = str(entry.get("id", f"{song}_{offset}"))
    return Mixture(name, torch.stack(parts), group=song)
