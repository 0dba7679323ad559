"""CONTRIBUTING's example keeps the contract, and what is no prior is refused by name."""

import re
from pathlib import Path

import pytest
from torch import nn

from pyromodels.errors import SpecError
from pyromodels.registry import DYNAMICS
from pyromodels.testing import check, source_prior_specs

TEXT = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text()


@pytest.fixture
def registry(monkeypatch):
    DYNAMICS.names()
    monkeypatch.setattr(DYNAMICS, "_components", dict(DYNAMICS._components))


def test_the_example_is_a_prior_that_keeps_the_contract(registry):
    (example,) = re.findall(r"```python\n(.*?@DYNAMICS.*?)```", TEXT, re.S)
    exec(compile(example, "CONTRIBUTING.md", "exec"), {"__name__": "contributing"})
    assert {"name": "my_prior"} in [{"name": s["name"]} for s in source_prior_specs()]
    check(DYNAMICS["my_prior"])


def test_a_module_that_is_no_prior_is_refused_by_name(registry):
    @DYNAMICS.register("no_prior")
    class NoPrior(nn.Module):
        """A module."""

    with pytest.raises(SpecError, match="'no_prior'.*NoPrior.*SourcePrior"):
        source_prior_specs()
