"""The import rule, read from the sources: imports point one way, and absl.flags stays in flags/."""

import ast
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("flags", "data", "models", "trainer")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
#: The rooms of `trainer/`, and which rooms each may import beside itself.
ROOMS = (
    ("base", ()),
    ("core", ("base",)),
    ("checkpoint", ("base", "core")),
    ("export", ("base", "core")),
    ("observe", ("base", "core")),
    ("hooks", ("base", "core", "checkpoint", "observe")),
    ("compare", ("base", "core")),
    ("tasks", ("base", "core", "observe", "hooks", "compare")),
    ("run", ("base", "core", "checkpoint", "observe", "hooks")),
    ("keras_style", ("base", "core", "hooks", "compare", "run")),
    (
        "commands",
        ("base", "core", "checkpoint", "export", "observe", "hooks", "compare", "tasks", "run", "keras_style"),
    ),
)
#: Lines that a file may have; others have 400.
MOST_LINES = {"trainer/core/loop.py": 200}
#: What a function may have. `data.load`, which takes what a user may say of a dataset, has more parameters.
MOST_LINES_OF_A_FUNCTION, MOST_PARAMETERS = 60, 8
#: The heart of the core, in the order in which a newcomer reads it in fifteen minutes, and the lines that it may have.
HEART = ("objective", "state", "step", "execution", "loop")
MOST_LINES_OF_HEART = 900


def name_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_root(path: pathlib.Path) -> bool:
    """Whether a file puts the program together, and may import everything: the commands and what dispatches to them."""
    return name_of(path).startswith("trainer/commands/") or name_of(path) == "trainer/__main__.py"


def imported(path: pathlib.Path) -> Iterator[str]:
    """The modules that a file imports anywhere, in full: `from a import b` gives `a.b`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_point_one_way(path: pathlib.Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    ours = [module for module in imported(path) if module.split(".")[0] == "loopwright"]
    strangers = [module for module in ours if not f"{module}.".startswith(f"loopwright.{own}.")]
    assert is_root(path) or not strangers
    assert not [module for module in ours if module.startswith("loopwright.trainer.commands")] or is_root(path)


def room_of(path: pathlib.Path) -> str:
    """The room of a file of `trainer/`: the folder, or the module that stands beside the folders."""
    return path.relative_to(ROOT / "trainer").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", [path for path in SOURCES if path.is_relative_to(ROOT / "trainer")], ids=name_of)
def test_rooms_import_those_above_them(path: pathlib.Path) -> None:
    allowed, room = dict(ROOMS), room_of(path)
    if room in ("__init__", "__main__"):
        return
    modules = [module.split(".") for module in imported(path) if module.startswith("loopwright.trainer.")]
    # `from loopwright.trainer import Log` takes a public name, wherever it lies: commands do that.
    rooms = {parts[2] for parts in modules if parts[2] in allowed}
    assert rooms <= {room, *allowed[room]}
    assert room == "commands" or all(parts[2] in allowed for parts in modules)


def test_rooms_are_in_the_order_of_their_imports() -> None:
    seen: set[str] = set()
    for room, imports in ROOMS:
        assert seen.issuperset(imports)
        seen.add(room)
    assert {room_of(path) for path in SOURCES if path.is_relative_to(ROOT / "trainer")} - {
        "__init__",
        "__main__",
    } <= seen


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_are_absolute(path: pathlib.Path) -> None:
    modules = list(imported(path))
    assert not [module for module in modules if module.startswith(".")]
    assert not [module for module in modules if module.split(".")[0] in PACKAGES]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_absl_flags_are_imported_in_flags_only(path: pathlib.Path) -> None:
    uses = [module for module in imported(path) if f"{module}.".startswith(("absl.flags.", "absl.app."))]
    assert not uses or path.parent == ROOT / "flags"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_file_is_short(path: pathlib.Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES.get(name_of(path), 400)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_functions_are_short_and_take_few_parameters(path: pathlib.Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            assert (node.end_lineno or 0) - node.lineno < MOST_LINES_OF_A_FUNCTION, node.name
            assert len([name for name in given if name not in ("self", "cls")]) <= MOST_PARAMETERS or (
                name_of(path) == "data/loading.py" and node.name == "load"
            ), node.name


def test_heart_is_read_in_fifteen_minutes() -> None:
    texts = [(ROOT / "trainer" / "core" / f"{name}.py").read_text(encoding="utf-8") for name in HEART]
    assert sum(len(text.splitlines()) for text in texts) <= MOST_LINES_OF_HEART


def test_import_rule_sees_every_form_of_import(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "module.py"
    source.write_text("import a.b\nfrom c import d\ndef f():\n    from . import e\n    from .g import h\n")
    assert set(imported(source)) == {"a.b", "c.d", "..e", ".g.h"}
