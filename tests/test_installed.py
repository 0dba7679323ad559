"""Installed or in a checkout, from any folder: every class is there once, under one name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from textwrap import dedent

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("pyromodels", "inference", "experiments")

USER_SCRIPT = dedent(
    """
    import json, sys
    from importlib import resources
    from pathlib import Path

    import pyromodels
    from pyromodels.experiments.datasets import DATASETS
    from pyromodels.experiments.runs.spec import load_spec
    from pyromodels.guides.mean_field import MeanField
    from pyromodels.inference.mixture import by_name, vem
    from pyromodels.registry import GUIDES

    assert GUIDES["mean_field"] is MeanField is pyromodels.MeanField
    assert pyromodels.VEM is vem.VEM is by_name.VEM
    assert load_spec("mot_smoke").data["name"] in DATASETS
    assert list(resources.files("pyromodels").joinpath("weights").glob("*.safetensors"))

    house = Path(pyromodels.__file__).resolve().parents[1]
    files = [(n, m.__file__) for n, m in list(sys.modules.items()) if getattr(m, "__file__", None)]
    folders = {house / part for part in ("pyromodels", "inference", "experiments")}
    ours = [(n, f) for n, f in files if folders & set(Path(f).resolve().parents)]
    if sys.argv[1:] == ["decoys"]:
        import experiments, inference
        assert inference.OWNER == experiments.OWNER == "the user"
    print(json.dumps({"house": str(house), "version": pyromodels.__version__, "ours": ours}))
    """
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> dict[str, Path]:
    """A copy of the checkout, and folders that a wheel and an editable wheel of it lie in."""
    scratch = tmp_path_factory.mktemp("installed")
    checkout = scratch / "checkout"
    for part in PARTS:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, checkout / part, ignore=ignore)
    for file in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, checkout)
    build = (
        "from setuptools import build_meta as backend\n"
        "backend.build_wheel('../wheel'), backend.build_editable('../editable_wheel')"
    )
    for folder in ("wheel", "editable_wheel"):
        (scratch / folder).mkdir()
    run(sys.executable, "-c", build, folder=checkout)
    shutil.rmtree(checkout / "build", ignore_errors=True)
    for kind in ("wheel", "editable_wheel"):
        (wheel,) = (scratch / kind).glob("*.whl")
        run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
            "--disable-pip-version-check", "--target", scratch / f"{kind}_site", wheel,
            folder=scratch)
    return {
        "checkout": checkout,
        "wheel": scratch / "wheel_site",
        "editable": scratch / "editable_wheel_site",
    }


def run(*command: object, folder: Path) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_script(site: Path, folder: Path, *arguments: str) -> dict:
    """Run a user's script in a folder; `site` and our dependencies are what is installed."""
    start = (
        "import runpy, site, sys\n"
        f"site.addsitedir({str(site)!r})\n"  # reads .pth files, as of an editable installation
        f"sys.path += {sorted({sysconfig.get_path(p) for p in ('purelib', 'platlib')})!r}\n"
        "sys.path.insert(0, '')\n"
        f"sys.argv[1:] = {list(arguments)!r}\n"
        "runpy.run_path('user_script.py', run_name='__main__')"
    )
    (folder / "user_script.py").write_text(USER_SCRIPT)
    # -I -S: neither PYTHONPATH nor what .pth files of this environment install is there
    output = run(sys.executable, "-I", "-S", "-c", start, folder=folder)
    return json.loads(output.splitlines()[-1])


@pytest.mark.parametrize("kind", ["wheel", "editable"])
@pytest.mark.parametrize("place", ["beside_decoys", "checkout"])
def test_every_class_is_there_once(installed, tmp_path, kind, place):
    folder, arguments = installed["checkout"], []
    if place == "beside_decoys":
        folder, arguments = tmp_path, ["decoys"]
        for name in ("inference", "experiments"):
            (folder / name).mkdir()
            (folder / name / "__init__.py").write_text("OWNER = 'the user'\n")
    found = run_script(installed[kind], folder, *arguments)
    where = "wheel" if (kind, place) == ("wheel", "beside_decoys") else "checkout"
    assert Path(found["house"]) == installed[where].resolve()
    names = [name for name, _ in found["ours"]]
    files = [file for _, file in found["ours"]]
    assert len(names) > 50 and len(set(files)) == len(files)
    assert {name.partition(".")[0] for name in names} == {"pyromodels"}


def test_only_the_three_parts_are_importable_from_a_checkout():
    code = (
        "import pkgutil, pyromodels\n"
        "print(*sorted({m.name for m in pkgutil.iter_modules(pyromodels.__path__)}))\n"
        "import pyromodels.inference, pyromodels.experiments\n"
        "try: import pyromodels.tests\n"
        "except ModuleNotFoundError: print('no tests')\n"
        "try: import pyromodels.pyromodels\n"
        "except ModuleNotFoundError: print('no second self')"
    )
    modules, *rest = run(sys.executable, "-c", code, folder=ROOT).splitlines()
    assert "registry" in modules.split() and "pyromodels" not in modules.split()
    assert rest == ["no tests", "no second self"]
