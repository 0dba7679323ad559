"""Components of another package: installed, listed, named in a spec, run and checked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
BROKEN = {
    "METADATA": "Metadata-Version: 2.1\nName: broken-walks\nVersion: 0.3\n",
    "entry_points.txt": "[pyromodels.components]\nbroken_walk = no_such_module_of_walks\n",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder that the example package is installed in, and one whose module is missing."""
    scratch = tmp_path_factory.mktemp("plugin")
    source, target = scratch / "source", scratch / "site"
    shutil.copytree(ROOT / "tests" / "plugin", source)
    install = "-m pip install --quiet --no-deps --no-index --no-build-isolation --target".split()
    subprocess.run([sys.executable, *install, target, source], check=True, timeout=300)
    folder = target / "broken_walks-0.3.dist-info"
    folder.mkdir()
    for name, text in BROKEN.items():
        (folder / name).write_text(text)
    return target


def run(site: Path, *command: object, folder: Path = ROOT) -> subprocess.CompletedProcess:
    paths = os.pathsep.join(map(str, (ROOT, site)))
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=folder, capture_output=True, text=True,
        timeout=300, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )


def test_the_list_names_it_unimported(site):
    done = run(site, "-m", "pyromodels", "list")
    assert done.returncode == 0, done.stderr
    assert "mean_reverting  mean_reverting of mean-reverting 1.0\n" in done.stdout
    assert "broken_walk     no_such_module_of_walks of broken-walks 0.3\n" in done.stdout


def test_a_spec_names_it_and_runs(site, tmp_path):
    spec = ROOT / "tests" / "plugin" / "walk.toml"
    done = run(site, "-m", "pyromodels", "run", spec, "--out", tmp_path / "run", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'name = "mean_reverting"' in (tmp_path / "run" / "spec.toml").read_text()
    assert "'broken_walk' left out: no_such_module_of_walks of broken-walks 0.3" in done.stderr


def test_the_contract_suite_runs_over_it_by_command(site):
    done = run(site, "-m", "pyromodels", "check", "mean_reverting")
    assert done.returncode == 0, done.stdout + done.stderr
    passed = [line for line in done.stdout.splitlines() if line.startswith("  ok ")]
    assert len(passed) >= 20 and "message_density (num_coordinates=3, decay=0.5)" in done.stdout
    assert done.stdout.splitlines()[-1] == "it keeps its contract"


def test_the_contract_suite_runs_over_it_by_one_call_and_finds_a_fault(site):
    code = dedent(
        """
        import mean_reverting as plugin, pyromodels.testing
        from pyromodels.errors import SpecError
        from pyromodels.registry import DYNAMICS
        assert DYNAMICS["mean_reverting"] is plugin.MeanReverting and "srnn" in DYNAMICS
        try: DYNAMICS["broken_walk"]
        except SpecError as error: print("told:", error)
        class Wrong(plugin.MeanReverting):
            def gaussian_message(self, s, **keywords):
                message = super().gaussian_message(s, **keywords)
                return message._replace(covariance=2 * message.covariance)
        try: pyromodels.testing.check(Wrong)
        except AssertionError as error: print("found:", *str(error).split()[:2])
        """
    )
    done = run(site, "-W", "ignore", "-c", code)
    assert done.returncode == 0, done.stderr
    told, found = done.stdout.splitlines()
    assert "unknown dynamics 'broken_walk'" in told and "ModuleNotFoundError" in told
    assert found.startswith("found: Wrong: message")
