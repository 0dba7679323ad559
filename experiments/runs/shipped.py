"""The specs that ship with the package, by name; nothing but the standard library is imported."""

from importlib import resources
from importlib.resources.abc import Traversable


def shipped_folder() -> Traversable:
    """The folder they lie in."""
    return resources.files("pyromodels.experiments").joinpath("specs")


def shipped_specs() -> dict[str, str]:
    """Name of every spec that ships with the package -> its first comment line."""
    files = sorted((f for f in shipped_folder().iterdir() if f.name.endswith(".toml")),
                   key=lambda file: file.name)
    return {
        f.name.removesuffix(".toml"): f.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        for f in files
    }
