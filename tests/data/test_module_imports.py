"""The modules of data/ import each other in one direction: no import, wherever it stands, closes a circle."""

import ast
import graphlib
import pathlib

import pytest

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "data"
PACKAGE = "loopwright.data"


def imports_of(folder: pathlib.Path) -> dict[str, set[str]]:
    """For each module of a folder, the modules of that folder that it imports.

    Imports inside of functions and below `if TYPE_CHECKING` count, too.
    """
    modules = {path.stem: path for path in folder.glob("*.py")}
    return {name: _imported(path) & modules.keys() for name, path in modules.items()}


def _imported(path: pathlib.Path) -> set[str]:
    """The modules of the package that a file imports. A name that the package itself defines counts as `__init__`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        inside = [name.removeprefix(f"{PACKAGE}.").split(".")[0] for name in names if name.startswith(f"{PACKAGE}.")]
        found |= {name if path.with_name(f"{name}.py").is_file() else "__init__" for name in inside}
        if PACKAGE in names:
            found.add("__init__")
    return found


def circle_in(folder: pathlib.Path) -> list[str]:
    """The modules of a circle, in which each imports the next; empty if there is none."""
    try:
        graphlib.TopologicalSorter(imports_of(folder)).prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1]))
    return []


def test_modules_of_data_import_in_no_circle() -> None:
    assert circle_in(FOLDER) == []


def test_protocols_import_no_module_of_data() -> None:
    assert imports_of(FOLDER)["protocols"] == set()


@pytest.mark.parametrize(
    "import_of_first",
    [
        "from loopwright.data.first import Name\n",
        "from loopwright.data import first\n",
        "import loopwright.data.first\n",
        "def f():\n    from loopwright.data.first import Name\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from loopwright.data.first import Name\n",
    ],
)
def test_circle_is_found_wherever_the_import_stands(tmp_path: pathlib.Path, import_of_first: str) -> None:
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "first.py").write_text("from loopwright.data.second import Name\n")
    (tmp_path / "second.py").write_text("from loopwright.data.third import Name\n")
    (tmp_path / "third.py").write_text("import tensorflow\n")
    assert circle_in(tmp_path) == []
    (tmp_path / "third.py").write_text(import_of_first)
    assert set(circle_in(tmp_path)) == {"first", "second", "third"}


def test_circle_through_the_package_is_found(tmp_path: pathlib.Path) -> None:
    (tmp_path / "__init__.py").write_text("def f():\n    from loopwright.data.first import Name\n")
    (tmp_path / "first.py").write_text("from loopwright.data import Name\n")
    assert set(circle_in(tmp_path)) == {"__init__", "first"}
