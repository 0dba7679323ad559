"""What the benchmarks share: rivals timed in turn, the rows they print, the options they take."""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from pyromodels.experiments.harness.devices import (
    add_device_argument,
    synchronize,
    use_device,
)
from pyromodels.experiments.harness.records import write_rows

Row = dict[str, Any]
Part = Callable[[argparse.Namespace], Iterator[Row]]
"""Takes the options and yields rows as they are measured."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of every benchmark that uses `measure`."""
    add = parser.add_argument
    add("--repeats", type=int, default=7)
    add("--quick", action="store_true", help="small sizes, two repeats: to see that it works")
    add("--threads", type=int, default=1, help="of torch")
    add_device_argument(parser)
    add("--json", type=Path, metavar="FILE", help="write the rows there as well")


def measure(args: argparse.Namespace, parts: Iterable[Part]) -> None:
    """Measure, print the rows as they come, write them to `--json`."""
    use_device(args.device)
    if args.quick:
        args.repeats = min(args.repeats, 2)
    rows: list[Row] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    print(f"{'milliseconds':44}{'median':>10}{'min':>10}{'max':>10}{'cpu':>10}{'ratio':>8}")
    try:
        for part in parts:
            for row in part(args):
                rows.append({**row, "threads": args.threads, "device": args.device})
                print(text(rows[-1]), flush=True)
    finally:
        torch.set_num_threads(threads)
    if args.json:
        write_rows(args.json, rows)


def text(row: Row) -> str:
    """Return the line of a row."""
    keys = ("median", "min", "max", "cpu")
    seconds = "".join(f"{1e3 * row['seconds'][k]:>10.1f}" for k in keys)
    notes = "".join(
        f"   {key.replace('_', ' ')}: {row[key]:.3g}"
        for key in ("linear", "real_time_factor", "per_second", "quoted") if key in row
    )
    return f"{row['name']:44}{seconds}{row['ratio']:>8.2f}{notes}"


def training_step(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """Return a step of Adam on a loss."""
    adam = torch.optim.Adam(model.parameters(), lr=1e-5)

    def step() -> None:
        adam.zero_grad(set_to_none=True)
        loss().backward()
        adam.step()

    return step


def clock(
    body: Callable[[], Any], device: torch.device | str, *, most: int, enough: float
) -> list[float]:
    """Return the seconds of each run of a body, its kernels included.

    Args:
        body: what is run; it should have been run before, since first calls are slow.
        device: what is waited for.
        most: runs.
        enough: seconds after which no further run begins.
    """
    seconds: list[float] = []
    while not seconds or (len(seconds) < most and sum(seconds) < enough):
        synchronize(device)
        start = time.perf_counter()
        body()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return seconds


def in_turn(
    rivals: dict[str, Callable[[], Any]], args: argparse.Namespace, sizes: dict[str, int]
) -> Iterator[Row]:
    """Time each in turn, so that a busy machine slows all; ratios are to the first.

    Beside seconds by the clock stands `cpu`, the least that the process was at work: waiting for
    a core that others use does not count in it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    cpu: dict[str, list[float]] = {name: [] for name in rivals}
    for repeat in range(args.repeats + 1):  # the first pays for the first call of everything
        for name, run in rivals.items():
            synchronize(args.device)
            start, start_cpu = time.perf_counter(), time.process_time()
            run()
            synchronize(args.device)
            if repeat:
                seconds[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - start_cpu)
    first = median(next(iter(seconds.values())))
    for name, values in seconds.items():
        yield {
            "name": name, "sizes": sizes, "ratio": median(values) / first,
            "seconds": {
                "median": median(values), "min": min(values), "max": max(values),
                "cpu": min(cpu[name]),
            },
        }  # fmt: skip
