"""Registry: what a spec builds, and the sentence a wrong one gets."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import Literal

import pytest

from pyromodels.components import described
from pyromodels.errors import SpecError
from pyromodels.experiments.runs.listing import REGISTRIES
from pyromodels.registry import Registry


@pytest.fixture
def shapes() -> Registry:
    registry = Registry("shape")

    @registry.register("box")
    class Box:
        """A box.

        More about it.
        """

        def __init__(
            self,
            owner: object = None,
            *,
            width: float,
            sides: int = 4,
            closed: bool = True,
            label: str | None = None,
            mode: Literal["solid", "wire"] = "solid",
            sizes: list[int] = (),
            corner: tuple[float, float] = (0.0, 0.0),
            order: Sequence[int] = (),
        ) -> None:
            self.owner, self.width, self.sizes = owner, width, sizes

    @registry.register("blob")
    class Blob(Box):
        def __init__(self, **anything: object) -> None:
            self.anything = anything

    return registry


def test_build_passes_keywords_and_what_code_supplies(shapes):
    owner = object()
    box = shapes.build({"name": "box", "width": 2, "sizes": [1, 2]}, owner)
    assert (box.owner, box.width, box.sizes) == (owner, 2, [1, 2])
    assert shapes.build({"name": "blob", "colour": "red"}).anything == {"colour": "red"}


def test_build_leaves_the_spec_as_it_was(shapes):
    spec = {"name": "box", "width": 1.0}
    shapes.build(spec)
    assert spec == {"name": "box", "width": 1.0}


def test_check_says_what_build_would_and_calls_nothing(shapes):
    assert shapes.check({"name": "box", "width": 2}, None) == {"width": 2}
    with pytest.raises(SpecError, match="unknown key 'widht'"):
        shapes.check({"name": "box", "widht": 2}, None)


def test_names_are_sorted_and_described_by_their_own_first_line(shapes):
    assert shapes.names() == list(shapes) == ["blob", "box"]
    assert shapes.describe() == {"blob": "", "box": "A box."}
    assert "box" in shapes and "bx" not in shapes


def test_unknown_name_gets_the_nearest_and_the_list(shapes):
    for look_up in (lambda: shapes["bx"], lambda: shapes.build({"name": "bx"})):
        with pytest.raises(SpecError, match=r"shape 'bx'; did you mean 'box'\? Known: blob, box"):
            look_up()


def test_unknown_key_gets_the_nearest_and_the_list(shapes):
    with pytest.raises(
        SpecError, match=r"'box': unknown key 'widht'; did you mean 'width'\? Kno.*label"
    ):
        shapes.build({"name": "box", "widht": 1.0})


def test_a_key_that_code_supplies_is_not_one_of_the_specs(shapes):
    with pytest.raises(SpecError, match="unknown key 'owner'"):
        shapes.build({"name": "box", "width": 1.0, "owner": 3}, object())


def test_missing_key_is_named(shapes):
    with pytest.raises(SpecError, match="missing a required .*'width'"):
        shapes.build({"name": "box"})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("width", "2", "float"),
        ("width", True, "float"),
        ("sides", 4.0, "int"),
        ("sides", True, "int"),
        ("closed", 1, "bool"),
        ("label", 3, "str | None"),
        ("mode", "soild", "Literal"),
        ("sizes", [1, "2"], "list"),
        ("sizes", 3, "list"),
        ("order", "ab", "Sequence"),
        ("order", [1, "b"], "Sequence"),
        ("corner", [1.0], "tuple"),
    ],
)
def test_wrong_simple_type_is_named(shapes, key, value, expected):
    with pytest.raises(SpecError) as caught:
        shapes.build({"name": "box", "width": 1.0, key: value})
    message = str(caught.value)
    assert f"{key}: given {value!r}" in message
    assert expected in message.partition("expected")[2]


@pytest.mark.parametrize(
    ("key", "value"),
    [("width", 2), ("label", None), ("label", "a"), ("mode", "wire"), ("corner", [1, 2.0])],
)
def test_right_simple_types_pass(shapes, key, value):
    shapes.build({"name": "box", "width": 1.0, key: value})


@pytest.mark.parametrize("spec", ["box", {"width": 1.0}, {"name": 3}, None])
def test_a_spec_is_a_table_with_a_name(shapes, spec):
    with pytest.raises(SpecError, match='table with a "name".*Known: blob, box'):
        shapes.build(spec)


def test_a_name_is_held_by_one_component(shapes):
    with pytest.raises(ValueError, match="'box' is already .*Box"):
        shapes.register("box")(dict)
    shapes.register("box")(shapes["box"])


@pytest.mark.parametrize("name", ["Box", "my-box", "", "2d"])
def test_names_are_snake_case(shapes, name):
    with pytest.raises(ValueError, match="snake_case"):
        shapes.register(name)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package on disk whose modules register into `shelf.registry`."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "shelf"]:
        del sys.modules[name]


def test_a_file_in_the_folder_is_enough(package):
    registry = Registry("book", "shelf")
    sys.modules["shelf_registry"] = registry
    (package / "novel.py").write_text(
        "import shelf_registry\n@shelf_registry.register('novel')\ndef novel(): 'A novel.'\n"
    )
    assert registry.describe() == {"novel": "A novel."}
    del sys.modules["shelf_registry"]


def test_only_the_modules_of_a_name_are_imported(package):
    registry = Registry("book", "shelf", module="novel")
    sys.modules["shelf_registry"] = registry
    (package / "novel.py").write_text(
        "import shelf_registry\n@shelf_registry.register('novel')\ndef novel(): 'A novel.'\n"
    )
    (package / "broken.py").write_text("1 / 0\n")
    assert registry.names() == list(registry.describe()) == ["novel"]
    del sys.modules["shelf_registry"]


def test_a_file_that_fails_to_import_fails_at_every_look_up(package):
    (package / "broken.py").write_text("1 / 0\n")
    registry = Registry("book", "shelf")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            registry.names()


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda r: r.kind)
def test_source_says_of_every_component_what_it_says_of_itself(registry):
    tables = (described(package, registry.module) for package in registry.packages)
    said = {name: line for table in tables for name, line in table.items()}
    assert said.keys() == set(registry.names())
    for name, line in said.items():
        assert line and line == inspect.cleandoc(registry[name].__doc__).partition("\n")[0]
