"""The README's Python runs as it stands there."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
YOURS, TRACKING = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_example_runs_and_its_bound_rises():
    names: dict[str, object] = {}
    exec(TRACKING, names)
    losses = names["losses"]
    assert losses[-1] < losses[0]
    assert {"posterior", "log_likelihood", "observed_data"} <= set(names["data"].groups())


def test_your_own_program_is_fitted_and_judged():
    names: dict[str, object] = {}
    exec(YOURS, names)
    draws, x = names["posterior"].sample(2000)["mean"], names["x"]
    assert draws.mean().item() == pytest.approx(x.sum().item() / 12.25, abs=0.1)
    assert names["report"].overall == "trust"
