"""The README's Python runs as it stands there."""

import re
from pathlib import Path

import pyro
import pytest
import torch

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SPEECH, DENSITIES, CLASSES, YOURS, TRACKING = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_example_runs_and_its_bound_rises():
    names: dict[str, object] = {}
    exec(TRACKING, names)
    losses = names["losses"]
    assert losses[-1] < losses[0]
    assert {"posterior", "log_likelihood", "observed_data"} <= set(names["data"].groups())


def test_a_speech_model_is_built_of_three_parts_and_learns():
    names: dict[str, object] = {}
    torch.manual_seed(0)
    exec(SPEECH, names)
    assert names["losses"][-1] < 0.7 * names["losses"][0]
    assert names["new"].shape == (8, 1, 1, 20, 65)
    other = names["PathELBO"]()(names["model"], names["other"])
    assert torch.isfinite(other(names["batch"]))
    pyro.clear_param_store()


def test_five_classes_are_one_batch():
    names: dict[str, object] = {}
    exec(DENSITIES, names)
    assert names["x"].shape == (8, 5, 12, 2)
    torch.testing.assert_close(names["posterior"].sum(-1), torch.ones(8))


def test_a_bank_is_trained_calibrated_and_decides():
    names: dict[str, object] = {}
    exec(CLASSES, names)
    labels, decision = names["data"].test.labels, names["decision"]
    made = decision.label >= 0
    assert 0.5 < made.double().mean() < 1
    right = (decision.label == labels)[made].double().mean()
    everyone = (names["posterior"].probs.argmax(-1) == labels).double().mean()
    assert right > max(everyone, 0.95)


def test_your_own_program_is_fitted_and_judged():
    names: dict[str, object] = {}
    exec(YOURS, names)
    draws, x = names["posterior"].sample(2000)["mean"], names["x"]
    assert draws.mean().item() == pytest.approx(x.sum().item() / 12.25, abs=0.1)
    assert names["report"].overall == "trust"
