"""Fixtures of the experiments' tests."""

import pytest

from pyromodels.experiments.harness.records import RUNS


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    """Trained weights and made data of a test lie in its own folder, not in the checkout."""
    monkeypatch.setenv(RUNS, str(tmp_path / "runs"))
    return tmp_path / "runs"
