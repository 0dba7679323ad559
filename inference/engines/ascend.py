"""Climb a bound with any stepper: stopping rule, minibatches, progress, checkpoints, resumption."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pyromodels.errors import check_positive, mismatch
from pyromodels.inference.training.checkpoint import Checkpoint, flat
from pyromodels.inference.training.finite import FitError
from pyromodels.inference.training.seeding import random_state, seed_all, set_random_state
from pyromodels.inference.training.trainer import Record, Trainer, Training, check_same_options

OnStep = Callable[[int, float], None]
"""Called after every step with its number, from 1, and its loss."""


@runtime_checkable
class Divisible(Protocol):
    """Data that can be had in minibatches."""

    @property
    def num_sequences(self) -> int:
        """B."""

    def subset(self, index: Tensor) -> Any:
        """Return the sequences of some indices, shape (B',)."""


class Stepper(Protocol):
    """What VEM and SVI have in common."""

    guide: nn.Module

    def step(self, batch: Any) -> float:
        """Improve the bound; return the loss, nats."""

    def evaluate_loss(self, batch: Any) -> float:
        """Return the loss, nats."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that a later `step` depends on, random state apart."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""


@dataclass(frozen=True)
class AscentOptions:
    """How long to climb.

    Args:
        max_steps: most steps.
        tolerance: stop once the mean loss of the last `window` steps is less than this many nats
            below that of the `window` steps before; None makes all steps.
        window: 1 for a stepper without noise, more to average noise out.
        batch_size: sequences in a minibatch, drawn anew in every pass over the data; None takes the
            whole batch in every step. The tolerance is then that of a minibatch's loss.
        checkpoint_every: steps between checkpoints, where there is a folder for them.
        seed: of the random state at the start and of the order of minibatches; None takes both from
            the random state as it is.

    Raises:
        ValueError: where a number is out of range.
    """

    max_steps: int = 200
    tolerance: float | None = None
    window: int = 1
    batch_size: int | None = None
    checkpoint_every: int = 100
    seed: int | None = None

    def __post_init__(self) -> None:
        counts = ("max_steps", "window", "batch_size", "checkpoint_every")
        check_positive(self, "tolerance", *counts)
        for name in counts:
            if not isinstance(value := getattr(self, name), int | None):
                raise ValueError(mismatch(name, given=value, expected="an integer"))

    def settled(self, losses: list[float]) -> bool:
        """Whether the stopping rule says so."""
        if self.tolerance is None or len(losses) < 2 * self.window:
            return False
        recent = sum(losses[-self.window :])
        before = sum(losses[-2 * self.window : -self.window])
        return (before - recent) / self.window < self.tolerance


class Ascent(NamedTuple):
    """What came of it."""

    losses: list[float]  # nats, one a step
    stopped: str  # "tolerance" or "max_steps"


def ascend(
    stepper: Stepper,
    batch: Any,
    options: AscentOptions = AscentOptions(),  # noqa: B008
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    on_step: OnStep | None = None,
) -> Ascent:
    """Step until the bound settles.

    Args:
        stepper: VEM, SVI, or another.
        batch: the data; with `batch_size` a `MixtureBatch`, or whatever else has `num_sequences`
            and `subset(index)`.
        options: how long.
        folder: for checkpoints and `losses.jsonl`, see `Trainer`.
        resume: go on from the last one, see `Trainer`.
        on_step: called after every step.

    Raises:
        FitError: naming the step, where a loss is not finite or a factor no distribution.
        ValueError: where the checkpoint was made with other options.
    """
    if options.batch_size is not None and not isinstance(batch, Divisible):
        given, expected = type(batch).__name__, "a MixtureBatch, or what else has `subset`"
        raise ValueError(mismatch("batch, with batch_size", given=given, expected=expected))
    trainer = Trainer(folder, resume, options.checkpoint_every, "losses.jsonl")
    training = _Steps(stepper, batch, options)
    tell = None if on_step is None else lambda record: on_step(record["step"], record["loss"])
    return Ascent(training.losses, trainer.run(training, tell))


class _Steps(Training):
    """A stepper, the order of the data and the losses, as they stand between steps."""

    name, unit = "fit", "step"

    def __init__(self, stepper: Stepper, batch: Any, options: AscentOptions) -> None:
        super().__init__()
        if options.seed is not None:
            seed_all(options.seed)
        self.stepper, self.batch, self.options = stepper, batch, options
        self.most = options.max_steps
        self.order = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        self.losses: list[float] = []
        self.queue: list[list[int]] = []  # minibatches left of this pass over the data

    def stopped(self) -> str | None:
        """Return what ends the ascent here."""
        if self.options.settled(self.losses):
            return "tolerance"
        return "max_steps" if self.num_done >= self.most else None

    def advance(self) -> Record:
        """Take a step."""
        number = self.num_done + 1
        try:
            loss = self.stepper.step(self._next())
        except torch.linalg.LinAlgError as error:
            hint = "try float64, or a smaller rate or damping"
            raise FitError(f"step {number}: {error}; {hint}") from error
        if not math.isfinite(loss):
            raise FitError(f"step {number}: the loss is {loss}")
        self._add(loss)
        return self.history[-1]

    def in_words(self, record: Record) -> str:
        """Say how far it is."""
        return f"loss={record['loss']:.3f}"

    def _add(self, loss: float) -> None:
        self.num_done += 1
        self.losses.append(loss)
        self.history.append({"step": self.num_done, "loss": loss})

    def _next(self) -> Any:
        """Return the data of the next step."""
        if self.options.batch_size is None:
            return self.batch
        if not self.queue:
            rows = torch.randperm(self.batch.num_sequences, generator=self.order)
            self.queue = [part.tolist() for part in rows.split(self.options.batch_size)]
        return self.batch.subset(torch.tensor(self.queue.pop(0), device=self.batch.mask.device))

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint."""
        tensors = flat(stepper=self.stepper.state_dict(), random=random_state())
        return {**tensors, "order": self.order.get_state()}

    def meta(self) -> dict[str, Any]:
        """Return the plain data of a checkpoint."""
        return {"options": asdict(self.options), "losses": self.losses, "queue": self.queue}

    def restore(self, found: Checkpoint) -> None:
        """Go on from a checkpoint; there may be more steps than there were to be."""
        given = asdict(self.options)
        given = {k: v for k, v in given.items() if k not in ("max_steps", "checkpoint_every")}
        check_same_options(found.meta["options"], given)
        self.stepper.load_state_dict(found.part("stepper"))
        set_random_state(found.part("random"))
        self.order.set_state(found.tensors["order"])
        self.queue = found.meta["queue"]
        for loss in found.meta["losses"]:
            self._add(loss)
