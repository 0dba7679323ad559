"""How many files a reader opens: those whose functions run, from a model's class to its numbers."""

import sys
from pathlib import Path

import pyro
import torch

from pyromodels.distributions.message import Anchor
from pyromodels.experiments.command.cli import main
from pyromodels.experiments.runs.listing import REGISTRIES
from pyromodels.registry import DYNAMICS

ROOT = Path(__file__).parents[1]
OF_EVERYTHING = {"registry.py", "components.py", "errors.py", "__init__.py"}
"""Names and messages, which all components share."""


def files_of(call):
    """Return which of our files have a function that runs in a call."""
    for registry in REGISTRIES:
        registry.names()  # imported before anything is counted
    seen = set()

    def note(frame, event, argument):
        if event == "call" and frame.f_code.co_name != "<module>":
            seen.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    paths = {Path(name).resolve() for name in seen if not name.startswith("<")}
    ours = {path.relative_to(ROOT) for path in paths if path.is_relative_to(ROOT)}
    return {path for path in ours if path.parts[0] != "tests" and path.name not in OF_EVERYTHING}


def test_srnn_from_its_class_to_its_numbers_is_a_dozen_files():
    box = torch.tensor([[0.1, 0.2, 0.2, 0.5]])
    anchor = Anchor(box, torch.full_like(box, 1e-5))

    def everything():
        prior = DYNAMICS.build({"name": "srnn", "emission": {"name": "gaussian"}})
        s = prior.sample_sources("s", 6, anchor=anchor)
        given = pyro.condition(prior.sample_sources, data={"s": s})
        pyro.poutine.trace(given).get_trace("s", 6, anchor=anchor).log_prob_sum()
        prior.guide_sources("s", s, anchor=anchor)
        prior.gaussian_message(s, anchor=anchor)
        prior.elbo(s, anchor=anchor).sum().backward()

    found = files_of(everything)
    assert Path("pyromodels/dynamics/srnn.py") in found
    assert len(found) <= 12, sorted(map(str, found))


def test_a_run_from_the_command_line_is_fewer_than_eighty(tmp_path, monkeypatch):
    """Scene, detector, start, tuned stages, SRNN, metrics, posterior and record among them."""
    monkeypatch.setenv("PYROMODELS_RUNS", str(tmp_path))
    small = ["--set", "data.num_sequences=1", "--set", "data.num_frames=8", "--no-plots"]
    words = ["run", "tracking_srnn", *small, "--device", "cpu", "--out", str(tmp_path / "out")]
    found = files_of(lambda: main(words))
    assert Path("experiments/command/cli.py") in found
    assert len(found) < 80, sorted(map(str, found))
