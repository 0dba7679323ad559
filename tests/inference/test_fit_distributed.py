"""Training in two processes on the CPU, against one and against each other."""

import json
import runpy
from pathlib import Path

import pytest
import torch

from pyromodels.inference.training import distributed

HERE = Path(__file__).resolve().parent
SIZES = ["exact 11 5", "exact 9 1", "exact 8 4"]


@pytest.fixture(scope="module")
def found(tmp_path_factory, run_to_end):
    """What one process, the first of two, and the second of two came to; and the folder."""
    folder, script = tmp_path_factory.mktemp("fit"), HERE / "fit_two_processes.py"
    before = torch.get_default_dtype(), torch.get_num_threads()
    runpy.run_path(str(script))["main"](folder)
    torch.set_default_dtype(before[0])
    torch.set_num_threads(before[1])
    run_to_end("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, script, folder)
    return [torch.load(folder / f"{name}.pt") for name in ("1-0", "2-0", "2-1")], folder


def assert_equal(first, second, **tolerance):
    tolerance = tolerance or {"rtol": 0, "atol": 0}
    assert first.keys() == second.keys()
    for name, value in first.items():
        if value is None or second[name] is None:
            assert value is None and second[name] is None, name
        else:
            torch.testing.assert_close(value, second[name], **tolerance, msg=name)


def test_processes_join_by_the_environment_of_torchrun(found):
    (one, first, second), _ = found
    assert [part["device"] for part in (one, first, second)] == ["cpu"] * 3
    assert [part["rows"].tolist() for part in (one, first, second)] == [
        [0, 1, 2, 3, 4], [0, 1, 2], [3, 4]]


@pytest.mark.parametrize("name", SIZES)
def test_two_processes_train_on_the_joined_minibatch(found, name):
    """Batches of 4, 4, 3; of 4, 4, 1 with one sequence to validate on; and of 4, 4."""
    one, first, second = (part[name] for part in found[0])
    for what in ("parameters", "gradients"):
        assert_equal(first[what], one[what], rtol=0, atol=1e-12)
        assert_equal(first[what], second[what])
    assert first["history"] == second["history"] and first["best"] == second["best"]
    assert len(first["history"]) == 3
    for record, expected in zip(first["history"], one["history"], strict=True):
        assert record == pytest.approx(expected, rel=0, abs=1e-12)
    # each really had its part, and a process without one computed no loss
    train, valid = map(int, name.split()[1:])
    epoch = [4] * (train // 4) + [train % 4] * (train % 4 > 0) + [valid]
    assert one["sizes"] == 3 * epoch
    assert first["sizes"] == 3 * [(n + 1) // 2 for n in epoch]
    assert second["sizes"] == 3 * [n // 2 for n in epoch if n > 1]


def test_a_parameter_without_gradient_in_some_or_all_processes(found):
    for part in found[0]:
        assert part["exact 11 5"]["gradients"]["never"] is None
        assert part["exact 11 5"]["parameters"]["rare"] != 0
        assert part["exact 11 5"]["parameters"]["never"] == 0


def test_noise_differs_and_parameters_do_not(found):
    one, first, second = (part["noisy"] for part in found[0])
    assert_equal(first["parameters"], second["parameters"])
    assert first["history"] == second["history"]
    assert first["drawn"][0] == one["drawn"][0]  # the first process goes on as alone
    assert not set(first["drawn"]) & set(second["drawn"])
    # the validation's noise, every fourth draw, is that of the epoch before; no other is
    assert len(set(first["drawn"][3::4])) == len(set(second["drawn"][3::4])) == 1
    assert len(set(second["drawn"])) == len(second["drawn"]) - 2


def test_the_first_process_decides_when_to_stop(found):
    _, first, second = found[0]
    for name, reason, epochs in (
        ("patience", "patience", 3), ("late first", "time", 1), ("late second", "patience", 3),
    ):
        for part in (first, second):
            assert (part[name]["stopped"], len(part[name]["history"])) == (reason, epochs), name
        assert_equal(first[name]["parameters"], second[name]["parameters"])


def test_the_first_process_writes_and_all_resume_from_it(found):
    (_, first, second), folder = found
    for part in (first, second):  # to the bits of the training that nobody interrupted
        assert_equal(part["interrupted"]["parameters"], part["noisy"]["parameters"])
        assert part["interrupted"]["history"] == part["noisy"]["history"]
    assert first["interrupted"]["written"] == [1, 2, 3]
    assert second["interrupted"]["written"] == []
    assert [part["interrupted"]["callbacks"] for part in (first, second)] == [1, 0]
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["epoch-00002", "epoch-00003", "metrics.jsonl"]
    lines = (folder / "checkpoints" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


def test_errors_are_those_of_all_processes(found):
    _, first, second = found[0]
    assert first["nan"] == second["nan"]
    assert "FitError: the loss is not finite at step" in first["nan"] and "6" in first["nan"]
    for number, part in enumerate((first, second)):
        assert f"process {number}: given (options" in part["options"]


def test_alone_nothing_is_joined(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with distributed.start("cpu") as device:
        assert device == torch.device("cpu")
        assert (distributed.rank(), distributed.world_size()) == (0, 1)
        parameter = torch.nn.Parameter(torch.ones(2))
        distributed.sum_gradients([parameter])
        assert parameter.grad is None
        assert distributed.from_first("mine") == "mine"
        state = torch.get_rng_state()
        distributed.seed_others(0, 1)
        assert torch.equal(torch.get_rng_state(), state)
