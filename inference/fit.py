"""A training loop: Adam on minibatches, early stopping, checkpoints, exact resumption."""

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor, nn
from tqdm import tqdm

from inference.checkpoint import latest_checkpoint, remove_checkpoints, save_checkpoint
from inference.optimizer_state import load_optimizer_tensors, optimizer_tensors
from inference.schedule import FitOptions, Weights
from inference.seeding import random_state, seed_all, set_random_state

Data = tuple[Tensor, ...]
"""Tensors that share their first axis, the sequences."""


class FitError(ValueError):
    """A loss or a gradient is not finite; the message names step, batch and parameter."""


LossFunction = Callable[[Data, Weights], Tensor]
"""(batch, weights) -> loss of every sequence, shape (B,), e.g. the negative bound in nats."""


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

    Args:
        module: whose parameters are trained, in place.
        loss_function: see `LossFunction`; draws from torch's global generator.
        train: training data.
        valid: validation data.
        options: how to train.
        folder: for checkpoints, one an epoch, and `metrics.jsonl`. None: nothing is written.
        resume: continue from the last whole checkpoint in `folder`, to the same bits as without
            the interruption (same machine, same thread count); start anew where there is none.
        max_seconds: stop before an epoch that, lasting as long as the last one, would end later;
            one epoch is always trained. Counted from this call.
        on_epoch: called with every epoch's record, after its checkpoint.

    Raises:
        FitError: naming step, batch, last finite loss and the guilty parameter.
        ValueError: data of different lengths or none, or a checkpoint of other options.
    """
    for name, data in (("train", train), ("valid", valid)):
        if not data or len({len(t) for t in data}) != 1 or len(data[0]) == 0:
            given = [tuple(t.shape) for t in data]
            raise ValueError(f"{name}: given tensors of shapes {given}; expected at least one "
                             "tensor, and the same positive number of sequences in each")
    if resume and folder is None:
        raise ValueError("resume: given no folder to resume from")
    folder = None if folder is None else Path(folder)
    run = _Run(module, loss_function, options)
    found = latest_checkpoint(folder) if resume else None
    if found is not None:
        run.restore(found.tensors, found.meta)
    elif folder is not None:
        remove_checkpoints(folder)
    begin, last_epoch, trained = time.monotonic(), 0.0, False
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        _write_lines(folder / "metrics.jsonl", run.history)
    while (stopped := run.stopped()) is None:
        start = time.monotonic()
        if trained and start - begin + last_epoch > max_seconds:
            stopped = "time"
            break
        with pyro.settings.context(module_local_params=True):  # the parameters are the module's
            record = run.epoch(train, valid)
        last_epoch, trained = time.monotonic() - start, True
        record["seconds"] = last_epoch
        if folder is not None:
            save_checkpoint(folder, run.num_epochs, run.tensors(), run.meta())
            _write_lines(folder / "metrics.jsonl", run.history)
        if on_epoch is not None:
            on_epoch(record)
    module.load_state_dict(run.best)
    return FitResult(run.best_epoch, run.best_loss, run.history, stopped)


def guilty_parameter(named: Mapping[str, nn.Parameter]) -> str:
    """Say which parameter is not finite, or else which gradient."""
    for name, p in named.items():
        if not torch.isfinite(p).all():
            return f"; parameter {name!r} is not finite"
    for name, p in named.items():
        if p.grad is not None and not torch.isfinite(p.grad).all():
            return f"; parameter {name!r} is the first with a gradient that is not finite"
    return "; all parameters and gradients are finite: look at the data of this batch"


class _Run:
    """The state of training between epochs."""

    def __init__(self, module: nn.Module, loss: LossFunction, options: FitOptions) -> None:
        self.module, self.loss, self.options = module, loss, options
        self.named = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.parameters = list(self.named.values())
        if not self.parameters:
            raise ValueError(f"{type(module).__name__} has no parameter to train")
        self.adam = torch.optim.Adam(self.parameters, lr=options.learning_rate)
        seed_all(options.seed)
        self.order = torch.Generator().manual_seed(options.seed)
        self.num_epochs = self.num_steps = self.num_worse = self.best_epoch = 0
        self.best_loss, self.history = math.inf, []
        self.best = self._weights()

    def stopped(self) -> str | None:
        if self.num_worse >= self.options.patience:
            return "patience"
        return "epochs" if self.num_epochs >= self.options.epochs else None

    def epoch(self, train: Data, valid: Data) -> dict[str, float]:
        options, epoch = self.options, self.num_epochs + 1
        weights, rate = options.weights(epoch), options.rate(epoch)
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.module.train()
        batches = torch.randperm(len(train[0]), generator=self.order).split(options.batch_size)
        total, norms, finite = 0.0, 0.0, None
        bar = tqdm(batches, desc=f"epoch {epoch}", leave=False, disable=not sys.stderr.isatty())
        for number, rows in enumerate(bar):
            loss = self.loss(tuple(t[rows] for t in train), weights).mean()
            self.adam.zero_grad(set_to_none=True)
            loss.backward()
            gradients = [p.grad for p in self.parameters if p.grad is not None]
            norm = nn.utils.get_total_norm(gradients)
            if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
                self._refuse(loss, epoch, number, rows, finite)
            nn.utils.clip_grads_with_norm_(self.parameters, options.max_grad_norm, norm)
            self.adam.step()
            self.num_steps += 1
            finite = loss.item()
            total, norms = total + finite * len(rows), norms + norm.item()
            bar.set_postfix(loss=f"{finite:.3f}")
        valid_loss = self._validate(valid, finite)
        self.num_epochs = epoch
        if valid_loss < self.best_loss - options.min_delta:
            self.best_loss, self.best_epoch, self.num_worse = valid_loss, epoch, 0
            self.best = self._weights()
        elif epoch > options.settled:
            self.num_worse += 1
        record = {
            "epoch": epoch, "step": self.num_steps, "train_loss": total / len(train[0]),
            "valid_loss": valid_loss, "learning_rate": rate, "kl_weight": weights.kl,
            "use_prediction": weights.use_prediction, "grad_norm": norms / len(batches),
        }
        self.history.append(record)
        return record

    @torch.no_grad()
    def _validate(self, valid: Data, finite: float | None) -> float:
        """Mean loss with the bound's weights and the same noise in every epoch."""
        state = random_state()
        seed_all(self.options.seed)
        self.module.eval()
        losses = []
        for rows in torch.arange(len(valid[0])).split(4 * self.options.batch_size):
            losses.append(self.loss(tuple(t[rows] for t in valid), Weights()))
        self.module.train()
        set_random_state(state)
        mean = torch.cat(losses).mean().item()
        if not math.isfinite(mean):
            raise FitError(f"validation loss is {mean} after step {self.num_steps}; "
                           f"last finite training loss {finite}{guilty_parameter(self.named)}")
        return mean

    def _refuse(
        self, loss: Tensor, epoch: int, number: int, rows: Tensor, finite: float | None
    ) -> None:
        what = "the loss" if not math.isfinite(loss.item()) else "the gradient"
        if finite is None and self.history:
            finite = self.history[-1]["train_loss"]
        raise FitError(
            f"{what} is not finite at step {self.num_steps + 1} (epoch {epoch}, batch {number}, "
            f"sequences {rows[:8].tolist()}{'...' if len(rows) > 8 else ''}): loss {loss.item()}, "
            f"last finite loss {finite}{guilty_parameter(self.named)}"
        )

    # ---- checkpoints

    def _weights(self) -> dict[str, Tensor]:
        return {name: t.detach().clone() for name, t in self.module.state_dict().items()}

    def tensors(self) -> dict[str, Tensor]:
        moments = {f"adam.{name}": value for name, value in optimizer_tensors(self.adam).items()}
        parts = {"module": self.module.state_dict(), "best": self.best, "random": random_state()}
        flat = {f"{part}.{name}": t for part, table in parts.items() for name, t in table.items()}
        return {**flat, **moments, "order": self.order.get_state()}

    def meta(self) -> dict[str, Any]:
        return {
            "options": dataclasses.asdict(self.options), "num_steps": self.num_steps,
            "num_worse": self.num_worse, "best_epoch": self.best_epoch,
            "best_loss": self.best_loss if math.isfinite(self.best_loss) else None,
            "history": self.history, "torch": torch.__version__,
        }

    def restore(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        given = json.loads(json.dumps(dataclasses.asdict(self.options)))
        for name, value in given.items():
            if meta["options"].get(name) != value:
                raise ValueError(f"checkpoint was made with {name}={meta['options'].get(name)}, "
                                 f"now {value}; resume with the same options or start anew")

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}

        self.module.load_state_dict(part("module."))
        self.best = part("best.")
        load_optimizer_tensors(self.adam, part("adam."))
        set_random_state(part("random."))
        self.order.set_state(tensors["order"])
        self.num_epochs, self.num_steps = meta["epoch"], meta["num_steps"]
        self.num_worse, self.best_epoch = meta["num_worse"], meta["best_epoch"]
        self.best_loss = math.inf if meta["best_loss"] is None else meta["best_loss"]
        self.history = meta["history"]


def _write_lines(path: Path, records: list[dict[str, float]]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    os.replace(part, path)
