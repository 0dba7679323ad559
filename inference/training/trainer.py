"""The one loop: advance, guard, checkpoint, stop by a stated rule, show how far it is.

What is trained is a `Training`: an epoch of a network with validation (`fit`), updates of classes
side by side up to the next look at the validation data (`fit_classes`), a step of an inference
engine (`ascend`). They differ in what a turn of the loop does and in when it has settled, and in
nothing else.
"""

import json
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pyromodels.inference.training import distributed
from pyromodels.inference.training.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from pyromodels.inference.training.progress import progress

Record = dict[str, Any]
"""Plain data that say what a turn of the loop did."""


class Training(ABC):
    """Something that is trained, as it stands between two turns of the loop."""

    name: str = "training"
    """What is said to be going on."""
    unit: str
    """What `num_done` counts: "epoch", "update", "step"."""
    most: int
    """The most that are done."""
    num_done: int = 0
    """How many are."""

    def __init__(self) -> None:
        self.history: list[Record] = []  # one record a turn

    @abstractmethod
    def stopped(self) -> str | None:
        """Return which rule ends training here, or None."""

    @abstractmethod
    def advance(self) -> Record:
        """Make a turn, append its record to the history and return it.

        Raises:
            FitError: where something is not finite, naming it.
        """

    @abstractmethod
    def in_words(self, record: Record) -> str:
        """Say how far it is, for the progress bar."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors, random state included, that later turns depend on."""

    @abstractmethod
    def meta(self) -> dict[str, Any]:
        """Return the plain data that they depend on."""

    @abstractmethod
    def restore(self, found: Checkpoint) -> None:
        """Go on from a checkpoint, to the same bits.

        Raises:
            ValueError: where it was made with other options or of other data.
        """


@dataclass(frozen=True)
class Trainer:
    """Turns of a training, until one of its rules or the time ends it.

    Args:
        folder: for checkpoints and records. None: nothing is written.
        resume: go on from the last whole checkpoint in the folder, to the same bits as without the
            interruption (same machine, number of processes and of threads); start anew where there
            is none.
        checkpoint_every: turns between checkpoints; the last turn has one in any case.
        records: name of the file of records, a line a turn. None: there is none.
        max_seconds: stop before a turn that, lasting as long as the last one, would end later; one
            is always made. Counted from `run`.
        processes: several processes train together: the first decides, and writes.
        shown: whether to show how far it is.

    Raises:
        ValueError: where there is no folder to resume from.
    """

    folder: str | Path | None = None
    resume: bool = False
    checkpoint_every: int = 1
    records: str | None = None
    max_seconds: float = math.inf
    processes: bool = False
    shown: bool = True

    def __post_init__(self) -> None:
        if self.resume and self.folder is None:
            raise ValueError("resume: given no folder to resume from")

    def run(self, training: Training, on_record: Callable[[Record], None] | None = None) -> str:
        """Train; return what ended it, "time" or a rule of the training's own.

        Args:
            training: what is trained, in place.
            on_record: called with every turn's record, after its checkpoint; in the first process.
        """
        first = not self.processes or distributed.is_first()
        folder = None if self.folder is None or not first else Path(self.folder)
        found = latest_checkpoint(folder) if self.resume and folder is not None else None
        found = self._agreed(found)
        if found is not None:
            training.restore(found)
        elif folder is not None:
            remove_checkpoints(folder)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._write(folder, training)
        begin, last, turns, saved = time.monotonic(), 0.0, 0, True
        hidden = not (self.shown and first)
        with progress(
            total=training.most, initial=training.num_done, desc=training.name, unit=training.unit,
            disable=hidden,
        ) as bar:
            while True:
                late = turns and time.monotonic() - begin + last > self.max_seconds
                reason = self._agreed(training.stopped() or ("time" if late else None))
                if reason is not None:
                    break
                start = time.monotonic()
                record = training.advance()
                last, turns = time.monotonic() - start, turns + 1
                bar.update(training.num_done - bar.n)
                bar.set_postfix_str(training.in_words(record), refresh=False)
                saved = len(training.history) % self.checkpoint_every == 0
                if folder is not None and saved:
                    self._save(folder, training)
                if on_record is not None and first:
                    on_record(record)
        if folder is not None and not saved:
            self._save(folder, training)
        return reason

    def _agreed(self, value: Any) -> Any:
        """Return what the first process says."""
        return distributed.from_first(value) if self.processes else value

    def _save(self, folder: Path, training: Training) -> None:
        save_checkpoint(folder, training.num_done, training.tensors(), training.meta())
        self._write(folder, training)

    def _write(self, folder: Path, training: Training) -> None:
        """Write the records, whole or not at all."""
        if self.records is None:
            return
        part = folder / f".{self.records}.{os.getpid()}"
        lines = "".join(json.dumps(record) + "\n" for record in training.history)
        part.write_text(lines, encoding="utf-8")
        os.replace(part, folder / self.records)


def check_same_options(made: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise `ValueError` where a checkpoint was made with other options than those given."""
    for name, value in json.loads(json.dumps(given)).items():
        if made[name] != value:
            raise ValueError(
                f"checkpoint was made with {name}={made[name]}, now {value}; resume with the same "
                "options or start anew"
            )
