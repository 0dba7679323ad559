"""`pyromodels check NAME`: hold a registered component, yours or ours, against its contract."""

from __future__ import annotations

import argparse
import time

from pyromodels.errors import SpecError, unknown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("component", help="its name: see `pyromodels list`")


def main(args: argparse.Namespace) -> int:
    """Print a line for every check; 0 if all passed, 1 if one failed."""
    from pyromodels.experiments.runs.listing import REGISTRIES
    from pyromodels.testing import contract

    name, refusals, failures, found = args.component, [], 0, []
    for registry in (registry for registry in REGISTRIES if name in registry):
        try:
            found.append((registry.kind, contract(registry[name])))
        except SpecError as error:
            refusals.append(f"{registry.kind} {error}")
    if not found:
        known = {name for registry in REGISTRIES for name in registry}
        raise SpecError("; ".join(refusals) or unknown("component", given=name, known=known))
    for kind, checks in found:
        print(f"{kind} {name}")
        for label, test in checks:
            start = time.monotonic()
            try:
                test()
            except Exception as error:  # a component may fail in any way: that is the finding
                failures += 1
                said = " ".join(str(error).split()) or type(error).__name__
                print(f"  FAILED  {label}: {said}", flush=True)
            else:
                print(f"  ok      {label}  {time.monotonic() - start:.1f} s", flush=True)
    print(f"{failures} checks failed" if failures else "it keeps its contract")
    return 1 if failures else 0
