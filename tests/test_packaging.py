"""What is installed under which name, and the one direction of imports."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pyromodels

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("pyromodels", "inference", "experiments")
"""Each imports itself and what stands before it."""


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def imported(source: str) -> set[str]:
    """Modules, or names in them, that a file imports absolutely, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def floor(module: str) -> str:
    """The top-level folder that a module of ours lies in; "" of any other module."""
    first, *rest = module.split(".")
    if first != "pyromodels":
        return first if first in ("tests", *FLOORS) else ""
    return rest[0] if rest and rest[0] in FLOORS[1:] else first


def test_imported_sees_every_form():
    source = "import a.b\nfrom c import d\nfrom . import e\ndef f():\n    import g as h\n"
    assert imported(source) == {"a.b", "c.d", "g"}


def test_floor_knows_the_names_of_a_checkout_and_of_an_installation():
    assert floor("pyromodels.registry.GUIDES") == "pyromodels"
    assert floor("pyromodels.inference.engines") == floor("inference.engines") == "inference"
    assert floor("torch.nn") == ""


@pytest.mark.parametrize("package", FLOORS)
def test_imports_point_one_way(package):
    may = {"", *FLOORS[: FLOORS.index(package) + 1]}
    files = list((ROOT / package).rglob("*.py"))
    assert files
    upwards = {str(f): {m for m in imported(f.read_text()) if floor(m) not in may} for f in files}
    if package == "pyromodels":  # `python -m pyromodels` is the command; names at the top are lazy
        for doors in ("__main__.py", "__init__.py"):
            del upwards[str(ROOT / "pyromodels" / doors)]
    assert {f: found for f, found in upwards.items() if found} == {}


def test_runs_know_no_task():
    """What reads, builds, compares and shows a spec learns of its task from the registry alone."""
    floor_of_tasks = "pyromodels.experiments."
    shared = {f"{floor_of_tasks}{name}" for name in ("harness", "runs", "command")}
    files = list((ROOT / "experiments" / "runs").glob("*.py"))
    assert files
    found = {
        f"{f.name}: {module}"
        for f in files
        for module in imported(f.read_text())
        if module.startswith(floor_of_tasks)
        and not any(module.startswith(f"{name}.") for name in shared)
        and module != f"{floor_of_tasks}datasets.DATASETS"
    }
    assert found == set()


MODELS_OWN = (
    "inference.mixture", "inference.additive", "inference.enhancement", "inference.published",
)
"""Where inference is written for one family of models; everything else takes any."""
GUIDES_OF_ANY_MODEL = ("auto", "base", "empirical", "free_form", "point")


def of_one_model(module: str) -> bool:
    """Whether a module, or a name in one, belongs to one model, its guides or its inference."""
    parts = module.removeprefix("pyromodels.").split(".")
    if parts[0] == "guides":
        return len(parts) < 2 or parts[1] not in GUIDES_OF_ANY_MODEL
    if parts[0] == "dynamics":
        return parts[1:2] != ["base"]
    return parts[0] == "models" or ".".join(parts[:2]) in MODELS_OWN


def test_what_is_of_one_model_is_told_from_what_is_of_any():
    assert of_one_model("pyromodels.models.mixdvae.MixDVAE")
    assert of_one_model("pyromodels.guides.mean_field.MeanField")
    assert of_one_model("pyromodels.inference.mixture.vem.VEM")
    assert of_one_model("pyromodels.dynamics.linear.LinearGaussian")
    assert not of_one_model("pyromodels.dynamics.base.SourcePrior")
    assert not of_one_model("pyromodels.guides.empirical.Empirical")
    assert not of_one_model("pyromodels.inference.engines.svi.SVI")


def test_inference_knows_models_through_protocols_alone():
    found = {}
    for file in (ROOT / "inference").rglob("*.py"):
        folder = ".".join(("inference", *file.relative_to(ROOT / "inference").parts[:-1]))
        if folder not in MODELS_OWN:
            found[str(file)] = {m for m in imported(file.read_text()) if of_one_model(m)}
    assert len(found) > 30
    assert {file: names for file, names in found.items() if names} == {}


