"""Fit a network: Adam on minibatches, early stopping, checkpoints, exact resumption."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch import nn

from pyromodels.inference.training import distributed
from pyromodels.inference.training.epochs import Data, EpochTraining, LossFunction
from pyromodels.inference.training.finite import FitError as FitError
from pyromodels.inference.training.options import FitOptions
from pyromodels.inference.training.trainer import Trainer


class FitResult(NamedTuple):
    """What came of training; the module holds the parameters of `best_epoch`."""

    best_epoch: int
    best_loss: float  # validation
    history: list[dict[str, float]]  # one record an epoch, as in metrics.jsonl
    stopped: str  # "epochs", "patience" or "time"


def fit(
    module: nn.Module,
    loss_function: LossFunction,
    train: Data,
    valid: Data,
    *,
    options: FitOptions,
    folder: str | Path | None = None,
    resume: bool = False,
    max_seconds: float = math.inf,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> FitResult:
    """Train a module's parameters; afterwards it holds those of the best validation loss.

    In several processes (`pyromodels.inference.training.distributed`) every one calls this with the
    same arguments, and all end with the same parameters; the first alone decides when to stop, and
    writes.

    Args:
        module: whose parameters are trained, in place.
        loss_function: see `LossFunction`; draws from torch's global generator.
        train: training data.
        valid: validation data.
        options: how to train.
        folder: for checkpoints, one an epoch, and `metrics.jsonl`, see `Trainer`.
        resume: go on from the last one, see `Trainer`.
        max_seconds: stop before an epoch that would end later, see `Trainer`.
        on_epoch: called with every epoch's record, after its checkpoint; in the first process.

    Raises:
        FitError: naming step, batch, last finite loss and the guilty parameter.
        ValueError: data of different lengths or none, a checkpoint of other options or of another
            number of sequences, processes with other data or options than the first, or fp16
            without a GPU.
    """
    for name, data in (("train", train), ("valid", valid)):
        if not data or len({len(t) for t in data}) != 1 or len(data[0]) == 0:
            given = [tuple(t.shape) for t in data]
            raise ValueError(f"{name}: given tensors of shapes {given}; expected at least one "
                             "tensor, and the same positive number of sequences in each")
    given = (options, len(train[0]), len(valid[0]))
    if distributed.sum_number(given != (first := distributed.from_first(given))):
        raise ValueError(f"process {distributed.rank()}: given (options, number of sequences) "
                         f"{given}, the first process {first}; expected the same in all processes")
    trainer = Trainer(
        folder, resume, records="metrics.jsonl", max_seconds=max_seconds, processes=True,
        shown=False,
    )
    training = EpochTraining(module, loss_function, train, valid, options)
    reason = trainer.run(training, on_epoch)
    module.load_state_dict(training.best)
    return FitResult(training.best_epoch, training.best_loss, training.history, reason)
