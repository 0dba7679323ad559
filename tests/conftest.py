"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def mot_data() -> Path:
    """Folder of the tracking development sets, which lie beside the checkout, never in it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data" / "mot"
    if not (folder / "MOT17-hard_T60.npz").is_file():
        reason = "the tracking development sets (../shared/data/mot beside the checkout) are absent"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"CI=true, but {reason}")
        pytest.skip(reason)
    return folder
