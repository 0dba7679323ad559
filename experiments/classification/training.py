"""Training of the densities of classes, or finding them trained."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pyromodels.dynamics.autoregressive import Autoregressive
from pyromodels.experiments.datasets.labelled.problem import LabelledData
from pyromodels.experiments.harness.store import History, MadeBy, Trained, find_or_train
from pyromodels.inference.classes.fit import ClassOptions, fit_classes


class ClassTraining(NamedTuple):
    """A training with all numbers said.

    Args:
        prior: the registry's spec of the densities of all classes.
        options: how they are trained, the seed included.
    """

    prior: dict[str, Any]
    options: ClassOptions

    def made_by(self, data: LabelledData) -> MadeBy:
        """Return what determines the weights, for the store."""
        return {
            "prior": self.prior,
            "options": dataclasses.asdict(self.options),
            "data": {"name": data.name, "classes": list(data.classes),
                     "train": data.train.digest(), "valid": data.valid.digest()},
        }

    def find_or_train(
        self,
        data: LabelledData,
        *,
        device: str | torch.device = "cpu",
        resume: bool = False,
        on_look: Callable[[dict[str, Any]], None] | None = None,
    ) -> Trained:
        """Return the densities, from the store or trained into it now."""

        def train(bank: Autoregressive, checkpoints: Path) -> tuple[dict[str, Any], History]:
            fit = fit_classes(
                bank, data.train.to(device), data.valid.to(device), self.options,
                folder=checkpoints, resume=resume, on_look=on_look,
            )
            return {
                "best_update": fit.best_update,
                "valid_nats_per_frame": [-loss for loss in fit.best_loss],
                "stopped": fit.stopped,
            }, fit.history

        return find_or_train(
            self.made_by(data), train, seed=self.options.seed, device=device, resume=resume
        )
