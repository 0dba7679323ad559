"""What is installed under which name, and the one direction of imports."""

from __future__ import annotations

import ast
import configparser
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools import find_packages

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "pyromodels": {"pyromodels"},
    "inference": {"pyromodels", "inference"},
    "experiments": {"pyromodels", "inference", "experiments"},
}


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def imported(source: str) -> set[str]:
    """Top-level names that a file imports absolutely, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def test_imported_sees_every_form():
    source = "import a.b\nfrom c import d\nfrom . import e\ndef f():\n    import g as h\n"
    assert imported(source) == {"a", "c", "g"}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package):
    never = {*MAY_IMPORT, "tests"} - MAY_IMPORT[package]
    files = list((ROOT / package).rglob("*.py"))
    assert files
    assert {str(f): found for f in files if (found := imported(f.read_text()) & never)} == {}


def test_every_folder_with_code_is_a_package_and_no_test_is(setup):
    include = setup["options.packages.find"]["include"].split()
    found = set(find_packages(str(ROOT), include=include))
    folders = {f.parent for name in MAY_IMPORT for f in (ROOT / name).rglob("*.py")}
    assert found == {".".join(folder.relative_to(ROOT).parts) for folder in folders}


def test_data_files_are_in_the_packages_that_ship_them(setup):
    for package, patterns in setup["options.package_data"].items():
        shipped = {f for pattern in patterns.split() for f in (ROOT / package).glob(pattern)}
        present = {
            f
            for suffix in ("json", "safetensors", "toml")
            for f in (ROOT / package).rglob(f"*.{suffix}")
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


def test_the_three_names_belong_to_this_distribution():
    owners = metadata.packages_distributions()
    if "pyromodels" not in owners:
        pytest.skip("pyromodels is not installed")
    assert {name: set(owners[name]) for name in MAY_IMPORT} == dict.fromkeys(
        MAY_IMPORT, {"pyromodels"}
    )
    entry_points = metadata.entry_points(group="console_scripts", name="pyromodels")
    assert {point.value for point in entry_points} == {"experiments.cli:main"}
