"""Examples in docstrings run, collected by module name: one module, one identity."""

import doctest
import importlib
import pkgutil

import pytest

FLOORS = ("pyromodels", "pyromodels.inference", "pyromodels.experiments")
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def modules():
    """Every module of the library: not what else lies in the root of a checkout."""
    yield "pyromodels"
    for floor in FLOORS:
        folders = importlib.import_module(floor).__path__
        yield from (m.name for m in pkgutil.walk_packages(folders, f"{floor}."))


def examples():
    for name in modules():
        if name.rpartition(".")[2] != "__main__":
            yield from (t for t in doctest.DocTestFinder().find(importlib.import_module(name))
                        if t.examples)


@pytest.mark.parametrize("test", list(examples()), ids=lambda test: test.name)
def test_example(test):
    failed, tried = doctest.DocTestRunner(optionflags=FLAGS).run(test)
    assert tried and not failed
