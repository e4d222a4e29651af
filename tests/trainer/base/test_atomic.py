"""Commits are whole or don't happen, whatever fails during them, and they need no TensorFlow."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from loopwright.trainer.base import atomic

#: The functions that touch the disk. A write can fail at each of their calls.
DISK = [
    (pathlib.Path, "mkdir"),
    (pathlib.Path, "write_text"),
    (pathlib.Path, "rename"),
    (pathlib.Path, "replace"),
    (os, "fsync"),
    (shutil, "rmtree"),
]


def write_files(**files: str) -> Callable[[pathlib.Path], None]:
    def write(folder: pathlib.Path) -> None:
        for name, text in files.items():
            path = folder / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    return write


def content(folder: pathlib.Path) -> dict[str, str]:
    """The files of a committed folder, checked against its manifest."""
    return {name: (folder / name).read_text() for name in atomic.verify_folder(folder)["files"]}


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Fault:
    """Makes the n-th call that touches the disk fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
        self.left = n
        for owner, name in DISK:
            monkeypatch.setattr(owner, name, self.wrapped(getattr(owner, name)))

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == -1:
                raise OSError(28, "No space left on device")
            return function(*arguments, **options)

        return call


def faults(action: Callable[[], Any]) -> Iterator[bool]:
    """Repeats the action with a failure at one call later each time, until it succeeds; yields whether it failed."""
    for n in range(100):
        with pytest.MonkeyPatch.context() as monkeypatch:
            Fault(monkeypatch, n)
            try:
                action()
                failed = False
            except OSError:
                failed = True
        yield failed
        if not failed:
            return
    raise RuntimeError("the action never gets through")


def test_commit_folder_writes_files_and_a_manifest(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "deep" / "00000010"
    atomic.commit_folder(folder, write_files(a="1", sub__b="22"), {"step": 10})
    manifest = atomic.verify_folder(folder)
    assert (manifest["step"], manifest["schema"]) == (10, atomic.SCHEMA)
    assert {name: entry["bytes"] for name, entry in manifest["files"].items()} == {"a": 1, "sub/b": 2}
    assert content(folder) == {"a": "1", "sub/b": "22"}
    assert names(tmp_path / "deep") == ["00000010"]


def test_commit_folder_replaces_an_older_one(tmp_path: pathlib.Path) -> None:
    for text in ("old", "new"):
        atomic.commit_folder(tmp_path / "x", write_files(**{text: text}), {})
    assert content(tmp_path / "x") == {"new": "new"}
    assert names(tmp_path) == ["x"]


def test_commit_folder_leaves_the_old_one_whole_wherever_it_fails(tmp_path: pathlib.Path) -> None:
    outcomes = []

    def action() -> None:
        atomic.commit_folder(tmp_path / "x", write_files(a="new", b="new"), {})

    atomic.commit_folder(tmp_path / "x", write_files(a="old"), {})
    for failed in faults(action):
        found = content(tmp_path / "x")
        assert found in ({"a": "old"}, {"a": "new", "b": "new"})
        outcomes.append(failed)
        if found != {"a": "old"}:
            atomic.commit_folder(tmp_path / "x", write_files(a="old"), {})
    assert len(outcomes) > 10
    assert outcomes[-1] is False


def test_commit_folder_shows_nothing_under_its_name_where_it_fails(tmp_path: pathlib.Path) -> None:
    for failed in faults(lambda: atomic.commit_folder(tmp_path / "x", write_files(a="1"), {})):
        if (tmp_path / "x").exists():
            assert content(tmp_path / "x") == {"a": "1"}
            shutil.rmtree(tmp_path / "x")
        else:
            assert failed


def test_replace_file_leaves_the_old_text_or_the_new_wherever_it_fails(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "latest"
    atomic.replace_file(path, "old")
    for failed in faults(lambda: atomic.replace_file(path, "new")):
        assert path.read_text() in (("old", "new") if failed else ("new",))
        atomic.replace_file(path, "old")


def test_sweep_removes_what_dead_writers_left(tmp_path: pathlib.Path) -> None:
    atomic.commit_folder(tmp_path / "kept", write_files(a="1"), {})
    (tmp_path / ".tmp-1-x").mkdir()
    (tmp_path / ".tmp-1-x" / "half").write_text("h")
    (tmp_path / ".tmp-2-file").write_text("h")
    theirs = [".old-config", ".tmp-notes", ".profile"]
    for name in theirs:
        (tmp_path / name).write_text("no debris")
    assert atomic.sweep(tmp_path) == [".tmp-1-x", ".tmp-2-file"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*theirs, "kept"])


def test_sweep_puts_back_a_folder_whose_writer_died_while_replacing_it(tmp_path: pathlib.Path) -> None:
    for name, text in ((".old-1-x-y", "old"), (".old-1-z", "old"), ("z", "new")):
        atomic.commit_folder(tmp_path / name, write_files(a=text), {})
    atomic.sweep(tmp_path)
    assert names(tmp_path) == ["x-y", "z"]
    assert (content(tmp_path / "x-y"), content(tmp_path / "z")) == ({"a": "old"}, {"a": "new"})


def flip_a_bit(folder: pathlib.Path) -> None:
    data = bytearray((folder / "a").read_bytes())
    data[0] ^= 1
    (folder / "a").write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (flip_a_bit, ["a doesn't match its SHA-256"]),
        (lambda folder: (folder / "a").write_text("longer"), ["a has 6 bytes, not 3"]),
        (lambda folder: (folder / "a").unlink(), ["missing files ['a']"]),
        (lambda folder: (folder / "stray").write_text(""), ["unexpected files ['stray']"]),
        (lambda folder: (folder / "manifest.json").unlink(), ["manifest.json is missing"]),
        (lambda folder: (folder / "manifest.json").write_text("{"), ["manifest.json can't be read"]),
        (lambda folder: (folder / "manifest.json").write_text("[]"), ["manifest.json can't be read"]),
        (lambda folder: (folder / "manifest.json").write_text('{"schema": 9, "files": {}}'), ["schema 9"]),
    ],
)
def test_verify_folder_names_what_is_damaged(
    tmp_path: pathlib.Path, damage: Callable[[pathlib.Path], Any], parts: list[str]
) -> None:
    folder = tmp_path / "x"
    atomic.commit_folder(folder, write_files(a="abc"), {})
    damage(folder)
    with pytest.raises(atomic.Damaged) as error:
        atomic.verify_folder(folder)
    assert all(part in str(error.value) for part in [*parts, str(folder)])
    assert "\n" not in str(error.value)


