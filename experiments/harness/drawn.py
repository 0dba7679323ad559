"""Training on data that is drawn anew at every step: there is no set of it to go through."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyromodels.experiments.harness.store import History
from pyromodels.inference.training.fit import fit
from pyromodels.inference.training.options import FitOptions, Weights

Loss = Callable[[str, int], Tensor]
"""Split ("train" or "valid"), how many -> the loss of as many drawn examples, shape (n,)."""


def fit_drawn(
    module: nn.Module,
    loss: Loss,
    options: FitOptions,
    *,
    steps_per_epoch: int,
    num_checked: int,
    device: str | torch.device,
    folder: Path,
    resume: bool,
    on_epoch: Callable[[dict[str, float]], None],
) -> tuple[dict[str, Any], History]:
    """Fit a module to what its loss draws; return what came of it, and its history.

    Args:
        module: whose parameters are trained, in place.
        loss: draws from torch's global generator.
        options: how; an epoch is what lies between two looks at the validation data.
        steps_per_epoch: of the optimiser.
        num_checked: examples of a look.
        device: of the module.
        folder: of checkpoints.
        resume: go on from the last one.
        on_epoch: called with every epoch's record.
    """

    def drawn(rows: Sequence[Tensor], weights: Weights) -> Tensor:
        return loss("train" if module.training else "valid", len(rows[0]))

    train, valid = (
        torch.arange(number, device=device)
        for number in (steps_per_epoch * options.batch_size, num_checked)
    )
    result = fit(module, drawn, (train,), (valid,), options=options, folder=folder, resume=resume,
                 on_epoch=on_epoch)
    return {
        "stopped": result.stopped, "best_epoch": result.best_epoch, "best_loss": result.best_loss,
        "seconds": sum(record["seconds"] for record in result.history),
    }, result.history
