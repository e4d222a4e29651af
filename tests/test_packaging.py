"""`setup.py` lists every package, and only those."""

import pathlib
import runpy
from typing import Any

import pytest
import setuptools

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("flags", "data", "models", "trainer")


@pytest.fixture
def arguments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `setup.py` passes to setuptools."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", found.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    return found


def packages() -> dict[str, str]:
    """Every folder with an `__init__.py`, by its import name."""
    folders = [path.parent.relative_to(ROOT) for name in FOLDERS for path in (ROOT / name).rglob("__init__.py")]
    return {".".join(["loopwright", *folder.parts]): folder.as_posix() for folder in folders}


def test_setup_lists_every_package_and_nothing_else(arguments: dict[str, Any]) -> None:
    assert arguments["package_dir"] == packages()
    assert sorted(arguments["packages"]) == sorted(packages())


def test_every_module_lies_in_a_package() -> None:
    modules = [path.relative_to(ROOT) for name in FOLDERS for path in (ROOT / name).rglob("*.py")]
    assert not [str(path) for path in modules if not (ROOT / path.parent / "__init__.py").is_file()]


def test_every_other_file_of_a_package_is_installed(arguments: dict[str, Any]) -> None:
    for name, folder in packages().items():
        patterns = arguments["package_data"][name]
        others = [path for path in (ROOT / folder).iterdir() if path.is_file() and path.suffix not in (".py", ".pyc")]
        assert not [path.name for path in others if not any(path.match(pattern) for pattern in patterns)]
