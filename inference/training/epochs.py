"""A network trained on minibatches, as it stands between epochs, and what an epoch does to it."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyromodels.inference.training import distributed
from pyromodels.inference.training.checkpoint import (
    Checkpoint,
    flat,
    load_optimizer_tensors,
    optimizer_tensors,
)
from pyromodels.inference.training.finite import FitError, guilty_parameter
from pyromodels.inference.training.options import FitOptions, Weights
from pyromodels.inference.training.precision import Precision
from pyromodels.inference.training.progress import progress
from pyromodels.inference.training.seeding import random_state, seed_all, set_random_state
from pyromodels.inference.training.trainer import Training, check_same_options
from pyromodels.networks.mlp import at_least_single

Data = tuple[Tensor, ...]
"""Tensors that share their first axis, the sequences."""

LossFunction = Callable[[Data, Weights], Tensor]
"""(batch, weights) -> loss of every sequence, shape (B,), e.g. the negative bound in nats."""


class EpochTraining(Training):
    """Parameters, optimiser, order of the data and counts, as they stand between epochs.

    In several processes every minibatch is cut over them, and loss and gradient are those of the
    joined minibatch, so that the parameters stay equal everywhere. All draw the same order of the
    data. Noise differs: the first process goes on with the stream it has alone, the others are
    seeded anew in every epoch.

    Args:
        module: whose parameters are trained.
        loss: see `LossFunction`.
        train: training data.
        valid: validation data.
        options: how to train.
    """

    unit = "epoch"

    def __init__(
        self,
        module: nn.Module,
        loss: LossFunction,
        train: Data,
        valid: Data,
        options: FitOptions,
    ) -> None:
        super().__init__()
        self.module, self.loss, self.options, self.most = module, loss, options, options.epochs
        self.train, self.valid = train, valid
        self.named = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.parameters = list(self.named.values())
        if not self.parameters:
            raise ValueError(f"{type(module).__name__} has no parameter to train")
        self.precision = Precision(options.autocast, self.parameters[0].device)
        distributed.copy_first(module.state_dict().values())
        self.adam = torch.optim.Adam(self.parameters, lr=options.learning_rate)
        seed_all(options.seed)
        self.order = torch.Generator().manual_seed(options.seed)
        self.num_steps = self.num_worse = self.best_epoch = 0
        self.best_loss = math.inf
        self.best = self._weights()

    def stopped(self) -> str | None:
        """Return what ends training here, "patience" or "epochs", or None."""
        if self.num_worse >= self.options.patience:
            return "patience"
        return "epochs" if self.num_done >= self.most else None

    def in_words(self, record: dict[str, float]) -> str:
        """Say how far it is."""
        return f"loss={record['train_loss']:.3f}, valid={record['valid_loss']:.3f}"

    def advance(self) -> dict[str, float]:
        """Train on every sequence once, validate, and return the epoch's record."""
        begin = time.monotonic()
        with pyro.settings.context(module_local_params=True):  # the parameters are the module's
            record = self._epoch()
        record["seconds"] = time.monotonic() - begin
        self.history.append(record)
        return record

    def _epoch(self) -> dict[str, float]:
        options, epoch, size = self.options, self.num_done + 1, len(self.train[0])
        weights, rate = options.weights(epoch), options.rate(epoch)
        self.module.train()
        distributed.seed_others(options.seed, epoch)
        batches = torch.randperm(size, generator=self.order).split(options.batch_size)
        total, norms, num_overflows, finite = 0.0, 0.0, 0, None
        hidden = not distributed.is_first()
        bar = progress(batches, desc=f"epoch {epoch}", unit="step", leave=False, disable=hidden)
        for number, rows in enumerate(bar):
            for group in self.adam.param_groups:
                group["lr"] = rate * options.warmth(self.num_steps + 1)
            loss, norm = self._gradient(rows, weights), self._norm()
            # one transfer for both, which is the step's only wait for the device
            loss, length = torch.stack((loss.double(), norm.double())).tolist()
            loss = distributed.sum_number(loss)
            overflowed = not math.isfinite(length) and self.precision.may_overflow()
            if not (math.isfinite(loss) and (math.isfinite(length) or overflowed)):
                self._refuse(loss, epoch, number, rows, finite)
            nn.utils.clip_grads_with_norm_(self.parameters, options.max_grad_norm, norm)
            self.precision.step(self.adam)
            self.num_steps += 1
            finite = loss
            num_overflows += overflowed
            total, norms = total + finite * len(rows), norms + (0 if overflowed else length)
            bar.set_postfix(loss=f"{finite:.3f}")
        valid_loss = self._validate(finite)
        self.num_done = epoch
        if valid_loss < self.best_loss - options.min_delta:
            self.best_loss, self.best_epoch, self.num_worse = valid_loss, epoch, 0
            self.best = self._weights()
        elif epoch > options.settled:
            self.num_worse += 1
        return {
            "epoch": epoch, "step": self.num_steps, "train_loss": total / size,
            "valid_loss": valid_loss, "kl_weight": weights.kl,
            "learning_rate": rate * options.warmth(self.num_steps),
            "use_prediction": weights.use_prediction,
            "grad_norm": norms / max(len(batches) - num_overflows, 1),
        }

    def _gradient(self, rows: Tensor, weights: Weights) -> Tensor:
        """Leave the joined minibatch's gradient in the parameters; return this process' loss."""
        self.adam.zero_grad(set_to_none=True)
        own, loss = distributed.local_rows(rows), self.parameters[0].new_zeros(())
        if len(own):
            part = self._losses(self.train, own, weights).mean() * (len(own) / len(rows))
            self.precision.backward(part)
            loss = part.detach()
        distributed.sum_gradients(self.parameters)
        self.precision.unscale(self.adam)
        return loss

    def _norm(self) -> Tensor:
        """Return the norm of the gradient, shape ()."""
        return nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])

    def _losses(self, data: Data, rows: Tensor, weights: Weights) -> Tensor:
        with self.precision.context():
            losses = self.loss(tuple(t[rows] for t in data), weights)
        return at_least_single(losses)

    @torch.no_grad()
    def _validate(self, finite: float | None) -> float:
        """Mean loss with the bound's weights and the same noise in every epoch."""
        state, valid = random_state(), self.valid
        seed_all(self.options.seed)
        distributed.seed_others(self.options.seed, 0)
        self.module.eval()
        batches = torch.arange(len(valid[0])).split(4 * self.options.batch_size)
        parts = [own for rows in batches if len(own := distributed.local_rows(rows))]
        losses = [self._losses(valid, own, Weights()) for own in parts]
        self.module.train()
        set_random_state(state)
        share = sum(map(len, parts)) / len(valid[0])
        mean = distributed.sum_number(torch.cat(losses).mean().item() * share if losses else 0.0)
        if not math.isfinite(mean):
            raise FitError(f"validation loss is {mean} after step {self.num_steps}; "
                           f"last finite training loss {finite}{guilty_parameter(self.named)}")
        return mean

    def _refuse(
        self, loss: float, epoch: int, number: int, rows: Tensor, finite: float | None
    ) -> None:
        what = "the loss" if not math.isfinite(loss) else "the gradient"
        if finite is None and self.history:
            finite = self.history[-1]["train_loss"]
        raise FitError(
            f"{what} is not finite at step {self.num_steps + 1} (epoch {epoch}, batch {number}, "
            f"sequences {rows[:8].tolist()}{'...' if len(rows) > 8 else ''}): loss {loss}, "
            f"last finite loss {finite}{guilty_parameter(self.named)}"
        )

    # ---- checkpoints

    def _weights(self) -> dict[str, Tensor]:
        return {name: t.detach().clone() for name, t in self.module.state_dict().items()}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint."""
        tensors = flat(
            module=self.module.state_dict(), best=self.best, random=random_state(),
            adam=optimizer_tensors(self.adam),
        )
        return {**tensors, "order": self.order.get_state()}

    def meta(self) -> dict[str, Any]:
        """Return the plain data of a checkpoint."""
        return {
            "options": dataclasses.asdict(self.options), "num_steps": self.num_steps,
            "num_worse": self.num_worse, "best_epoch": self.best_epoch,
            "best_loss": self.best_loss if math.isfinite(self.best_loss) else None,
            "history": self.history, "scaler": self.precision.state(), "torch": torch.__version__,
            "sequences": self._sizes(),
        }

    def restore(self, found: Checkpoint) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: it was made with other options, or of another number of sequences.
        """
        meta, sizes = found.meta, self._sizes()
        if (made := meta.get("sequences", sizes)) != sizes:
            raise ValueError(f"checkpoint was made with {made} sequences (train, valid), now "
                             f"{sizes}; resume with the same data or start anew")
        some = dataclasses.asdict(FitOptions())  # options that came after the checkpoint
        check_same_options({**some, **meta["options"]}, dataclasses.asdict(self.options))
        self.module.load_state_dict(found.part("module"))
        self.best = found.part("best")
        load_optimizer_tensors(self.adam, found.part("adam"))
        if distributed.is_first():  # the others are seeded in every epoch
            set_random_state(found.part("random"))
        self.order.set_state(found.tensors["order"])
        self.num_done, self.num_steps = found.epoch, meta["num_steps"]
        self.num_worse, self.best_epoch = meta["num_worse"], meta["best_epoch"]
        self.best_loss = math.inf if meta["best_loss"] is None else meta["best_loss"]
        self.history = meta["history"]
        self.precision.restore(meta.get("scaler", {}))

    def _sizes(self) -> list[int]:
        return [len(self.train[0]), len(self.valid[0])]
