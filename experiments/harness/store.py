"""One store of trained weights for all tasks: a folder each, named for what made them.

What makes weights is plain data: the spec of the prior, how it is trained, and a fingerprint of the
data. The same of it finds them again, whichever command asks; anything else trains anew:

    runs/weights/srnn-3f0c6a1b27d4e895/   weights.safetensors  weights.json  history.jsonl
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pyromodels.experiments.harness.records import replacing, runs_folder
from pyromodels.experiments.harness.weights import KINDS, kind_of, read_prior, save_prior
from pyromodels.inference.training import distributed
from pyromodels.inference.training.checkpoint import remove_checkpoints
from pyromodels.inference.training.seeding import seed_all

try:
    import fcntl
except ImportError:  # Windows has none: there two commands may train the same weights at once
    fcntl = None

MadeBy = Mapping[str, Any]
"""Plain data that determines weights: their spec, "prior" or "network", and all else."""
History = list[dict[str, Any]]
"""What a training said of itself, a record a look."""


class Trained(NamedTuple):
    """Weights of the store."""

    prior: Any  # or a network
    record: dict[str, Any]  # what made them, and what came of it: "stopped" among it
    history: History
    folder: Path


Train = Callable[[Any, Path], tuple[dict[str, Any], History]]
"""Fresh prior, folder of checkpoints -> what came of it, and its history; the prior is trained."""


def place_of(made_by: MadeBy) -> Path:
    """Return the folder of the store that belongs to weights.

    Example:
        >>> place_of({"prior": {"name": "vae"}, "seed": 0}).name
        'vae-b8b26d164764cfac'
    """
    content = json.dumps(made_by, sort_keys=True).encode()
    key = hashlib.sha256(content).hexdigest()[:16]
    return runs_folder() / "weights" / f"{made_by[kind_of(made_by)]['name']}-{key}"


def find(made_by: MadeBy, folder: Path | None = None) -> Trained | None:
    """Return the weights that this has made, None where they are not there.

    The record is compared in full: of a folder that was given, the name says nothing.

    Raises:
        SpecError: the weights are there and do not fit their own record.
    """
    folder = folder or place_of(made_by)
    record = folder / "weights.json"
    if not (record.is_file() and record.with_suffix(".safetensors").is_file()):
        return None
    record = json.loads(record.read_text(encoding="utf-8"))
    asked = json.loads(json.dumps(made_by))
    if any(record.get(key) != value for key, value in asked.items()):
        return None
    prior, record = read_prior(folder, kind_of(made_by))
    lines = folder / "history.jsonl"
    text = lines.read_text(encoding="utf-8") if lines.is_file() else ""
    return Trained(prior, record, [json.loads(line) for line in text.splitlines()], folder)


def find_or_train(
    made_by: MadeBy,
    train: Train,
    *,
    seed: int,
    device: str | torch.device = "cpu",
    resume: bool = False,
    folder: Path | None = None,
) -> Trained:
    """Return weights, trained now unless the same has made them before.

    Of several processes all call this with the same arguments; the first one writes. Two commands
    that ask for the same weights share their training: one trains, the other waits and finds them.

    Args:
        made_by: what determines the weights, the seed and a fingerprint of the data included.
        train: trains a fresh prior in place.
        seed: of the fresh prior's weights, and of all that `train` draws.
        device: of the prior.
        resume: go on with weights whose training ran out of time.
        folder: in place of the store's own.
    """
    folder = folder or place_of(made_by)

    def found() -> Trained | None:
        made = distributed.from_first(find(made_by, folder) if distributed.is_first() else None)
        if made is None or (resume and made.record.get("stopped") == "time"):
            return None
        return made._replace(prior=made.prior.to(device))

    if made := found():
        return made
    with _locked(folder):
        return found() or _trained(made_by, train, seed, device, folder)


def _trained(
    made_by: MadeBy, train: Train, seed: int, device: str | torch.device, folder: Path
) -> Trained:
    """Train fresh weights into a folder."""
    seed_all(seed)
    kind = kind_of(made_by)
    prior = KINDS[kind].build(made_by[kind]).to(device)
    checkpoints = folder / "checkpoints"
    came_of_it, history = train(prior, checkpoints)
    num_parameters = sum(p.numel() for p in prior.parameters() if p.requires_grad)
    record = {**made_by, "parameters": num_parameters, **came_of_it}
    if distributed.is_first():
        save_prior(folder / "weights.safetensors", prior, made_by[kind], record)
        with replacing(folder / "history.jsonl") as part:
            part.write_text("".join(f"{json.dumps(r)}\n" for r in history), encoding="utf-8")
        if came_of_it.get("stopped") != "time":
            remove_checkpoints(checkpoints)
    return Trained(prior.eval(), json.loads(json.dumps(record)), history, folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Be the only command that trains into a folder; wait for another one. A crash unlocks."""
    if fcntl is None or not distributed.is_first():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting: another process trains {folder}", file=sys.stderr, flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
