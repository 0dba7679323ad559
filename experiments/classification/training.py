"""Trained banks on disk: made once, found again where the same training has made them."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pyromodels.dynamics.autoregressive import Autoregressive
from pyromodels.experiments.classification.data import Problem
from pyromodels.experiments.classification.table_models import Variant
from pyromodels.experiments.harness.weights import read_prior, save_prior
from pyromodels.inference.classes.fit import ClassOptions, fit_classes
from pyromodels.inference.training.checkpoint import remove_checkpoints
from pyromodels.inference.training.seeding import seed_all
from pyromodels.registry import DYNAMICS


class TrainedBank(NamedTuple):
    """The densities of the classes, and the record of their training."""

    bank: Autoregressive
    record: dict[str, Any]


def train_bank(
    variant: Variant,
    options: ClassOptions,
    problem: Problem,
    folder: Path,
    *,
    device: str = "cpu",
    resume: bool = False,
    on_look: Callable[[dict[str, Any]], None] | None = None,
) -> TrainedBank:
    """Return the bank of a folder, trained now unless the same training has made it before.

    It writes `weights.safetensors`, its JSON and, meanwhile, the checkpoints.
    """
    data = problem.data
    spec = variant.spec(data.dim, len(data.classes))
    question = {
        "options": dataclasses.asdict(options),
        "data": {"name": data.name, "classes": list(data.classes),
                 "train": data.train.digest(), "valid": data.valid.digest()},
    }
    weights = folder / "weights.safetensors"
    if finished(weights, spec, question):
        bank, record = read_prior(weights, weights.with_suffix(".json"))
        return TrainedBank(bank.to(device), record)
    seed_all(options.seed)
    bank = DYNAMICS.build(spec).to(device)
    fit = fit_classes(
        bank, data.train.to(device), data.valid.to(device), options,
        folder=folder / "checkpoints", resume=resume, on_look=on_look,
    )
    record = {
        **question,
        "best_update": fit.best_update,
        "valid_nats_per_frame": [-loss for loss in fit.best_loss],
        "stopped": fit.stopped,
        "parameters": sum(p.numel() for p in bank.parameters()),
    }
    save_prior(weights, bank, spec, record)
    remove_checkpoints(folder / "checkpoints")
    return TrainedBank(bank.eval(), {"prior": spec, **record})


def finished(weights: Path, spec: dict[str, Any], question: dict[str, Any]) -> bool:
    """Whether a folder holds the weights of this very training."""
    if not (weights.is_file() and weights.with_suffix(".json").is_file()):
        return False
    record = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    asked = json.loads(json.dumps({"prior": spec, **question}))
    return all(record.get(key) == value for key, value in asked.items())
