"""Maximum likelihood for class-conditional densities, side by side in one computation."""

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pyromodels.errors import mismatch
from pyromodels.inference.classes.calibrate import fit_posterior
from pyromodels.inference.classes.options import ClassOptions as ClassOptions
from pyromodels.inference.classes.scores import (
    ClassDensities,
    class_log_prob,
    every_log_prob,
    own_class_log_prob,
    own_log_prob,
)
from pyromodels.inference.training.checkpoint import (
    Checkpoint,
    flat,
    load_optimizer_tensors,
    optimizer_tensors,
)
from pyromodels.inference.training.finite import FitError, guilty_parameter
from pyromodels.inference.training.seeding import random_state, seed_all, set_random_state
from pyromodels.inference.training.trainer import Trainer, Training, check_same_options
from pyromodels.labelled import LabelledSequences

POOL = 8
"""Minibatches that are drawn together and sorted by length, so that little of them is padding. They
are fewer where the smallest class has no more: copies of a sequence would lie side by side."""


class ClassFit(NamedTuple):
    """What came of training; the densities hold the best parameters of every network."""

    best_update: list[int]  # of every class
    best_loss: list[float]  # of every class: minus nats a frame of the validation data
    history: list[dict[str, Any]]  # one record a look
    stopped: str  # "updates" or "patience"