def test_reader_of_a_folder_that_is_deleted_says_damaged(tmp_path: pathlib.Path) -> None:
    folder, calls, at = tmp_path / "x", 0, 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal calls
        if reading and event in ("open", "os.scandir") and str(arguments[0]).startswith(str(folder)):
            calls += 1
            if calls == at:
                atomic.delete_folder(folder)

    reading = False
    sys.addaudithook(hook)  # it can't be removed; it does nothing once `reading` is False
    for at in (0, 1, 2, 3, 4, 5):  # 0: never deleted
        atomic.commit_folder(folder, write_files(a="abc", sub__b="22"), {})
        calls, reading = 0, True
        try:
            atomic.verify_folder(folder)
            assert at == 0
        except atomic.Damaged:
            assert at > 0
        finally:
            reading = False
        assert calls >= at
        assert folder.exists() == (at == 0)


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(
    files=st.dictionaries(
        st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.binary(max_size=100), min_size=1, max_size=4
    ),
    facts=st.dictionaries(st.sampled_from(["step", "note", "identity"]), st.integers() | st.text(max_size=5)),
    data=st.data(),
)
def test_manifest_tells_every_changed_byte(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], facts: dict[str, Any], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("commit") / "x"
    atomic.commit_folder(folder, lambda at: [(at / name).write_bytes(part) for name, part in files.items()], facts)
    manifest = atomic.verify_folder(folder)
    assert set(manifest["files"]) == set(files)
    assert {name: manifest[name] for name in facts} == json.loads(json.dumps(facts))
    name = data.draw(st.sampled_from(sorted(files)))
    changed = data.draw(st.binary(max_size=100).filter(lambda other: other != files[name]))
    (folder / name).write_bytes(changed)
    with pytest.raises(atomic.Damaged, match=name):
        atomic.verify_folder(folder)


def test_commit_loads_no_tensorflow() -> None:
    code = "import sys, loopwright.trainer.base.atomic; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


LITTER = (".DS_Store", "._a", ".nfs0001", "Thumbs.db", "desktop.ini", "a~", "Icon\r", "@eaDir/a", "__MACOSX/._a")


@pytest.mark.parametrize("name", LITTER)
def test_what_file_managers_leave_is_no_damage(tmp_path: pathlib.Path, name: str) -> None:
    folder = tmp_path / "x"
    atomic.commit_folder(folder, write_files(a="abc"), {})
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("litter")
    assert content(folder) == {"a": "abc"}
    (folder / "a").unlink()
    with pytest.raises(atomic.Damaged, match=r"missing files \['a'\], unexpected files \[\]"):
        atomic.verify_folder(folder)


def test_what_file_managers_leave_during_a_commit_may_go_later(tmp_path: pathlib.Path) -> None:
    def write(folder: pathlib.Path) -> None:
        (folder / "a").write_text("abc")
        (folder / ".DS_Store").write_text("litter")

    atomic.commit_folder(tmp_path / "x", write, {})
    (tmp_path / "x" / ".DS_Store").unlink()
    assert content(tmp_path / "x") == {"a": "abc"}
