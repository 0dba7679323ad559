"""Pages of measurements say what their runs found, how they were made, and nothing else."""

import json
import re
import shlex
import subprocess
from types import SimpleNamespace

import pytest

from pyromodels.errors import SpecError
from pyromodels.experiments.command import cli
from pyromodels.experiments.results import write
from pyromodels.experiments.results.pages import (
    DATA,
    PAGES,
    Page,
    Run,
    column_first,
    column_only,
    row_first,
)

VERSIONS = {name: "1.0" for name in write.VERSIONS}


def finished(folder, metrics, *, torch="2.0"):
    """A folder as a run leaves it."""
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    made = {"python": "3.11", "versions": VERSIONS | {"torch": torch}, "time": "2026-11-27"}
    (folder / "environment.json").write_text(json.dumps(made))
    return folder


def tracking_page(*commands):
    runs = tuple(Run("set A", row, command) for row, command in commands)
    return Page("Title", "About.", {"mota": ("MOTA", ".1f"), "fn": ("FN", ".0f")}, runs, row_first)


def test_a_page_holds_the_figures_of_its_runs_and_their_commands(tmp_path):
    page = tracking_page(("linear", "run mot --data DATA/a.npz"), ("deep", "run mot --preset deep"))
    one = finished(tmp_path / "1", {"mota": 98.76, "kalman/mota": 50.04, "kalman/fn": 7.0,
                                    "seconds_per_sequence": 0.3, "other": 4.0})
    two = finished(tmp_path / "2" / "inner", {"mota": 40.0, "fn": None}).parent
    folders = dict(zip(page.runs, (one, two), strict=True))
    path = write.write_page("a", page, folders, tmp_path / "docs", tmp_path)
    lines = path.read_text().splitlines()
    start = lines.index("## set A") + 2
    assert lines[start : start + 5] == [
        "|  | MOTA | FN |", "| --- | --- | --- |", "| linear | 98.8 | - |", "| kalman | 50.0 | 7 |",
        "| deep | 40.0 | - |",
    ]
    assert "pyromodels run mot --data DATA/a.npz" in lines
    assert any("`pyromodels results a --data DATA`" in line for line in lines)
    assert any("torch 2.0" in line for line in lines)
    figures = json.loads(path.with_suffix(".json").read_text())
    assert figures["run mot --data DATA/a.npz"]["mota"] == 98.76
    text = path.read_text() + path.with_suffix(".json").read_text()
    assert "seconds" not in text and "2026" not in text and str(tmp_path) not in text


def test_standard_errors_stand_beside_their_means(tmp_path):
    page = tracking_page(("tvnf", "table tvnf-1"))
    folder = finished(tmp_path / "1", {"a/mota": 97.0, "a/mota_se": 1.04, "b/mota": 95.0})
    text = write.write_page("t", page, {page.runs[0]: folder}, tmp_path, None).read_text()
    assert "| a | 97.0 ± 1.0 |" in text and "| b | 95.0 |" in text


def test_runs_of_other_versions_are_not_joined(tmp_path):
    page = tracking_page(("a", "run mot"), ("b", "run mot --seed 1"))
    folders = {run: finished(tmp_path / run.row, {"mota": 1.0}, torch=f"2.{n}")
               for n, run in enumerate(page.runs)}
    with pytest.raises(SpecError, match=r"other versions.*torch 2\.0.*torch 2\.1"):
        write.write_page("a", page, folders, tmp_path / "docs", None)


def test_a_run_that_did_not_end_is_no_row(tmp_path):
    page = tracking_page(("a", "run mot"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match="did not end"):
        write.write_page("a", page, {page.runs[0]: tmp_path / "empty"}, tmp_path / "docs", None)
    assert not (tmp_path / "docs").exists()


def test_the_verdict_of_a_report_is_a_figure(tmp_path):
    (folder := finished(tmp_path / "r", {"k_hat/s": 0.3})).joinpath("report.md").write_text(
        "# T\n\n**Verdict: trust; joint: do not trust.**\n")
    page = PAGES["reports"]
    made = write.write_page("reports", page, dict.fromkeys(page.runs, folder), tmp_path, None)
    assert "| exact | trust; joint: do not trust | 0.30 |" in made.read_text()


@pytest.mark.parametrize(("split", "key", "expected"), [
    (row_first, "mota", ("", "mota")),
    (row_first, "kalman/mota", ("kalman", "mota")),
    (column_first, "bound/pyro.infer.SVI", ("pyro.infer.SVI", "bound")),
    (column_first, "evidence", ("the evidence, by enumeration", "bound")),
    (column_first, "slope", ("VEM", "slope")),
    (column_only, "k_hat/s", ("", "k_hat/s")),
])
def test_keys_name_a_row_and_a_column(split, key, expected):
    assert split(key) == expected


@pytest.mark.parametrize("name", PAGES)
def test_every_run_of_every_page_is_a_command_with_a_seed(name):
    for run in PAGES[name].runs:
        words = shlex.split(run.command)
        assert {"--seed", "--seeds"} & set(words) and "--out" not in words
        args = cli.parse([*words, "--out", "x"])
        assert callable(args.main)


def test_a_page_makes_its_runs_or_takes_what_is_there(tmp_path, monkeypatch, capsys):
    made = []

    def run(command, **options):
        made.append(command)
        finished(tmp_path / "runs" / "inference" / "01", {"bound/VEM": -7.17, "evidence": -4.5})
        return SimpleNamespace(returncode=0, stdout="")

    monkeypatch.setattr(subprocess, "run", run)
    where = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "docs")]
    assert cli.main(["results", "inference", *where]) == 0
    assert cli.main(["results", "inference", "--reuse", *where]) == 0
    assert len(made) == 1 and made[0][1:5] == ["-m", "pyromodels", "table", "inference"]
    assert "| VEM | -7.1700 |" in (tmp_path / "docs" / "inference.md").read_text()


def test_a_run_that_fails_is_named(tmp_path, monkeypatch, capsys):
    failed = SimpleNamespace(returncode=2, stdout="no such thing")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    assert cli.main(["results", "inference", "--out", str(tmp_path)]) == 2
    assert re.search(r"table inference.* ended with 2: no such thing", capsys.readouterr().err)


def test_the_data_are_asked_for_before_anything_runs(monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("ran"))
    assert cli.main(["results", "inference", "tracking"]) == 2
    assert f"the folder that its commands call {DATA}" in capsys.readouterr().err