class ClassTraining(Training):
    """Parameters, optimiser, order of the data and counts, as they stand between looks.

    A class and its network are one where classes have networks of their own: they train side by
    side, each as it would alone. Tied classes have one network, which stops when the mean over
    classes does; so do all networks where what counts is to tell the classes apart.

    Args:
        densities: of every class.
        train: what is learned from.
        valid: what ends training and says which parameters are best.
        options: how to train.

    Raises:
        ValueError: where a class has no sequence, or labels are not those of the densities.
    """

    unit = "update"
    _COUNTS = ("best_loss", "best_update", "num_worse", "class_loss")

    def __init__(
        self,
        densities: ClassDensities,
        train: LabelledSequences,
        valid: LabelledSequences,
        options: ClassOptions,
    ) -> None:
        super().__init__()
        self.densities, self.train, self.valid, self.options = densities, train, valid, options
        self.most = options.updates
        num_classes = densities.num_members
        for name, data in (("train", train), ("valid", valid)):
            counts = data.labels.bincount(minlength=num_classes)
            if len(counts) != num_classes or not counts.all():
                raise ValueError(mismatch(f"{name}: sequences of each class", given=counts.tolist(),
                                          expected=f"one or more of {num_classes} classes"))
            dtype = next(densities.parameters()).dtype
            if data.x.dtype != dtype:
                raise ValueError(mismatch(f"{name}: x", given=data.x.dtype, expected=dtype))
        if options.together and num_classes < 2:
            raise ValueError("chosen_by, discriminative: densities of one class have none to be "
                             "told from; give likelihood and 0")
        # orders are drawn on the CPU, whatever the device
        self.labels, self.lengths = train.labels.cpu(), train.lengths.cpu()
        seed_all(options.seed)
        self.named = {n: p for n, p in densities.named_parameters() if p.requires_grad}
        self.adam = torch.optim.AdamW(
            self.named.values(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        self.orders = [
            torch.Generator().manual_seed(options.seed + 1000 * c) for c in range(num_classes)
        ]
        self.turns = torch.Generator().manual_seed(options.seed)  # of minibatches of a pool
        self.left = [torch.empty(0, dtype=torch.long) for _ in self.orders]
        self.queue: list[list[list[int]]] = []
        networks = 1 if options.together else densities.num_networks
        self.best_loss = torch.full((networks,), math.inf)
        self.best_update, self.num_worse = torch.zeros(2, networks, dtype=torch.long)
        self.class_loss = torch.full((num_classes,), math.inf)
        self.best = {name: p.detach().clone() for name, p in self.named.items()}

    def stopped(self) -> str | None:
        """Return what ends training here, "patience" or "updates", or None."""
        if (self.num_worse >= self.options.patience).all():
            return "patience"
        return "updates" if self.num_done >= self.most else None

    @property
    def going_on(self) -> Tensor:  # shape: (networks,)
        """Which networks have not stopped."""
        return self.num_worse < self.options.patience

    def in_words(self, record: dict[str, Any]) -> str:
        """Say how far it is."""
        return f"valid={sum(record['valid_loss']) / self.densities.num_members:.3f}"

    def advance(self) -> dict[str, Any]:
        """Make the next updates, look at the validation data and return the record."""
        options, losses = self.options, []
        self.densities.train()
        for _ in range(min(options.check_every, self.most - self.num_done)):
            losses.append(self.update())
        loss, confusion = self.validate()
        if options.chosen_by == "posterior":
            judged = confusion
        else:
            judged = loss + options.discriminative * confusion
        by_network = judged.view(len(self.best_loss), -1).mean(-1)
        going_on = self.going_on
        better = going_on & (by_network < self.best_loss)
        self.num_worse += going_on & ~better
        self.num_worse[better] = 0
        self.best_loss = torch.where(better, by_network, self.best_loss)
        self.best_update[better] = self.num_done
        self.class_loss = torch.where(self._by_class(better), loss, self.class_loss)
        for name, p in self.named.items():
            chosen = better.to(p.device).view(-1, *[1] * (p.dim() - 1))
            self.best[name] = torch.where(chosen, p.detach(), self.best[name])
        record = {
            "update": self.num_done,
            "train_loss": torch.stack(losses).mean(0).tolist(),
            "valid_loss": loss.tolist(),
            "valid_cross_entropy": confusion.mean().item(),
            "learning_rate": self.adam.param_groups[0]["lr"],
            "going_on": int(going_on.sum()),
        }
        self.history.append(record)
        return record

    def result(self, reason: str) -> ClassFit:
        """Leave the best parameters in the densities and say what came of it."""
        if not self.best_update.all():
            losses = self.history[-1]["valid_loss"]
            raise FitError(f"the validation loss was never finite: {losses} at last")
        with torch.no_grad():
            for name, p in self.named.items():
                p.copy_(self.best[name])
        self.densities.eval()
        updates = self._by_class(self.best_update).tolist()
        return ClassFit(updates, self.class_loss.tolist(), self.history, reason)

    def update(self) -> Tensor:
        """Make one update of every network; return minus nats a frame of every class, (C,)."""
        options = self.options
        for group in self.adam.param_groups:
            group["lr"] = options.rate(self.num_done)
        rows = torch.tensor(self.next_rows())
        some = self.train.cut(rows.flatten(), int(self.lengths[rows].max()))
        x = some.x
        if options.input_noise:
            x = x + options.input_noise * torch.randn_like(x)
        if options.discriminative:
            scores = every_log_prob(self.densities, x, some.mask)
            log_prob = scores.gather(-1, some.labels.unsqueeze(-1)).view(rows.shape)
            confusion = cross_entropy(options.sharpness * scores, some.labels)
        else:
            grid = (v.unflatten(0, rows.shape) for v in (x, some.mask))
            log_prob, confusion = own_log_prob(self.densities, *grid), 0.0
        loss = -log_prob.sum(0) / some.lengths.view(rows.shape).sum(0)
        objective = loss.sum() + options.discriminative * len(loss) * confusion
        self.adam.zero_grad(set_to_none=True)
        objective.backward()
        norms = self._scale_gradients()
        # one transfer for both, which is the update's only wait for the device
        loss, norms = torch.cat((loss.detach(), norms)).cpu().split((len(loss), len(norms)))
        if not torch.isfinite(norms[self.going_on.expand(len(norms))]).all():
            raise FitError(
                f"the gradient is not finite at update {self.num_done + 1}: minus nats a frame "
                f"of every class {loss.tolist()}{guilty_parameter(self.named)}"
            )
        self.adam.step()
        self.num_done += 1
        return loss

    def _scale_gradients(self) -> Tensor:  # shape: (networks,)
        """Scale the gradient of each network down to the norm; return the norms before."""
        gradients = [p.grad for p in self.named.values() if p.grad is not None]
        norm = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
        scale = (self.options.max_grad_norm / norm.clamp_min(1e-12)).clamp_max(1.0)
        for g in gradients:
            g.mul_(scale.view(-1, *[1] * (g.dim() - 1)))
        return norm

    def next_rows(self) -> list[list[int]]:  # shape: (B, C)
        """Return the next minibatch: rows of the training data, a column for every class."""
        if not self.queue:
            batch_size, classes = self.options.batch_size, range(self.densities.num_members)
            count = min(POOL, max(1, int(self.labels.bincount().min()) // batch_size))
            pools = torch.stack([self._drawn(c, count * batch_size) for c in classes], 1)
            order = self.lengths[pools].argsort(0)
            pools = pools.gather(0, order).view(count, batch_size, -1)
            turn = torch.randperm(count, generator=self.turns)
            self.queue = pools[turn].tolist()
        return self.queue.pop(0)

    def _drawn(self, label: int, count: int) -> Tensor:
        """Return the next rows of a class, pass after pass."""
        rows = (self.labels == label).nonzero().squeeze(-1)
        parts = [self.left[label]]
        while sum(map(len, parts)) < count:
            parts.append(rows[torch.randperm(len(rows), generator=self.orders[label])])
        drawn = torch.cat(parts)
        self.left[label] = drawn[count:]
        return drawn[:count]

    @torch.no_grad()
    def validate(self) -> tuple[Tensor, Tensor]:  # each (C,)
        """Return minus nats a frame of every class, and the cross-entropy where it counts."""
        self.densities.eval()
        options, labels = self.options, self.valid.labels.cpu()
        if options.together:
            scores = class_log_prob(self.densities, self.valid).cpu()
            log_prob = scores.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
            sharpness = options.sharpness
            if options.chosen_by == "posterior":
                sharpness, _ = fit_posterior(scores, labels)
            confusion = cross_entropy(sharpness * scores, labels, reduction="none").to(scores)
        else:
            log_prob = own_class_log_prob(self.densities, self.valid).cpu()
            confusion = torch.zeros_like(log_prob)
        frames, ones = self.valid.lengths.cpu(), torch.ones_like(log_prob)
        loss = -self._sum(log_prob, labels) / self._sum(frames.to(log_prob), labels)
        if torch.isnan(loss[self._by_class(self.going_on)]).any():
            raise FitError(f"validation loss is {loss.tolist()} after update {self.num_done}")
        return loss, self._sum(confusion, labels) / self._sum(ones, labels)

    def _sum(self, values: Tensor, labels: Tensor) -> Tensor:
        return values.new_zeros(self.densities.num_members).index_add(0, labels, values)

    def _by_class(self, value: Tensor) -> Tensor:
        """Say of every class what is true of its network, or of all that stop together."""
        return value.expand(self.densities.num_members)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint."""
        tensors = flat(
            now=self.named, best=self.best, adam=optimizer_tensors(self.adam),
            left={str(c): rows for c, rows in enumerate(self.left)},
            order={str(c): order.get_state() for c, order in enumerate(self.orders)},
            random=random_state(),
        )
        counts = {name: getattr(self, name) for name in self._COUNTS}
        return {**tensors, **counts, "turns": self.turns.get_state()}

    def meta(self) -> dict[str, Any]:
        """Return the plain data of a checkpoint."""
        return {"options": asdict(self.options), "num_updates": self.num_done,
                "queue": self.queue, "history": self.history, "fingerprint": self._fingerprint()}

    def _fingerprint(self) -> list[Any]:
        """Return what a checkpoint belongs to, beside the options: data, and shapes of weights."""
        shapes = {name: list(p.shape) for name, p in self.named.items()}
        return [self.train.digest(), self.valid.digest(), shapes]

    def restore(self, found: Checkpoint) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: it was made with other options, of other data or of other densities.
        """
        if found.meta["fingerprint"] != self._fingerprint():
            raise ValueError("checkpoint is of other data or of other densities; start anew")
        check_same_options(found.meta["options"], asdict(self.options))
        with torch.no_grad():
            for name, value in found.part("now").items():
                self.named[name].copy_(value)
        best = found.part("best").items()
        self.best = {name: t.to(self.named[name].device) for name, t in best}
        load_optimizer_tensors(self.adam, found.part("adam"))
        for c, order in enumerate(self.orders):
            order.set_state(found.tensors[f"order.{c}"])
            self.left[c] = found.tensors[f"left.{c}"]
        self.turns.set_state(found.tensors["turns"])
        for name in self._COUNTS:
            setattr(self, name, found.tensors[name])
        set_random_state(found.part("random"))
        self.num_done, self.queue = found.meta["num_updates"], found.meta["queue"]
        self.history = found.meta["history"]


def fit_classes(
    densities: ClassDensities,
    train: LabelledSequences,
    valid: LabelledSequences,
    options: ClassOptions = ClassOptions(),  # noqa: B008
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    on_look: Callable[[dict[str, Any]], None] | None = None,
) -> ClassFit:
    """Train class densities side by side; afterwards they hold the best parameters.

    Args:
        densities: trained in place.
        train: what is learned from.
        valid: what ends training and says which parameters are best.
        options: how to train.
        folder: for checkpoints, one a look, see `Trainer`.
        resume: go on from the last one, see `Trainer`.
        on_look: called with the record of every look at the validation data.

    Raises:
        FitError: where a gradient or a validation loss is not finite.
        ValueError: where a class has no sequence, or a checkpoint was made with other options.
    """
    run = ClassTraining(densities, train, valid, options)
    return run.result(Trainer(folder, resume).run(run, on_look))
