"""Mixtures of known sources, and recordings of each kind of source to learn it from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyromodels.errors import SpecError, mismatch
from pyromodels.experiments.datasets import DATASETS
from pyromodels.experiments.datasets.speech.audio import peak_normalise, read_audio
from pyromodels.experiments.datasets.speech.recordings import SpeechData, load_speech_folder

AS_RECORDED = "as_recorded"
"""Key of a fingerprint, beside those of the kinds."""


class Mixture(NamedTuple):
    """Sources that add up, or what was heard of sources that nobody knows."""

    name: str
    sources: Tensor | None  # shape: (N, n), 16 kHz; None: unknown
    heard: Tensor | None = None  # shape: (n,); where the sources are unknown
    group: str = ""  # e.g. the song that it is a piece of: figures are told by group as well

    @property
    def signal(self) -> Tensor:  # shape: (n,)
        """The mixture."""
        return self.heard if self.sources is None else self.sources.sum(0)


def of_one_length(mixtures: Iterable[Mixture]) -> list[tuple[Mixture, ...]]:
    """Return mixtures that are taken apart at once, those of unknown sources one at a time."""
    groups: dict[int | str, list[Mixture]] = {}
    for mixture in mixtures:
        together = mixture.name if mixture.sources is None else len(mixture.signal)
        groups.setdefault(together, []).append(mixture)
    return list(map(tuple, groups.values()))


@dataclass(frozen=True)
class MixtureData:
    """Recordings of every kind of source, and mixtures to be taken apart.

    Args:
        name: of the data.
        recordings: kind -> files to learn it from, None where there are none; the order is that of
            the sources.
        mixtures: what is taken apart, with the truth of all or of none.
        as_recorded: leave recordings as loud as they are, e.g. in their song; else each file gets a
            peak of 1.
    """

    name: str
    recordings: Mapping[str, SpeechData | None]
    mixtures: tuple[Mixture, ...]
    as_recorded: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the sources."""
        return tuple(self.recordings)

    @property
    def has_truth(self) -> bool:
        """Whether the sources of the mixtures are known."""
        return all(mixture.sources is not None for mixture in self.mixtures)

    @property
    def unheard(self) -> tuple[str, ...]:
        """Kinds without recordings: nothing can be trained on them."""
        return tuple(kind for kind, data in self.recordings.items() if data is None)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What determines the recordings that networks learn from, for the store."""
        files = {kind: data.fingerprint for kind, data in self.recordings.items()}
        return files | ({AS_RECORDED: True} if self.as_recorded else {})

    def recorded(self, split: str) -> list[Tensor]:
        """Return all recordings of every kind, one after the other; shapes (n,)."""
        def read(path: Path) -> Tensor:
            signal = read_audio(path)
            return signal if self.as_recorded else peak_normalise(signal)

        return [torch.cat([*map(read, data.files(split))]) for data in self.recordings.values()]


@DATASETS.register("mixture_list")
def load_mixture_list(
    path: str | Path,
    kinds: tuple[str, ...],
    num_frames: int = 0,
    most: int = 0,
    names: tuple[str, ...] = (),
) -> MixtureData:
    """Mixtures that a JSON list describes, made of files beside it.

    An entry of the list says of every kind, e.g. "speech", where it comes from:

        {"id": ..., "n": samples, "norm_gain": g, "speech": file, "speech_offset": sample,
         "speech_gain": g_1, "flute": file, ...}

    and the mixture is g (g_1 speech + g_2 flute + ...), of the group "noise_type" if it names one.
    The folder of each kind, with the folders train, valid and test, lies beside the list; a kind
    without valid is validated on train.

    Args:
        path: the JSON list.
        kinds: of sources, in their order.
        num_frames: take entries with this "T" only; 0: all.
        most: take the first so many of these; 0: all.
        names: take entries with these "id"s only; (): all.

    Raises:
        FileNotFoundError: for a list, or a file in it, that is not there.
        SpecError: for a list that does not say all of this, or has no such entry.
    """
    path = Path(path)
    entries = list_entries(path)
    if missing := set(names) - {str(entry.get("id")) for entry in entries}:
        given, expected = sorted(missing)[0], f"an id that {path} has"
        raise SpecError(mismatch("names", given=given, expected=expected))
    if names:
        entries = [entry for entry in entries if str(entry.get("id")) in names]
    if num_frames:
        entries = [entry for entry in entries if entry.get("T") == num_frames]
    entries = entries[: most or None]
    if not entries:
        raise SpecError(mismatch("num_frames", given=num_frames, expected=f"a T that {path} has"))
    recordings = {
        kind: load_speech_folder(path.parent / kind, may_lack_valid=True) for kind in kinds
    }
    mixtures = tuple(_mixture(path, entry, kinds) for entry in entries)
    return MixtureData(path.stem, recordings, mixtures)


def list_entries(path: Path) -> list[dict[str, Any]]:
    """Return the tables of a JSON list.

    Raises:
        FileNotFoundError: for a list that is not there.
        SpecError: for what is no JSON, or no list of tables, or empty.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; expected a JSON list of mixtures")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise SpecError(f"{path} is not JSON: {error}") from None
    tables = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    if not tables or not entries:
        given = "an empty list" if tables else "something else"
        raise SpecError(mismatch(str(path), given=given, expected="a list of tables"))
    return entries


def _mixture(path: Path, entry: dict[str, Any], kinds: tuple[str, ...]) -> Mixture:
    parts = []
    for kind in kinds:
        if missing := {kind, "n", "norm_gain"} - entry.keys():
            given = f"an entry without {sorted(missing)[0]!r}: {', '.join(entry)}"
            raise SpecError(mismatch(str(path), given=given, expected=f"n, norm_gain and {kind}"))
        first = entry.get(f"{kind}_offset", 0)
        signal = read_audio(path.parent / entry[kind])[first : first + entry["n"]]
        if len(signal) != entry["n"]:
            given = f"{entry[kind]}, {len(signal)} samples from {first}"
            raise SpecError(mismatch(str(path), given=given, expected=f"{entry['n']} samples"))
        parts.append(entry["norm_gain"] * entry.get(f"{kind}_gain", 1.0) * signal)
    name, group = str(entry.get("id", path.stem)), str(entry.get("noise_type", ""))
    return Mixture(name, torch.stack(parts), group=group)
