"""`pyromodels bench gpu` without a GPU: its dry run, its noise and its judgement."""

from __future__ import annotations

import json
import math

import pytest
import torch
from pretend import MODULE, NAME, Watched

from pyromodels.experiments.command.cli import main
from pyromodels.experiments.demonstrations import bench_gpu
from pyromodels.experiments.demonstrations.bench_gpu import DrawnOnCPU, compared, error
from pyromodels.experiments.demonstrations.device_cases import CASES


def test_a_dry_run_compares_and_measures_and_says_what_it_is(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_gpu, "MEASURE_FOR", 0.0)
    assert main(["bench", "gpu", "--dry", "--json", str(tmp_path / "rows.json")]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("dry: on the CPU, in tiny sizes")
    assert "4 of 4 agree" in shown
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["error"] for row in rows if "case" in row] == [0.0] * 4
    timed = {row["name"] for row in rows if "device_ms" in row}
    assert timed == {"published tracker, 70 iterations", "sweep of VEM, linear",
                     "training step of TVNF", "training step of vae, small"}  # fmt: skip


def test_without_a_gpu_it_says_what_to_do(capsys):
    assert main(["bench", "gpu", "--device", "cpu"]) == 2
    assert "To try the command without one: --dry" in capsys.readouterr().err


def test_what_no_time_is_left_for_is_said(capsys):
    assert main(["bench", "gpu", "--dry", "--budget", "0"]) == 0
    shown = capsys.readouterr().out
    assert f"no time for {len(CASES)} more" in shown
    assert "no time for more" in shown


@pytest.mark.parametrize(
    "draw",
    [
        lambda d, g: torch.randn(3, device=d), lambda d, g: torch.rand(3, device=d),
        lambda d, g: torch.randn(3, device=d, generator=g(5)),
        lambda d, g: torch.empty(3, device=d).normal_(),
        lambda d, g: torch.empty(3, device=d).uniform_(generator=g(5)),
        lambda d, g: torch.rand_like(torch.ones(3, device=d)),
        lambda d, g: torch.bernoulli(torch.full((9,), 0.5, device=d)),
        lambda d, g: torch.multinomial(torch.ones(4, device=d), 2),
        lambda d, g: torch.normal(torch.zeros(3, device=d), torch.ones(3, device=d)),
        lambda d, g: torch.distributions.Gamma(torch.ones(3, device=d), 1.0).sample(),
        lambda d, g: torch.nn.functional.dropout(torch.ones(9, device=d)),
    ],
)  # fmt: skip
def test_noise_is_the_cpus_and_the_device_draws_none(draw):
    torch.manual_seed(0)
    expected = draw("cpu", lambda seed: torch.Generator().manual_seed(seed))
    torch.manual_seed(0)
    with Watched():
        before = MODULE.draws
        with DrawnOnCPU():
            found = draw(NAME, lambda seed: torch.Generator(NAME).manual_seed(seed))
        assert found.device.type == NAME
        assert MODULE.draws == before
        assert torch.equal(found.cpu(), expected)


def test_a_generator_goes_on_where_it_was():
    with Watched(), DrawnOnCPU():
        generator = torch.Generator(NAME).manual_seed(1)
        found = [torch.randn(2, device=NAME, generator=generator).cpu() for _ in range(2)]
    assert torch.equal(torch.cat(found), torch.randn(4, generator=torch.Generator().manual_seed(1)))


def test_an_error_is_told_in_parts_of_what_is_allowed():
    a = torch.tensor([1.0, 100.0])
    assert error(a, a) == 0.0
    assert error(a, a + torch.tensor([0.0, 0.11])) == pytest.approx(0.5, rel=1e-2)  # 0.2 + 0.02
    assert error(a, a * 1.01) > 1
    assert error(a.double(), a.double() * (1 + 1e-6)) > 1  # float64 is held to more
    assert error(a, torch.tensor([1.0, math.nan])) > 1
    nan = torch.tensor([math.nan, math.inf])
    assert error(nan, nan) == 0.0


def test_a_case_that_raises_is_a_row_and_not_the_end(monkeypatch):
    def broken(device):
        raise RuntimeError("no kernel\nfor it")

    monkeypatch.setitem(CASES, "broken", broken)
    row = compared("broken", torch.device("cpu"))
    assert row == {"case": "broken", "raised": "RuntimeError: no kernel for it"}


def test_a_case_that_differs_makes_the_command_fail(monkeypatch, capsys):
    calls = iter(range(99))
    monkeypatch.setattr(bench_gpu, "CASES", {"drifting": lambda device: float(next(calls))})
    monkeypatch.setitem(CASES, "drifting", lambda device: float(next(calls)))
    assert main(["bench", "gpu", "--dry", "--only", "parity"]) == 1
    assert "0 of 1 agree; not: drifting" in capsys.readouterr().out
