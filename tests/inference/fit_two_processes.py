"""Everything that test_fit_distributed.py looks at, once: run by torchrun, or alone.

    fit_two_processes.py FOLDER    writes FOLDER/<number of processes>-<rank>.pt
"""

import dataclasses
import math
import sys
from pathlib import Path

import torch
from torch import nn

from pyromodels.inference.training import distributed, trainer
from pyromodels.inference.training.fit import FitError, fit
from pyromodels.inference.training.options import FitOptions

OPTIONS = FitOptions(epochs=3, batch_size=4, learning_rate=0.05, seed=3)


class Regression(nn.Module):
    """Two of its parameters have no gradient from some sequences, or from any."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(distributed.rank())  # the first process' start is everyone's
        self.net = nn.Linear(3, 1)
        self.rare, self.never = (nn.Parameter(torch.zeros(())) for _ in range(2))

    def loss(self, batch, weights):
        index, x, y = batch
        error = self.net(x)[:, 0] - y
        if (index == 5).any():
            error = error + self.rare * (index == 5)
        return error.square()


def make_data(num_train, num_valid):
    generator = torch.Generator().manual_seed(0)
    n = num_train + num_valid
    x = torch.randn(n, 3, generator=generator)
    y = x @ torch.tensor([1.0, -2.0, 0.5]) + 0.1 * torch.randn(n, generator=generator)
    data = (torch.arange(n), x, y)
    return tuple(t[:num_train] for t in data), tuple(t[num_train:] for t in data)


def state_of(module, result):
    history = [{k: v for k, v in r.items() if k != "seconds"} for r in result.history]
    return {
        "parameters": {k: v.clone() for k, v in module.state_dict().items()}, "history": history,
        "stopped": result.stopped, "best": (result.best_epoch, result.best_loss),
    }


def exact(num_train, num_valid):
    """No noise: batches of 4, and a last one of what is left."""
    module, sizes = Regression(), []

    def loss(batch, weights):
        sizes.append(len(batch[0]))
        return module.loss(batch, weights)

    result = fit(module, loss, *make_data(num_train, num_valid), options=OPTIONS)
    grads = {k: None if p.grad is None else p.grad.clone() for k, p in module.named_parameters()}
    return {**state_of(module, result), "gradients": grads, "sizes": sizes}


class Killed(Exception):
    pass


def noisy(folder=None, *, resume=False):
    """Noise from the global generator."""
    module, drawn, seen = Regression(), [], []

    def loss(batch, weights):
        noise = torch.randn(len(batch[0]))
        drawn.append(noise[0].item())
        return module.loss(batch, weights) * noise.exp()

    result = fit(
        module, loss, *make_data(11, 5), options=OPTIONS, folder=folder, resume=resume,
        on_epoch=seen.append,
    )
    return {**state_of(module, result), "drawn": drawn, "callbacks": len(seen)}


def interrupted(folder):
    """Two epochs and a part of the third; then resumed in a fresh module."""
    module, calls, written = Regression(), 0, []
    save = trainer.save_checkpoint

    def noted(folder, epoch, *contents):
        written.append(epoch)
        save(folder, epoch, *contents)

    def loss(batch, weights):
        nonlocal calls
        calls += torch.is_grad_enabled()
        if calls == 8:  # three minibatches an epoch: the second of the third
            raise Killed
        return module.loss(batch, weights) * torch.randn(len(batch[0])).exp()

    trainer.save_checkpoint = noted
    try:
        fit(module, loss, *make_data(11, 5), options=OPTIONS, folder=folder)
    except Killed:
        pass
    return {**noisy(folder, resume=True), "written": written}


def early(max_seconds=math.inf):
    """Patience of one, validation losses that grow in the second process only."""
    module, calls = Regression(), 0

    def loss(batch, weights):
        nonlocal calls
        losses = module.loss(batch, weights)
        if not torch.is_grad_enabled():
            calls += 1
            losses = torch.full_like(losses, 10.0 * calls * distributed.rank() - calls)
        return losses

    options = dataclasses.replace(OPTIONS, epochs=6, patience=2)
    return state_of(module, fit(
        module, loss, *make_data(8, 4), options=options, max_seconds=max_seconds
    ))


def message(change):
    """What is said of data, or options, that one process alone finds wrong."""
    module, (train, valid), options = Regression(), make_data(8, 4), OPTIONS
    if change == "nan":
        train[1][6] = math.nan
    elif distributed.rank() == 1:
        options = dataclasses.replace(options, batch_size=2)
    try:
        fit(module, module.loss, train, valid, options=options)
    except (FitError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def main(folder):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    with distributed.start("cpu") as device:
        rank, world = distributed.rank(), distributed.world_size()
        found = {"device": str(device), "rows": distributed.local_rows(torch.arange(5))}
        found |= {f"exact {n} {v}": exact(n, v) for n, v in ((11, 5), (9, 1), (8, 4))}
        found["noisy"] = noisy()
        if world > 1:
            found["interrupted"] = interrupted(folder / "checkpoints")
            found["patience"] = early()
            found["late first"] = early(0 if rank == 0 else math.inf)
            found["late second"] = early(0 if rank == 1 else math.inf)
            found |= {change: message(change) for change in ("nan", "options")}
    torch.save(found, folder / f"{world}-{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
