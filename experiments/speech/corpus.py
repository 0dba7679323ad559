"""Where the speech comes from: a corpus on disk, or the synthesiser."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from pyromodels.errors import SpecError, mismatch
from pyromodels.experiments.datasets.speech.audio import write_wav
from pyromodels.experiments.datasets.speech.recordings import (
    SpeechData,
    Utterance,
    load_speech_folder,
    load_voicebank,
    load_wsj0,
)
from pyromodels.experiments.datasets.speech.synthesis import synthesise
from pyromodels.inference.training import distributed

LAYOUTS: dict[str, Callable[[Path], SpeechData]] = {
    "folder": load_speech_folder,
    "wsj0": load_wsj0,
    "voicebank": load_voicebank,
}
SYNTHETIC = {"train": 96, "valid": 12, "test": 12}
"""Utterances of the synthesiser in each split; test speakers occur in no other."""
SYNTHETIC_SECONDS = 2.4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that choose the data."""
    parser.add_argument(
        "--data", type=Path, metavar="DIR",
        help="recordings; without it, speech-like signals of a source-filter synthesiser",
    )
    parser.add_argument("--layout", choices=tuple(LAYOUTS), default="folder", help="of --data")
    parser.add_argument(
        "--utterances", type=Path, metavar="JSON",
        help="a list of the names of the test files that count; default: all of them",
    )


def load_corpus(args: argparse.Namespace, folder: Path) -> SpeechData:
    """Return the data asked for; synthetic ones are written to `folder` first, once."""
    if args.data is not None:
        return LAYOUTS[args.layout](args.data)
    place = folder / "synthetic-speech"
    if distributed.is_first():
        write_synthetic_speech(place)
    return load_speech_folder(distributed.from_first(place))  # the others wait for the first


def write_synthetic_speech(folder: Path) -> None:
    """Write the synthesiser's utterances as wav files, where they are not there."""
    for number, (split, count) in enumerate(SYNTHETIC.items()):
        place = folder / split
        place.mkdir(parents=True, exist_ok=True)
        if len(list(place.glob("*.wav"))) == count:
            continue
        for i, utterance in enumerate(synthesise(count, SYNTHETIC_SECONDS, seed=number)):
            write_wav(place / f"speaker{utterance.speaker}-{i:03d}.wav", utterance.signal)


def test_utterances(data: SpeechData, chosen: Path | None = None) -> list[Utterance]:
    """Return the trimmed test utterances, those of a list of file names where one is given.

    Raises:
        SpecError: where the list is none, or names a file that is not in the test split.
    """
    if chosen is None:
        return list(data.utterances("test"))
    names = json.loads(chosen.read_text(encoding="utf-8"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SpecError(mismatch(str(chosen), given="something else", expected="a list of names"))
    wanted = {Path(name).stem for name in names}
    found = [u for u in data.utterances("test") if u.name in wanted]
    if missing := wanted - {u.name for u in found}:
        raise SpecError(f"{chosen}: {sorted(missing)[0]} is no test file of {data.name}")
    return found
