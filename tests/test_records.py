"""Run records: the same run in the same place, whole files, numbers only."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyromodels.errors import SpecError
from pyromodels.experiments.harness.records import open_run, replacing, to_toml

SPEC = {"seed": 0, "model": {"name": "mixdvae", "prior": {"name": "linear", "sizes": [8, 8]}}}

text = st.text(st.characters(exclude_categories=["Cs"]))
scalars = text | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
values = st.recursive(scalars, lambda v: st.lists(v) | st.dictionaries(text, v), max_leaves=12)


@given(st.dictionaries(text, values))
def test_toml_is_read_back_as_written(table):
    assert tomllib.loads(to_toml(table)) == table


def test_default_folder_is_named_for_the_run_and_its_spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, again = open_run(None, "mot", SPEC), open_run(None, "mot", dict(reversed(SPEC.items())))
    other = open_run(None, "mot", SPEC | {"seed": 1})
    assert first.path == again.path != other.path
    assert first.path.parent == Path("runs")
    assert first.path.name.startswith("mot-")


def test_a_folder_holds_spec_and_environment_from_the_start(tmp_path):
    run = open_run(tmp_path / "a" / "b", "mot", SPEC)
    assert tomllib.loads((run.path / "spec.toml").read_text()) == SPEC
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert {"python", "platform", "command", "time"} <= environment.keys()


def test_spec_is_reduced_to_plain_data(tmp_path):
    run = open_run(tmp_path, "mot", {"data": Path("a/b"), "sizes": (1, 2), "weights": None})
    assert tomllib.loads((run.path / "spec.toml").read_text()) == {"data": "a/b", "sizes": [1, 2]}


@pytest.mark.parametrize("value", [torch.ones(2), object(), {1, 2}, [None]])
def test_what_toml_cannot_hold_is_named_and_leaves_no_folder(tmp_path, value):
    with pytest.raises(SpecError, match=r"mot\.model\.x.*expected a table"):
        open_run(tmp_path / "run", "mot", {"model": {"x": value}})
    assert not (tmp_path / "run").exists()


def test_metrics_are_flat_numbers_of_any_library(tmp_path):
    run = open_run(tmp_path, "mot", SPEC)
    path = run.write_metrics(
        {
            "mota": 0.5,
            "ids": np.int64(3),
            "kalman/mota": np.float32(0.25),
            "elbo": torch.tensor(-1.5),
        }
    )
    expected = {"mota": 0.5, "ids": 3, "kalman/mota": 0.25, "elbo": -1.5}
    assert json.loads(path.read_text()) == expected


def test_a_metric_that_is_not_finite_is_null_and_named(tmp_path):
    run = open_run(tmp_path, "mot", SPEC)
    with pytest.warns(RuntimeWarning, match="null: idf1, gospa"):
        path = run.write_metrics({"mota": 1.0, "idf1": float("nan"), "gospa": np.inf})
    assert json.loads(path.read_text()) == {"mota": 1.0, "idf1": None, "gospa": None}


@pytest.mark.parametrize("value", [True, "0.5", {"mota": 1.0}, torch.ones(2), None])
def test_a_metric_that_is_no_number_is_refused_whole(tmp_path, value):
    run = open_run(tmp_path, "mot", SPEC)
    with pytest.raises(SpecError, match="metric 'kalman'.*a number"):
        run.write_metrics({"mota": 1.0, "kalman": value})
    assert not (run.path / "metrics.json").exists()


def test_opening_again_drops_the_earlier_metrics(tmp_path):
    open_run(tmp_path, "mot", SPEC).write_metrics({"mota": 1.0})
    open_run(tmp_path, "mot", SPEC | {"seed": 1})
    assert not (tmp_path / "metrics.json").exists()


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "figure.png"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as part:
        assert part.suffix == ".png"
        part.write_text("half")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["figure.png"]
    assert path.read_text() == "old"
