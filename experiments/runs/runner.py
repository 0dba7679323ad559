"""`pyromodels run SPEC.toml`: build what a spec says, fit it, measure it, keep everything."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyromodels.errors import SpecError
from pyromodels.experiments.harness.devices import add_device_argument, use_device
from pyromodels.experiments.harness.experiment import Outcome, experiment, naming
from pyromodels.experiments.harness.figures import save
from pyromodels.experiments.harness.records import RunFolder, open_run
from pyromodels.experiments.runs.spec import Spec, load_spec, make_spec, read_table
from pyromodels.inference.training.seeding import seed_all


class Built(NamedTuple):
    """A run before its first step."""

    spec: Spec
    data: Any  # what the experiment's `data` returned
    model: Any  # what its `model` returned


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_spec(parser)
    parser.add_argument("--seed", type=int, help="in place of the spec's")
    add_results(parser)


def add_results(parser: argparse.ArgumentParser) -> None:
    """Declare where the results of a run go."""
    parser.add_argument("--out", type=Path, help="folder for the results (default: runs/...)")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--no-plots", action="store_true", help="write no figures")


def add_spec(parser: argparse.ArgumentParser) -> None:
    """Declare which spec, and what changes it: `--set` and `--device`."""
    parser.add_argument("spec", help="a TOML file, or the name of a shipped spec")
    add_settings(parser)
    add_device_argument(parser, of_spec=True)


def add_changes(parser: argparse.ArgumentParser) -> None:
    """Declare what changes a spec that is known: `--seed`, `--set`, `--device`; and the results."""
    parser.add_argument("--seed", type=int, help="in place of the spec's")
    add_settings(parser)
    add_device_argument(parser, of_spec=True)
    add_results(parser)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Declare `--set`."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="change the spec, e.g. model.prior.dynamics.name=linear; may be repeated",
    )


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    return report_run(
        load_spec(args.spec, settings=args.settings, seed=args.seed, device=args.device), args
    )


def report_run(spec: Spec, args: argparse.Namespace) -> int:
    """Run a spec, print what came of it and where it lies; `args` are those of `add_results`."""
    folder, outcome = run_spec(spec, args.out, resume=args.resume, draw=not args.no_plots)
    print(f"\n{experiment(spec.experiment).summary(outcome)}\n\nresults: {folder.path}")
    return 0


def run_each(
    args: argparse.Namespace, files: Sequence[Path], table_of: Callable[[Path], dict[str, Any]]
) -> int:
    """Run a spec of every file, each into a folder of its own; all are checked before the first.

    Args:
        args: those of `add_changes`.
        files: one or more.
        table_of: file -> table of its spec.
    """
    specs = [make_spec(table_of(file), args.settings, args.seed, args.device) for file in files]
    for file, spec in zip(files, specs, strict=True):
        out = args.out if len(files) == 1 or args.out is None else args.out / file.name
        report_run(spec, argparse.Namespace(**vars(args) | {"out": out}))
    return 0


def run_spec(
    spec: Spec, out: Path | None = None, *, resume: bool = False, draw: bool = True
) -> tuple[RunFolder, Outcome]:
    """Build, fit, measure and keep a run; nothing is written before it can be built.

    Args:
        spec: what to run.
        out: folder for the results; None for `runs/<name>-<hash of the spec>`.
        resume: go on from the folder's last checkpoint, where there is one.
        draw: write figures too.

    Raises:
        SpecError: where the parts of the spec do not fit each other, or `resume` is asked for in
            the folder of another spec.
        OSError: where data or weights are missing.
    """
    built = build(spec)
    if resume and out is not None:
        _check_same(Path(out) / "spec.toml", spec)
    folder = open_run(out, spec.name, spec.to_table())
    outcome = fit(built, folder=folder.path / "checkpoints", resume=resume)
    task = experiment(spec.experiment)
    task.keep(folder, outcome)
    folder.write_metrics(outcome.metrics)
    if draw:
        for name, figure in task.figures(outcome).items():
            save(figure, folder.path / f"{name}.png")
    return folder, outcome


def build(spec: Spec) -> Built:
    """Return the data of a spec, and what is fitted to them, before the first step.

    Raises:
        SpecError: where the parts of the spec do not fit each other, or the device is missing.
        OSError: where data or weights are missing.
    """
    use_device(spec.device)
    seed_all(spec.seed)
    task = experiment(spec.experiment)
    with naming("data"):
        data = task.data(spec)
    with naming("model"):
        return Built(spec, data, task.model(spec, data))


def fit(built: Built, *, folder: Path | None = None, resume: bool = False) -> Outcome:
    """Fit what was built, and measure."""
    task = experiment(built.spec.experiment)
    started = time.perf_counter()
    fitted = task.fit(*built, folder=folder, resume=resume)
    outcome = Outcome(*built, fitted, time.perf_counter() - started)
    return outcome._replace(metrics={**task.metrics(outcome), "seconds": outcome.seconds})


def _check_same(path: Path, spec: Spec) -> None:
    """Raise `SpecError` where a folder holds the run of another spec."""
    if not path.is_file():
        return
    saved = make_spec(read_table(path), [])
    held, wanted = (_flat(each.to_table()) for each in (saved, spec))
    for key in sorted(held.keys() | wanted.keys()):
        if held.get(key) != wanted.get(key):
            given = f"{key} = {wanted.get(key)!r}"
            raise SpecError(
                f"--resume: {given}, but {path} has {held.get(key)!r}; resume with the same spec, "
                "or choose another folder"
            )


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys; the run's name is not compared."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" != "name":
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat
