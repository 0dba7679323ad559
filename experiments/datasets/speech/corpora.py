"""A corpus of speech-like signals that is made, and the test files of any corpus that count."""

import json
from dataclasses import replace
from pathlib import Path

from pyromodels.errors import SpecError, mismatch
from pyromodels.experiments.datasets import DATASETS
from pyromodels.experiments.datasets.speech.audio import write_wav
from pyromodels.experiments.datasets.speech.recordings import SpeechData, load_speech_folder
from pyromodels.experiments.datasets.speech.synthesis import synthesise
from pyromodels.experiments.harness.records import runs_folder
from pyromodels.inference.training import distributed


@DATASETS.register("synthetic_speech")
def synthetic_speech(
    num_train: int = 96, num_valid: int = 12, num_test: int = 12, seconds: float = 2.4
) -> SpeechData:
    """Speech-like signals of a source-filter synthesiser; figures say nothing about speech.

    They are written as wav files once, below the folder of runs, and read like recordings. Test
    speakers occur in no other split.

    Args:
        num_train, num_valid, num_test: utterances of the splits.
        seconds: of an utterance.
    """
    counts = {"train": num_train, "valid": num_valid, "test": num_test}
    sizes = "-".join(map(str, counts.values()))
    folder = runs_folder() / "synthetic-speech" / f"{sizes}-{seconds:g}s"
    if distributed.is_first():
        write_synthetic_speech(folder, counts, seconds)
    folder = distributed.from_first(folder)  # the others wait for the first
    return replace(load_speech_folder(folder), name="synthetic-speech")


def write_synthetic_speech(folder: Path, counts: dict[str, int], seconds: float) -> None:
    """Write the utterances of every split as wav files, where they are not there."""
    for number, (split, count) in enumerate(counts.items()):
        place = folder / split
        place.mkdir(parents=True, exist_ok=True)
        if len(list(place.glob("*.wav"))) == count:
            continue
        for i, utterance in enumerate(synthesise(count, seconds, seed=number)):
            write_wav(place / f"speaker{utterance.speaker}-{i:03d}.wav", utterance.signal)


def with_tests(data: SpeechData, chosen: str | Path | None) -> SpeechData:
    """Return a corpus with those test files only that a JSON list of file names has; None: all.

    Raises:
        SpecError: where the list is none, or names a file that is not in the test split.
    """
    if chosen is None:
        return data
    names = json.loads(Path(chosen).read_text(encoding="utf-8"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SpecError(mismatch(str(chosen), given="something else", expected="a list of names"))
    wanted = {Path(name).stem for name in names}
    if missing := wanted - {file.stem for file in data.test}:
        raise SpecError(f"{chosen}: {sorted(missing)[0]} is no test file of {data.name}")
    return replace(data, test=tuple(file for file in data.test if file.stem in wanted))
