"""The command line: what is imported, how errors read, exit statuses."""

from __future__ import annotations

import shutil
import subprocess
import sys
import types

import pytest
from packaging.requirements import Requirement

from pyromodels.experiments.command import cli, doctor


@pytest.fixture
def command(monkeypatch):
    """A command `run toy --steps N` whose body a test replaces."""
    module = types.ModuleType("toy_command")
    module.add_arguments = lambda parser: parser.add_argument("--steps", type=int, default=1)
    module.main = lambda args: None
    monkeypatch.setitem(sys.modules, "pyromodels.experiments.toy_command", module)
    monkeypatch.setitem(cli.COMMANDS, ("run", "toy"), cli.Command("toy_command", "a toy"))
    return module


def raising(error):
    def main(args):
        raise error

    return main


def test_a_command_gets_its_arguments_and_its_name(command):
    seen = []
    command.main = lambda args: seen.append((args.verb, args.name, args.steps, args.debug))
    assert cli.main(["run", "toy", "--steps", "3"]) == 0
    assert seen == [("run", "toy", 3, False)]


def test_exit_status_is_the_commands(command):
    command.main = lambda args: 7
    assert cli.main(["run", "toy"]) == 7


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("x: given 3;\n  expected 4"), "x: given 3; expected 4"),
        (
            FileNotFoundError(2, "No such file or directory", "a.npz"),
            "No such file or directory: a.npz",
        ),
        (ModuleNotFoundError("No module named 'q'"), "No module named 'q'. To see what is missing"),
        (ValueError(), "ValueError"),
    ],
)
def test_an_expected_error_is_one_line_on_stderr(command, capsys, error, line):
    command.main = raising(error)
    assert cli.main(["run", "toy"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"pyromodels: error: {line}")
    assert captured.err.count("\n") == 1


def test_debug_adds_the_traceback(command, capsys):
    command.main = raising(ValueError("told"))
    assert cli.main(["run", "toy", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_unexpected_error_keeps_its_traceback(command):
    command.main = raising(RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["run", "toy"])


def test_interrupt_is_said_and_exits_130(command, capsys):
    command.main = raising(KeyboardInterrupt())
    assert cli.main(["run", "toy"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("argv", "guess"),
    [
        (["rnu"], "unknown command 'rnu'; did you mean 'run'?"),
        (["run", "mto"], "unknown 'run' name 'mto'; did you mean 'mot'?"),
        (["table", "mot1"], "unknown 'table' name 'mot1'; did you mean 'mot-1'?"),
    ],
)
def test_unknown_words_get_the_nearest_and_the_list(capsys, argv, guess):
    assert cli.main(argv) == 2
    message = capsys.readouterr().err
    assert guess in message
    assert "Known: " in message


@pytest.mark.parametrize("argv", [[], ["run"], ["run", "toy", "--stpes", "3"]])
def test_what_argparse_refuses_exits_2(command, argv):
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2


def test_help_lists_every_verb_and_every_name(capsys):
    for argv, words in [
        (["--help"], cli.VERBS),
        *(([verb, "--help"], cli.names(verb)) for verb in cli.VERBS),
    ]:
        with pytest.raises(SystemExit) as caught:
            cli.main(argv)
        assert caught.value.code == 0
        shown = capsys.readouterr().out
        assert [word for word in words if word not in shown] == []


def test_list_shows_commands_and_components(capsys):
    assert cli.main(["list"]) == 0
    shown = capsys.readouterr().out
    for word in ("run mot", "table mot-5", "dynamics", "guide", "model"):
        assert word in shown


def test_doctor_finds_a_working_core(capsys):
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for word in ("torch", "arviz", "cpu: ", "pyromodels: ", "the core works"):
        assert word in shown


def test_doctor_names_what_is_missing_and_how_to_get_it(monkeypatch, capsys):
    missing, old = Requirement("no-such-project>=2"), Requirement("numpy>=999")
    monkeypatch.setattr(doctor, "requirements", lambda extra="": [missing, old])
    assert cli.main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "fix: pip install 'no-such-project>=2'" in shown
    assert "fix: pip install 'numpy>=999'" in shown
    assert "dev: lacks no-such-project" in shown
    assert "fix: pip install 'pyromodels[dev]'" in shown


def test_bash_completes_names_specs_and_components(capsys):
    assert cli.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    for words, expected in [
        ("tab", ["table"]),
        ("run resy", ["resynthesis"]),
        ("show mot_sm", ["mot_smoke"]),
        ("check mean", ["mean_field"]),
        ("doctor x", []),
    ]:
        first, _, second = words.partition(" ")
        line = f"COMP_WORDS=(pyromodels {words}); COMP_CWORD={2 if second else 1}; _pyromodels"
        command = f'{script}\n{line}\necho "${{COMPREPLY[@]}}"'
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == expected, words


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_every_verb_and_name(shell, capsys):
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for words in (cli.VERBS, cli.names("table"), cli.names("bench"), ["mot_smoke", "mean_field"]):
        assert [word for word in words if word not in script] == []
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)