def test_no_file_uses_the_name_that_only_a_checkout_has():
    found = [
        str(f)
        for name in (*FLOORS, "tests")
        for f in (ROOT / name).rglob("*.py")
        if {m.partition(".")[0] for m in imported(f.read_text())} & {"inference", "experiments"}
    ]
    assert found == []


def test_every_folder_with_code_is_a_package_and_no_test_is(setup):
    listed = setup["options"]["packages"].split()
    folders = {f.parent.relative_to(ROOT) for name in FLOORS for f in (ROOT / name).rglob("*.py")}
    assert len(listed) == len(set(listed))
    assert set(listed) == {
        ".".join(folder.parts if folder.parts[0] == "pyromodels" else ("pyromodels", *folder.parts))
        for folder in folders
    }


def test_contributing_says_what_every_room_holds(setup):
    places = (ROOT / "CONTRIBUTING.md").read_text().partition("## To add")[0]
    rooms = {
        "/".join(name.split(".")[-2:])
        for name in setup["options"]["packages"].split()
        if name.count(".") == 1 + name.startswith(("pyromodels.inference", "pyromodels.exp"))
    }
    assert len(rooms) > 25
    assert {room for room in rooms if f"`{room}`" not in places} == set()


def test_data_files_are_in_the_packages_that_ship_them(setup):
    for package, patterns in setup["options.package_data"].items():
        folder = ROOT / package.rpartition(".")[2]
        shipped = {f for pattern in patterns.split() for f in folder.glob(pattern)}
        present = {
            f
            for suffix in ("json", "safetensors", "toml")
            for f in folder.rglob(f"*.{suffix}")
        }
        assert present <= shipped


def test_every_core_dependency_is_pinned_once(setup):
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    pins = [Requirement(line) for line in lines]
    pinned = {canonicalize_name(pin.name): pin.specifier for pin in pins}
    assert len(pinned) == len(pins)
    options = setup["options"]["install_requires"] + setup["options.extras_require"]["dev"]
    for wanted in map(Requirement, filter(None, options.splitlines())):
        if wanted.marker is None or wanted.marker.evaluate():
            version = str(pinned[canonicalize_name(wanted.name)]).removeprefix("==")
            assert wanted.specifier.contains(version), wanted


def test_the_name_belongs_to_this_distribution():
    owners = metadata.packages_distributions()
    if "pyromodels" not in owners:
        pytest.skip("pyromodels is not installed")
    assert set(owners["pyromodels"]) == {"pyromodels"}
    entry_points = metadata.entry_points(group="console_scripts", name="pyromodels")
    assert {point.value for point in entry_points} == {"pyromodels.experiments.command.cli:main"}


def test_every_name_at_the_top_is_what_its_module_defines():
    names = set(dir(pyromodels))
    assert {"MixDVAE", "HiT", "TVNF", "DynamicalVAE", "Spectral", "Posterior", "SVI"} <= names
    for name, module in pyromodels._homes().items():
        assert name in names and getattr(pyromodels, name).__module__ == module
    with pytest.raises(AttributeError, match="no attribute 'HIT'"):
        _ = pyromodels.HIT


HEAVY = ("torch", "numpy", "pyro", "scipy", "matplotlib", "arviz")


@pytest.mark.parametrize(
    "code",
    [
        "import pyromodels; dir(pyromodels); pyromodels.__version__",
        "import pyromodels.experiments.command.cli as c; c.main(['list'])",
        "import pyromodels.experiments.command.cli as c; c.main(['run'])",
    ],
)
def test_what_must_be_there_at_once_imports_no_library(code):
    after = f"import sys; print([m for m in {HEAVY} if m in sys.modules])"
    command = f"try:\n    {code}\nexcept SystemExit: pass\n{after}"
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version_is_that_of_the_distribution(setup):
    assert setup["metadata"]["version"] == "attr: pyromodels.__version__"
    assert tuple(map(int, pyromodels.__version__.split("."))) >= (0, 1, 0)
