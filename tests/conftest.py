"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest


def data_beside_the_checkout(folder: str, file: str, what: str) -> Path:
    """Return ../shared/data/``folder``, which is never in the checkout; skip where it is absent."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data" / folder
    if not (path / file).is_file():
        reason = f"{what} (../shared/data/{folder} beside the checkout) are absent"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"CI=true, but {reason}")
        pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def mot_data() -> Path:
    """Folder of the tracking development sets."""
    return data_beside_the_checkout("mot", "MOT17-hard_T60.npz", "the tracking development sets")


@pytest.fixture(scope="session")
def audio_data() -> Path:
    """Folder of the recordings and of the reference outputs on them."""
    return data_beside_the_checkout("audio", "parity_srnn.npz", "the recordings")
