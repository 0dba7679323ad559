"""`pyromodels report EXAMPLE`: the verdicts on the shipped examples are those known beforehand."""

import json

import pytest

from pyromodels.experiments.command import cli
from pyromodels.experiments.demonstrations.report_examples import EXAMPLES

QUICK = ["--num-draws", "300", "--num-simulations", "100"]


@pytest.mark.parametrize(
    ("name", "overall", "words"),
    [
        ("exact", "trust", ["s: trust", "w: trust", "joint: trust", "prediction: trust"]),
        ("crossing", "do not trust", ["s: do not trust", "under-dispersed: s["]),
        ("ambiguous", "do not trust", ["s: do not trust", "not on who is who", "align the labels"]),
        ("narrow", "do not trust", ["s: do not trust", "under-dispersed: s[", "w: trust"]),
    ],
)
def test_verdicts_of_the_shipped_examples(tmp_path, capsys, name, overall, words):
    assert cli.main(["report", name, "--out", str(tmp_path), *QUICK]) == 0
    shown = capsys.readouterr().out
    assert f"verdict: {overall}\n" in shown
    assert [word for word in words if word not in shown] == []
    assert f"**Verdict: {overall}.**" in (tmp_path / "report.md").read_text()
    assert "k_hat/s" in json.loads((tmp_path / "metrics.json").read_text())
    assert {"spec.toml", "environment.json", "ranks.png"} <= {p.name for p in tmp_path.iterdir()}


def test_every_example_is_a_command():
    assert set(cli.names("report")) == {*EXAMPLES, "spec", "speech"}


def test_a_spec_gets_its_verdict(tmp_path, capsys):
    arguments = ["mot_smoke", "--set", "model.detector=false", "--set", "data.num_frames=8"]
    few = ["--num-simulations", "12", "--num-draws", "100"]
    assert cli.main(["report", "spec", *arguments, *few, "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "mot_smoke: may its posterior be trusted?" in shown and "verdict: " in shown
    assert "k_hat/s" in json.loads((tmp_path / "metrics.json").read_text())


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["exatc"], "did you mean 'exact'?"),
        (["exact", "--num-draws", "5"], "--num-draws: given 5; expected 100 or more"),
        (["exact", "--num-simulations", "4"], "--num-simulations: given 4; expected 0, or 10"),
    ],
)
def test_what_cannot_be_done_is_said(capsys, argv, words):
    assert cli.main(["report", *argv]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_nuts_may_be_the_reference(tmp_path, capsys):
    few = ["--num-simulations", "0", "--num-draws", "400", "--out", str(tmp_path)]
    assert cli.main(["report", "exact", "--reference", "nuts", *few]) == 0
    assert "reference: means differ by up to" in capsys.readouterr().out
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert any(name.startswith("reference/") for name in figures)
