"""`--device`: one default, one error, the same for every command."""

from __future__ import annotations

import argparse
import importlib

import pytest
import torch

from pyromodels.experiments.command import cli, doctor
from pyromodels.experiments.harness.devices import use_device
from pyromodels.experiments.runs.spec import load_spec
from pyromodels.inference.training.precision import Precision, allow_tf32

COMPUTING = {
    ("run", "mot"), ("run", "resynthesis"), ("run", "swap"), ("run", "phones"), ("train", "dvae"),
    ("train", "srnn-mot"), ("table", "mot-1"), ("table", "speech-1"), ("table", "speech-3"),
    ("table", "tvnf-4"), ("table", "scass-1"), ("plot", "mot-iterations"),
    ("report", "speech"), ("bench", "elbo"), ("bench", "dvae"), ("bench", "tvnf"),
    ("bench", "mot"), ("bench", "vem"), ("bench", "mot-stopping"), ("bench", "gpu"),
    ("table", "se-1"), ("plot", "scass-1"), ("plot", "scass-2"), ("plot", "se-2"),
}
OF_SPECS = {("run", "spec"), ("compare", ""), ("show", ""), ("report", "spec")}
"""Where the spec may say the device, and `--device` stands in place of that."""
COMPUTING |= OF_SPECS
NEEDED = {"weights": ["--weights", "no-such-file"], "spec": ["tracking"]}
"""What commands ask for: the device is refused before weights are looked for."""


def options(command: tuple[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    module = importlib.import_module(f"{cli.FLOOR}.{cli.COMMANDS[command].module}")
    module.add_arguments(parser)
    return parser


@pytest.mark.parametrize("command", sorted(COMPUTING), ids=" ".join)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpu", "--device: given 'gpu'; expected cpu, cuda or cuda:NUMBER"),
        ("cuda", "--device: given cuda; expected a machine with a GPU and a torch"),
    ],
)
def test_every_command_refuses_a_device_in_one_line(
    command, name, words, monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.chdir(tmp_path)
    asked = [action.dest for action in options(command)._actions if action.required]
    needed = [word for what in asked for word in NEEDED[what]]
    argv = [*filter(None, command), *needed, "--device", name]
    assert cli.main(argv) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"pyromodels: error: {words}")
    assert said.err.count("\n") == 1
    assert not list(tmp_path.iterdir())  # nothing was begun


@pytest.mark.parametrize("there", [False, True])
def test_the_default_is_a_gpu_where_there_is_one(there, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    expected = "cuda" if there else "cpu"
    for command in COMPUTING:
        said = options(command).get_default("device")
        if command in OF_SPECS:
            assert said is None
        assert load_spec("tracking", device=said).device == expected


def test_a_spec_that_says_a_device_keeps_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert load_spec("tracking", settings=["device=cpu"]).device == "cpu"
    assert load_spec("tracking", settings=["device=cpu"], device="cuda:1").device == "cuda:1"


def test_a_gpu_that_is_not_there_is_told_from_those_that_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="given cuda:2; expected one of the 2 here: cuda:0, cuda"):
        use_device("cuda:2")
    assert use_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize("name", ["", "cpu:0:1", "meta", "vulkan", "cuda:-1"])
def test_what_is_no_place_to_compute_is_refused(name):
    with pytest.raises(ValueError, match="--device"):
        use_device(name)


def test_float32_is_float32_on_the_device_that_is_used():
    allow_tf32(True)
    use_device("cpu")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_training_may_round_to_tf32_and_nothing_else_does():
    precision = Precision("tf32", torch.device("cuda"))
    allow_tf32(False)
    asked = []

    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            asked.append(torch.backends.cudnn.allow_tf32)
            return x.sum()

        @staticmethod
        def backward(ctx, slope):
            asked.append(torch.backends.cudnn.allow_tf32)
            return slope.expand(2)

    with precision.context():
        loss = Loss.apply(torch.ones(2, requires_grad=True))
    assert not torch.backends.cudnn.allow_tf32
    precision.backward(loss)
    assert not torch.backends.cudnn.allow_tf32
    assert asked == [True, True]


def test_tf32_is_refused_where_there_is_none():
    with pytest.raises(ValueError, match=r"""given "tf32" and parameters on cpu; expected"""):
        Precision("tf32", torch.device("cpu"))


def test_doctor_tries_the_gpu_it_names(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "a GPU of 2015")

    def old(device):
        raise RuntimeError("CUDA error: no kernel image is available\nSearch for it")

    for computes, words in {
        lambda device: "": "cuda:0: a GPU of 2015, computes\n",
        old: "cuda:0: a GPU of 2015, CUDA error: no kernel image is available\n    fix: ",
    }.items():
        monkeypatch.setattr(doctor, "_computes", computes)
        assert cli.main(["doctor"]) == 0  # the core works without it
        assert words in capsys.readouterr().out


def test_what_doctor_computes_agrees_with_itself():
    state = torch.get_rng_state()
    assert doctor._computes("cpu") == ""
    assert torch.equal(torch.get_rng_state(), state)
