"""The adapter under ArviZ 1.x, in an environment of its own: that needs Python 3.12 or newer."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pyromodels.inference.posterior import arviz_io

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("arviz_one_script.py")
PACKAGES = ["arviz>=1", "h5netcdf", "h5py", "numpy", "xarray"]


def newer_python():
    """A Python of at least 3.12 at hand, or None."""
    if sys.version_info >= (3, 12):
        return Path(sys.executable)
    names = [shutil.which(f"python3.{minor}") for minor in range(12, 16)]
    pyenv = sorted(Path.home().glob(".pyenv/versions/3.1[2-9]*/bin/python3"))
    for python in (*filter(None, names), *pyenv):
        check = "import sys, venv; assert sys.version_info >= (3, 12)"
        done = subprocess.run([python, "-c", check], capture_output=True, timeout=60)
        if done.returncode == 0:
            return Path(python)
    return None


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    python = newer_python()
    if python is None:
        pytest.skip("ArviZ 1.x needs Python 3.12 or newer, and there is none at hand")
    folder = tmp_path_factory.mktemp("arviz_one")
    commands = [
        [python, "-m", "venv", folder],
        [folder / "bin" / "python", "-m", "pip", "install", "--quiet", *PACKAGES],
    ]
    for command in commands:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        except subprocess.TimeoutExpired:
            pytest.skip(f"no environment with ArviZ 1.x: {command[1:4]} took over ten minutes")
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:]
            pytest.skip(f"no environment with ArviZ 1.x: pip said {reason}")
    return folder / "bin" / "python"


@pytest.mark.slow
def test_the_adapter_works_under_arviz_one(environment, tmp_path):
    rng = np.random.default_rng(0)
    drawn = ("chain", "draw")
    groups = {
        "posterior": {"x": ((*drawn, "day"), rng.normal(size=(2, 50, 3)))},
        "log_likelihood": {"y": ((*drawn, "day"), rng.normal(size=(2, 50, 3)))},
        "sample_stats": {"lp": (drawn, rng.normal(size=(2, 50)))},
        "observed_data": {"y": (("day",), rng.normal(size=3))},
        "constant_data": {"mask": (("day",), np.array([True, False, True]))},
        "bound_trace": {"final": (("final_sweep", "day"), rng.normal(size=(4, 3)))},
    }
    coords = {"day": ["mon", "tue", "wed"]}
    old = arviz_io.save(arviz_io.inference_data(groups, coords=coords), tmp_path / "old.nc")
    new = tmp_path / "new.nc"
    stub = tmp_path / "pyromodels-0.dist-info"  # the package asks for its own version
    stub.mkdir()
    (stub / "METADATA").write_text("Metadata-Version: 2.1\nName: pyromodels\nVersion: 0\n")
    done = subprocess.run(
        [environment, SCRIPT, old, new],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    back = arviz_io.load(new)  # and what ArviZ 1.x wrote, this one reads
    for name, group in groups.items():
        for key, (dims, values) in group.items():
            assert back[name][key].dims == dims
            np.testing.assert_array_equal(back[name][key].values, values)
    assert back["posterior"]["day"].values.tolist() == coords["day"]
