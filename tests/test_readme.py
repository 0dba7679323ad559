"""The README's Python runs as it stands there."""

import re
from pathlib import Path


def test_the_example_runs_and_its_bound_rises():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    exec(re.search(r"```python\n(.*?)```", readme, re.DOTALL).group(1), names)
    losses = names["losses"]
    assert losses[-1] < losses[0]
    assert {"posterior", "log_likelihood", "observed_data"} <= set(names["data"].groups())
