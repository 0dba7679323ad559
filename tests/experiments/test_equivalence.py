"""`pyromodels table inference`: what it prints is what the identity says."""

import json

import torch

from pyromodels.experiments.command.cli import main
from pyromodels.experiments.demonstrations import equivalence


def test_the_table_of_inference(tmp_path, capsys):
    assert main(["table", "inference", "--steps", "40", "--out", str(tmp_path)]) == 0
    figures = json.loads((tmp_path / "metrics.json").read_text())
    natural = [value for name, value in figures.items() if name.startswith("natural/")]
    assert len(natural) > 8 and max(natural) < 1e-10
    assert figures["slope"] < 1e-8
    assert figures["bound/natural gradient, rate 0.3"] - figures["bound/VEM"] < 1e-6
    assert all(figures["evidence"] > v for k, v in figures.items() if k.startswith("bound/"))
    assert "what is missing" in capsys.readouterr().out
    assert torch.get_default_dtype() is torch.float32


def test_bounds_do_not_depend_on_which_priors_are_registered(tmp_path, monkeypatch):
    found = []
    for number in (0, 3):  # of random numbers drawn before
        monkeypatch.setattr(equivalence, "natural_differences",
                            lambda number=number: [("a", torch.randn(number).sum().item())])
        out = tmp_path / str(number)
        assert main(["table", "inference", "--steps", "3", "--out", str(out)]) == 0
        found.append(json.loads((out / "metrics.json").read_text()))
    assert found[0]["natural/a"] != found[1]["natural/a"]
    assert found[0]["bound/SVI, Adam on TraceEnum_ELBO"] == (
        found[1]["bound/SVI, Adam on TraceEnum_ELBO"])
