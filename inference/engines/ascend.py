"""Climb a bound with any stepper: stopping rule, minibatches, progress, checkpoints, resumption."""

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from pyromodels.errors import mismatch
from pyromodels.inference.training.checkpoint import (
    latest_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from pyromodels.inference.training.finite import FitError
from pyromodels.inference.training.progress import progress
from pyromodels.inference.training.seeding import random_state, seed_all, set_random_state

OnStep = Callable[[int, float], None]
"""Called after every step with its number, from 1, and its loss."""


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
        for name in ("max_steps", "tolerance", "window", "batch_size", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(mismatch(name, given=value, expected="a positive number"))
            if name != "tolerance" and not isinstance(value, int | None):
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
        folder: for checkpoints and `losses.jsonl`; None: nothing is written.
        resume: go on from the last whole checkpoint in the folder, to the same bits as without the
            interruption; start anew where there is none.
        on_step: called after every step.

    Raises:
        FitError: naming the step, where a loss is not finite or a factor no distribution.
        ValueError: where the checkpoint was made with other options.
    """
    if resume and folder is None:
        raise ValueError("resume: given no folder to resume from")
    if options.batch_size is not None and not hasattr(batch, "subset"):
        given, expected = type(batch).__name__, "a MixtureBatch, or what else has `subset`"
        raise ValueError(mismatch("batch, with batch_size", given=given, expected=expected))
    folder = None if folder is None else Path(folder)
    if options.seed is not None:
        seed_all(options.seed)
    order = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    losses: list[float] = []
    queue: list[list[int]] = []  # minibatches left of this pass over the data
    found = latest_checkpoint(folder) if resume else None
    if found is not None:
        _restore(stepper, order, found.tensors, found.meta, options)
        losses, queue = found.meta["losses"], found.meta["queue"]
    elif folder is not None:
        remove_checkpoints(folder)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    resumed_at = len(losses)

    def save() -> None:
        meta = {"options": asdict(options), "losses": losses, "queue": queue}
        tensors = {f"stepper.{name}": t for name, t in stepper.state_dict().items()}
        tensors |= {f"random.{name}": t for name, t in random_state().items()}
        save_checkpoint(folder, len(losses), {**tensors, "order": order.get_state()}, meta)

    def write_losses() -> None:
        lines = (json.dumps({"step": i, "loss": x}) + "\n" for i, x in enumerate(losses, 1))
        part = folder / f".losses.{os.getpid()}"
        part.write_text("".join(lines), encoding="utf-8")
        os.replace(part, folder / "losses.jsonl")

    total = options.max_steps
    with progress(total=total, initial=len(losses), desc="fit", unit="step") as bar:
        while len(losses) < total and not options.settled(losses):
            number, part = len(losses) + 1, _next(batch, options.batch_size, queue, order)
            try:
                loss = stepper.step(part)
            except torch.linalg.LinAlgError as error:
                hint = "try float64, or a smaller rate or damping"
                raise FitError(f"step {number}: {error}; {hint}") from error
            if not math.isfinite(loss):
                raise FitError(f"step {number}: the loss is {loss}")
            losses.append(loss)
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            if folder is not None and len(losses) % options.checkpoint_every == 0:
                save()
                write_losses()
            if on_step is not None:
                on_step(len(losses), loss)
    if folder is not None:
        if len(losses) > resumed_at and len(losses) % options.checkpoint_every:
            save()
        write_losses()
    return Ascent(losses, "tolerance" if options.settled(losses) else "max_steps")


def _next(
    batch: Any, size: int | None, queue: list[list[int]], order: torch.Generator
) -> Any:
    if size is None:
        return batch
    if not queue:
        queue.extend(_passes(batch.num_sequences, size, order))
    return batch.subset(torch.tensor(queue.pop(0), device=batch.mask.device))


def _passes(count: int, size: int, order: torch.Generator) -> Iterator[list[int]]:
    for rows in torch.randperm(count, generator=order).split(size):
        yield rows.tolist()


def _restore(
    stepper: Stepper,
    order: torch.Generator,
    tensors: dict[str, Tensor],
    meta: dict[str, Any],
    options: AscentOptions,
) -> None:
    for name, value in asdict(options).items():
        if name not in ("max_steps", "checkpoint_every") and meta["options"][name] != value:
            raise ValueError(
                f"checkpoint was made with {name}={meta['options'][name]}, now {value}; resume "
                "with the same options or start anew"
            )

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}

    stepper.load_state_dict(part("stepper."))
    set_random_state(part("random."))
    order.set_state(tensors["order"])
