"""`pyromodels bench gpu`: whether a GPU gives the numbers of the CPU, and what it is worth.

1. Parity: every case of `device_cases` on the CPU and on the GPU, random numbers drawn on the CPU
   in both, float32 as it is (no TF32). An error is given in parts of what is allowed.
2. Times: the published tracker, a sweep of variational EM, training steps of TVNF and of dynamical
   VAEs, by batch size, beside one thread of the CPU.

It ends within `--budget` seconds: what no time is left for is said, and left out. `--dry` tries all
of it on the CPU, in tiny sizes.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from pyromodels.errors import SpecError, mismatch
from pyromodels.experiments.classification import bench as classes
from pyromodels.experiments.demonstrations.device_cases import CASES, SLOW, run_case
from pyromodels.experiments.demonstrations.device_cases.mixtures import engine_of, mixture
from pyromodels.experiments.harness.devices import add_device_argument, use_device
from pyromodels.experiments.harness.records import write_rows
from pyromodels.experiments.harness.timing import Row, clock, training_step
from pyromodels.experiments.speech import bench as speech
from pyromodels.guides.amortised import Amortised
from pyromodels.inference.objectives.path_elbo import PathELBO
from pyromodels.inference.published.method import published_vem
from pyromodels.inference.published.options import PublishedOptions
from pyromodels.registry import DYNAMICS

Body = Callable[[], Any]

CPU = torch.device("cpu")
SHARE = 0.5
"""Of the budget, for parity."""
MEASURE_FOR, MOST_REPEATS = 1.0, 30
"""Seconds after which, and repeats after which, a measurement ends."""
LARGEST_ON_CPU = 128
"""Batch size up to which the CPU is timed as well: what it takes is linear from there."""
SINGLE, DOUBLE = (2e-3, 2e-4), (1e-8, 1e-9)
"""Allowed of float32 and of float64: relative error, and error in parts of the largest entry."""


class DrawnOnCPU(TorchDispatchMode):
    """While it lasts, random numbers are a CPU's, and copied to the device that asked for them.

    A generator of the device is stood for by one of the CPU, of the seed it was made with.
    """

    def __init__(self) -> None:
        super().__init__()
        self.twins: dict[int, tuple[torch.Generator, torch.Generator]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        places = [*(t.device for t in tensors), torch.device(kwargs.get("device") or CPU)]
        there = [place for place in places if place.type != "cpu"]
        if not there:
            return func(*args, **kwargs)
        if kwargs.get("device") is not None:
            kwargs["device"] = CPU
        if (generator := kwargs.get("generator")) is not None:
            kwargs["generator"] = self._twin(generator)
        args_here, kwargs_here = tree_map(partial(_moved, device=CPU), (args, kwargs))
        made = func(*args_here, **kwargs_here)
        if func._schema.is_mutable:  # normal_ and its like
            return args[0].copy_(made)
        return tree_map(partial(_moved, device=there[0]), made)

    def _twin(self, generator: torch.Generator) -> torch.Generator:
        if generator._cdata not in self.twins:
            twin = torch.Generator().manual_seed(generator.initial_seed())
            # the generator is kept too, since another could come to lie where it was
            self.twins[generator._cdata] = generator, twin
        return self.twins[generator._cdata][1]


def _moved(value: Any, device: torch.device) -> Any:
    """Copy a tensor to a device by the one operation that does it inside a dispatch mode."""
    if not isinstance(value, Tensor) or value.device == device:
        return value
    return torch.ops.aten._to_copy.default(value, device=device)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--dry", action="store_true", help="on the CPU, in tiny sizes: to see that it runs")
    add("--only", choices=("parity", "times"), help="one of the two parts")
    add("--budget", type=float, default=270.0, metavar="SECONDS", help="after which it ends")
    add("--json", type=Path, metavar="FILE", help="write the rows there as well")
    add_device_argument(parser)


def main(args: argparse.Namespace) -> int:
    """Compare and measure; 0 where the numbers agree, 1 where some do not."""
    device, end = use_device("cpu" if args.dry else args.device), time.monotonic() + args.budget
    if device.type == "cpu" and not args.dry:
        raise SpecError(mismatch("--device", given=device, expected="a GPU, which is what is "
                                 "measured", hint="To try the command without one: --dry"))
    if args.dry:
        print("dry: on the CPU, in tiny sizes; its figures say nothing")
    else:
        print(f"{torch.cuda.get_device_name(device) if device.type == 'cuda' else device}, torch "
              f"{torch.__version__}, beside one thread of the CPU")
    rows: list[Row] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings(), pyro.settings.context(module_local_params=True):
            warnings.simplefilter("ignore")
            if args.only != "times":
                share = 1.0 if args.only == "parity" else SHARE
                rows += parity(device, end - (1 - share) * args.budget, dry=args.dry)
            if args.only != "parity":
                rows += times(device, end, dry=args.dry)
    finally:
        torch.set_num_threads(threads)
    if args.json:
        write_rows(args.json, [{**row, "device": str(device)} for row in rows])
    return int(any(row.get("error", 0.0) > 1 or "raised" in row for row in rows))


# ---- the same numbers


def parity(device: torch.device, end: float, *, dry: bool) -> list[Row]:
    """Run the cases in both places, quick ones first, print the errors and return them."""
    print(f"\n{'case':60}{'error, of what is allowed':>28}")
    names = sorted(CASES, key=lambda name: name in SLOW)  # sorted is stable
    rows: list[Row] = []
    for number, name in enumerate(names[:4] if dry else names):
        if time.monotonic() > end:
            print(f"no time for {len(names) - number} more")
            break
        row = compared(name, device)
        print(f"{name[:59]:60}{row.get('raised') or format(row['error'], '28.3f')}", flush=True)
        rows.append(row)
    bad = [row["case"] for row in rows if row.get("error", 0.0) > 1 or "raised" in row]
    print(f"{len(rows) - len(bad)} of {len(rows)} agree" + (f"; not: {', '.join(bad)}" * bool(bad)))
    return rows


def compared(name: str, device: torch.device) -> Row:
    """Return the largest error of a case, or what it raised."""
    try:
        expected = run_case(name, CPU)
        with DrawnOnCPU():
            found = run_case(name, device)
        errors = [error(a, b) for a, b in zip(expected, found, strict=True)]
        return {"case": name, "error": max(errors, default=0.0)}
    except Exception as problem:  # the next case is worth knowing, too
        words = " ".join(str(problem).split())[:150]
        return {"case": name, "raised": f"{type(problem).__name__}: {words}"}


def error(expected: Tensor, found: Tensor) -> float:
    """Return the largest error, 1 being what is allowed."""
    if not expected.numel():
        return 0.0
    exact = expected.dtype == torch.float64 and expected.dim() > 0  # a loss of float32 is a float
    relative, absolute = DOUBLE if exact else SINGLE
    a, b = expected.double(), found.double()
    allowed = relative * a.abs() + absolute * a.abs().nan_to_num(0, 0, 0).max().clamp_min(1.0)
    parts = (a - b).abs() / allowed
    same = (a == b) | (a.isnan() & b.isnan())
    return parts.masked_fill(same, 0.0).nan_to_num(math.inf).max().item()


# ---- what it takes


def times(device: torch.device, end: float, *, dry: bool) -> list[Row]:
    """Time what is worth a GPU by batch size, print the rows and return them."""
    print(f"\n{'milliseconds':44}{'batch':>8}{'device':>12}{'CPU':>12}{'CPU / device':>14}")
    rows: list[Row] = []
    for name, batch, make in bodies(dry):
        if time.monotonic() > end:
            print("no time for more")
            break
        row: Row = {"name": name, "batch": batch}
        try:
            row["device_ms"] = milliseconds(make(device), device)
            if batch <= LARGEST_ON_CPU:
                row["cpu_ms"] = milliseconds(make(CPU), CPU)
                row["ratio"] = row["cpu_ms"] / row["device_ms"]
        except torch.OutOfMemoryError:
            row["raised"] = "out of memory"
        keys = {"device_ms": (12, 2), "cpu_ms": (12, 2), "ratio": (14, 2)}
        cells = "".join(
            f"{row[key]:>{width}.{digits}f}" if key in row else f"{'-':>{width}}"
            for key, (width, digits) in keys.items()
        )
        print(f"{name:44}{batch:>8}{cells} {row.get('raised', '')}".rstrip(), flush=True)
        rows.append(row)
    return rows


def milliseconds(body: Body, device: torch.device) -> float:
    """Return the median that a body takes."""
    with pyro.validation_enabled(False):
        body()  # pays for the first call of everything
        return 1e3 * median(clock(body, device, most=MOST_REPEATS, enough=MEASURE_FOR))


def bodies(dry: bool) -> Iterator[tuple[str, int, Callable[[torch.device], Body]]]:
    """Yield name, batch size, and what makes the body on a device; those that matter first."""
    frames = 6 if dry else 60
    iterations = 3 if dry else 70
    for batch in (2,) if dry else (1, 16, 128, 1024, 8192):
        yield ("published tracker, 70 iterations", batch,
               partial(published, batch, frames, iterations))  # fmt: skip
        yield "sweep of VEM, linear", batch, partial(sweep, batch, frames)
    for batch in (2,) if dry else (16, 128, 1024, 8192):
        yield "training step of TVNF", batch, partial(tvnf, batch, 4 if dry else 50)
    for name in ("vae",) if dry else ("srnn_tf", "rvae", "hit", "vae"):
        for batch in (2,) if dry else (32, 256):
            yield f"training step of {name}, small", batch, partial(dvae, name, batch)


def published(batch: int, frames: int, iterations: int, device: torch.device) -> Body:
    """Return the published method on three sources, random data and weights."""
    torch.manual_seed(0)
    prior = DYNAMICS.build({"name": "srnn"}).to(device)
    o, mask = torch.rand(batch, frames, 3, 4), torch.rand(batch, frames, 3) < 0.9
    inputs = {
        "mask": mask.to(device), "observation_variance": torch.full_like(o, 1e-4).to(device),
        "anchor_loc": torch.rand(batch, 3, 4).to(device),
        "options": dataclasses.replace(PublishedOptions.REFERENCE, num_iterations=iterations),
    }  # fmt: skip
    return partial(published_vem, prior, o.to(device), **inputs)


def sweep(batch: int, frames: int, device: torch.device) -> Body:
    """Return a sweep on three sources and five detections, with a detector."""
    model, data = mixture("linear", device, sizes=(batch, frames, 5, 3))
    engine = engine_of({"name": "vem"}, model, data)
    return partial(engine.stepper.sweep, data)


def tvnf(batch: int, frames: int, device: torch.device) -> Body:
    """Return a training step of the density of one class, of the paper's sizes."""
    torch.manual_seed(0)
    return classes.step(classes.tvnf(), torch.randn(batch, frames, classes.DIM).to(device))


def dvae(name: str, batch: int, device: torch.device) -> Body:
    """Return a training step of a dynamical VAE of speech."""
    model, data = speech.problem(name, "small", batch, device)
    guide, elbo = Amortised(model), PathELBO()
    return training_step(model, lambda: elbo.differentiable_loss(model, guide, data))
