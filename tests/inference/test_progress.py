"""Progress is a bar on a terminal, and plain lines, not too many, in a file."""

import sys

from pyromodels.inference.training import progress as module
from pyromodels.inference.training.progress import progress


def test_a_file_gets_whole_lines(capsys, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.0)
    with progress(total=3, desc="fit", unit="step", mininterval=0, miniters=1) as bar:
        for n in range(3):
            bar.set_postfix(loss=f"{n}.5", refresh=False)
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "fit: 1 of 3 steps, 00:00, loss=0.5"
    assert lines[-1] == "fit: 3 of 3 steps, 00:00, loss=2.5"
    assert not any("\r" in line or "|" in line for line in lines)


def test_what_is_soon_done_prints_nothing_in_a_file(capsys):
    assert list(progress(range(50), desc="epoch 1", leave=False)) == list(range(50))
    assert capsys.readouterr().err == ""


def test_lines_are_half_a_minute_apart(capsys, monkeypatch):
    clock = iter(range(0, 10_000, 10))  # every look at it ten seconds later
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    with progress(total=9, mininterval=0, miniters=1) as bar:
        for _ in range(9):
            bar.update()
    assert 2 <= len(capsys.readouterr().err.splitlines()) <= 4


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress(total=2, desc="fit", mininterval=0, miniters=1) as bar:
        bar.update()
    assert "fit:  50%" in capsys.readouterr().err


def test_a_disabled_one_prints_nothing(capsys, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.0)
    assert sum(progress([1, 2], disable=True)) == 3
    assert capsys.readouterr().err == ""
