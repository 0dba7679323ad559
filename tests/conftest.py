"""Fixtures shared by all tests."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def mot_data() -> Path:
    """Folder of the tracking development sets, which lie beside the checkout, never in it."""
    return data_beside("mot", "MOT17-hard_T60.npz", "the tracking development sets")


@pytest.fixture(scope="session")
def audio_data() -> Path:
    """Folder of the recordings, the published weights and what they compute, likewise."""
    return data_beside("audio", "parity_vae.npz", "the published speech models")


@pytest.fixture(scope="session")
def run_to_end() -> Callable[..., str]:
    """Run this Python with some arguments to the end, or end all of it; returns its output."""

    def run(*arguments: object, folder: Path | None = None) -> str:
        root = Path(__file__).resolve().parents[1]
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)], cwd=folder, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        try:
            output, _ = process.communicate(timeout=100)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            pytest.fail(f"no end after 100 s: {output}")
        assert process.returncode == 0, output
        return output

    return run


@pytest.fixture(scope="session")
def tvnf_data() -> Path:
    """Folder of the labelled sequences, likewise."""
    return data_beside("tvnf", "phones_asterisk.npz", "the labelled sequences")


@pytest.fixture(scope="session")
def music_data() -> Path:
    """Folder of the songs as stems, likewise."""
    return data_beside("music", "mix_test.json", "the songs as stems")


def data_beside(name: str, file: str, what: str) -> Path:
    """Return a data folder beside the checkout; skip where it is absent, but fail in CI."""
    folder = SHARED / name
    if not (folder / file).is_file():
        reason = f"{what} (../shared/data/{name} beside the checkout) are absent"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"CI=true, but {reason}")
        pytest.skip(reason)
    return folder
