"""`pyromodels doctor`: what is installed, on which device, what is missing and how to get it.

Imports nothing of the library or its dependencies before it has checked that they are there.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyromodels.experiments.harness.records import DISTRIBUTION, requirements

if TYPE_CHECKING:
    from packaging.requirements import Requirement

IMPORT_NAMES = {"pyro-ppl": "pyro"}  # where they differ from the project's


class Finding(NamedTuple):
    """One line of the report; a fix marks what is missing, `core` what nothing works without."""

    text: str
    fix: str = ""
    core: bool = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def main(args: argparse.Namespace) -> int:
    """Print the report; 0 if the core works, 1 if not."""
    sections = {
        "python": _python,
        "core dependencies": _core,
        "optional extras": _extras,
        "device": _device,
        "import names": _import_name,
        "shipped weights": _weights,
    }
    healthy = True
    for title, findings in sections.items():
        print(title)
        for finding in findings():
            print(f"  {finding.text}")
            if finding.fix:
                print(f"    fix: {finding.fix}")
                healthy &= not finding.core
    print("the core works" if healthy else "the core does not work: see the lines marked 'fix'")
    return 0 if healthy else 1


def _python() -> Iterator[Finding]:
    fix = "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer"
    yield Finding(f"{platform.python_version()} at {sys.executable}", fix)
    yield Finding(platform.platform())


def _core() -> Iterator[Finding]:
    try:
        needed = requirements()
    except metadata.PackageNotFoundError:
        yield Finding("pyromodels is not installed", "pip install -e . in the repository")
        return
    except ModuleNotFoundError:
        yield Finding("packaging is missing", "pip install packaging")
        return
    for requirement in needed:
        yield _check(requirement)


def _check(requirement: Requirement, *, core: bool = True) -> Finding:
    """Version against requirement; for the core also whether it can be imported."""
    name, wanted = requirement.name, str(requirement.specifier) or "any"
    fix = f"pip install '{name}{requirement.specifier}'"
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(f"{name:<14} missing (needs {wanted})", fix, core)
    if not requirement.specifier.contains(installed, prereleases=True):
        return Finding(f"{name:<14} {installed} (needs {wanted})", fix, core)
    if core:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # arviz announces its next version
                importlib.import_module(IMPORT_NAMES.get(name, name))
        except Exception as error:
            text = f"{name:<14} {installed} cannot be imported: {type(error).__name__}: {error}"
            return Finding(text, f"pip install --force-reinstall '{name}{requirement.specifier}'")
    return Finding(f"{name:<14} {installed} (needs {wanted})")


def _extras() -> Iterator[Finding]:
    try:
        extras = metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
        checks = {e: [_check(r, core=False) for r in requirements(e)] for e in extras}
    except ModuleNotFoundError:
        return
    for extra, findings in checks.items():
        lacking = [finding.text.split()[0] for finding in findings if finding.fix]
        if lacking:
            fix = f"pip install '{DISTRIBUTION}[{extra}]'"
            yield Finding(f"{extra}: lacks {', '.join(lacking)}", fix, core=False)
        else:
            yield Finding(f"{extra}: complete")


def _device() -> Iterator[Finding]:
    try:
        import torch
    except Exception:  # reported, with its fix, among the core dependencies
        yield Finding("unknown: torch cannot be imported")
        return
    yield Finding(f"cpu: {torch.get_num_threads()} threads of {os.cpu_count()} cores")
    if not torch.cuda.is_available():
        yield Finding(f"cuda: none (torch {torch.__version__})")
    for number in range(torch.cuda.device_count()):
        name = f"cuda:{number}: {torch.cuda.get_device_name(number)}"
        fix = "install a torch that was built for this GPU and its driver, or use --device cpu"
        try:
            problem = _computes(f"cuda:{number}")
        except RuntimeError as error:  # no kernel for it, no memory left, ...
            problem = str(error).splitlines()[0]
        yield Finding(f"{name}, {problem or 'computes'}", fix if problem else "", core=False)


def _computes(device: str) -> str:
    """Compute a product, a factor and a recurrent layer there; what differs from the CPU, or ""."""
    import torch

    generator = torch.Generator().manual_seed(0)  # not the global one: a command may have seeded it
    x = torch.randn(4, 8, 8, generator=generator)
    layer = torch.nn.LSTM(8, 8, device="meta").to_empty(device="cpu").requires_grad_(False)
    for weight in layer.parameters():
        weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    for name, run in {
        "a matrix product": lambda x, layer: x @ x,
        "a Cholesky factor": lambda x, layer: torch.linalg.cholesky(x @ x.mT + torch.eye(8).to(x)),
        "a recurrent layer": lambda x, layer: layer(x)[0],
    }.items():
        expected, found = run(x, layer.cpu()), run(x.to(device), layer.to(device)).cpu()
        if not torch.allclose(found, expected, rtol=1e-2, atol=1e-2):  # TF32 is good to 1e-3
            return f"but {name} differs from the CPU's by {(found - expected).abs().max():.2g}"
    return ""


def _import_name() -> Iterator[Finding]:
    owners = metadata.packages_distributions().get(DISTRIBUTION, [])
    others = sorted(set(owners) - {DISTRIBUTION})
    if others:
        fix = f"pip uninstall {' '.join(others)}; then install {DISTRIBUTION} again"
        yield Finding(f"{DISTRIBUTION}: also installed by {', '.join(others)}", fix)
    else:
        yield Finding(f"{DISTRIBUTION}: {_home()}")


def _home() -> Path:
    return Path(importlib.import_module(DISTRIBUTION).__file__).resolve().parent


def _weights() -> Iterator[Finding]:
    folder = _home() / "weights"
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        fix = "pyromodels train srnn-mot, or install pyromodels again"
        yield Finding(f"none in {folder}", fix, core=False)
        return
    try:
        from safetensors import safe_open
    except Exception:  # reported, with its fix, among the core dependencies
        yield Finding("unknown: safetensors cannot be imported")
        return
    for file in files:
        try:
            with safe_open(file, framework="numpy") as tensors:
                yield Finding(f"{file.name}: {len(tensors.keys())} tensors")
        except Exception as error:
            yield Finding(f"{file.name}: unreadable: {error}", "install pyromodels again")
