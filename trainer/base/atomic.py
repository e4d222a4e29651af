"""Writing so that nothing is ever half-written: a temporary name on the same file system, fsync, then a rename.

A committed folder holds `manifest.json` with the size and SHA-256 of every file in it. A folder without a manifest, or
whose files don't match it, was not committed. The manifest holds its own hash, too. This module imports no TensorFlow.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Mapping
from typing import Any

MANIFEST = "manifest.json"
SCHEMA = 1
_OWN_DIGEST = "manifest_sha256"
_TEMPORARY = ".tmp-"
_REPLACED = ".old-"
_DEBRIS = re.compile(r"(\.tmp-|\.old-)\d+-(.+)")  # with the number of the process that left it
_DAMAGED = "damaged-"


class Damaged(Exception):
    """A committed folder that doesn't hold what its manifest says; the message names the file and the difference."""


def replace_file(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file so that a reader sees the old content or the new, whole, whatever happens meanwhile."""
    replace_path(pathlib.Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))


def replace_path(path: pathlib.Path, write: Callable[[pathlib.Path], object], *, name: str | None = None) -> None:
    """Lets `write(temporary)` make a file that then takes the place of `path`; `name` is part of the temporary one."""
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{name or path.name}")
    try:
        write(temporary)
        _fsync(temporary)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # What stopped the write may stop this too; the next start sweeps.
            temporary.unlink(missing_ok=True)
        raise
    _fsync(path.parent)


def write_in_place(path: str | os.PathLike[str], write: Callable[[pathlib.Path], None]) -> None:
    """Lets `write` make a file or a folder under a temporary name beside `path`, and puts it there when it is whole.

    What was there before stays until then; a failure of `write` leaves it alone.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
    _remove(temporary)
    try:
        write(temporary)
        for part in [*temporary.rglob("*"), temporary]:
            _fsync(part)
        put_in_place(temporary, path)
    finally:
        _remove(temporary)


def put_in_place(temporary: pathlib.Path, path: pathlib.Path) -> None:
    """Renames a whole file or folder to `path`; a folder that is there already is kept until the new one has its name."""
    replaced = path.with_name(f"{_REPLACED}{os.getpid()}-{path.name}")
    if path.is_dir():
        _remove(replaced)
        path.rename(replaced)
    try:
        temporary.rename(path)
    except OSError:
        if replaced.exists():
            replaced.rename(path)
        raise
    _fsync(path.parent)
    _remove(replaced)


def commit_folder(
    folder: str | os.PathLike[str], write: Callable[[pathlib.Path], None], facts: Mapping[str, Any]
) -> None:
    """Creates `folder` with what `write(temporary_folder)` puts into it, and a manifest that holds `facts` too.

    A folder of that name that exists already is kept until the new one is whole, then replaced. When anything fails, what
    was written is removed again, so that a full disk isn't kept full by it.
    """
    folder = pathlib.Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f"{_TEMPORARY}{os.getpid()}-{folder.name}")
    _remove(temporary)
    try:
        temporary.mkdir()
        _write_whole(temporary, write, facts)
        put_in_place(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_whole(temporary: pathlib.Path, write: Callable[[pathlib.Path], None], facts: Mapping[str, Any]) -> None:
    """Files, then the manifest of what they are; all of it on the disk before this returns."""
    write(temporary)
    files = {}
    for path in _files(temporary):
        _fsync(path)
        files[str(path.relative_to(temporary))] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    manifest = {"schema": SCHEMA, "files": files, **facts}
    text = json.dumps({**manifest, _OWN_DIGEST: _digest(manifest)}, indent=1)
    (temporary / MANIFEST).write_text(text, encoding="utf-8")
    _fsync(temporary / MANIFEST)
    for path in [*(p for p in temporary.rglob("*") if p.is_dir()), temporary]:
        _fsync(path)


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a committed folder, after every file in it was checked against it. Raises Damaged."""
    folder = pathlib.Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files, schema = manifest["files"], manifest["schema"]
        listed = {name: (entry["bytes"], entry["sha256"]) for name, entry in files.items()}
    except FileNotFoundError:
        raise Damaged(f"{folder}: {MANIFEST} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{folder}: {MANIFEST} can't be read ({type(error).__name__}: {error})") from None
    if schema != SCHEMA:
        raise Damaged(f"{folder}: the manifest has schema {schema!r}; this version reads {SCHEMA}")
    if manifest.pop(_OWN_DIGEST, None) != _digest(manifest):
        raise Damaged(f"{folder}: {MANIFEST} doesn't match the SHA-256 in it")
    try:
        present = {str(path.relative_to(folder)) for path in _files(folder)} - {MANIFEST}
    except OSError as error:  # a writer deleted the folder, or a directory in it can't be read
        raise Damaged(f"{folder}: can't be listed ({error.strerror})") from None
    if present != set(listed):
        missing, stray = sorted(set(listed) - present), sorted(present - set(listed))
        raise Damaged(f"{folder}: missing files {missing}, files too many {stray}")
    for name, (size, digest) in listed.items():
        try:
            found = (folder / name).stat().st_size
            if found != size:
                raise Damaged(f"{folder}: {name} has {found} bytes, not {size}")
            if _sha256(folder / name) != digest:
                raise Damaged(f"{folder}: {name} doesn't match its SHA-256")
        except OSError as error:
            raise Damaged(f"{folder}: {name} can't be read ({error.strerror})") from None
    return manifest


def delete_folder(folder: str | os.PathLike[str]) -> None:
    """Deletes a folder in two moves, so that a reader never sees half of it under its name."""
    folder = pathlib.Path(folder)
    doomed = folder.with_name(f"{_TEMPORARY}{os.getpid()}-deleted-{folder.name}")
    folder.rename(doomed)
    shutil.rmtree(doomed)


def set_aside(folder: str | os.PathLike[str]) -> pathlib.Path:
    """Renames a damaged folder to `damaged-<name>`, out of the way of the one that is going to be written; returns that."""
    folder = pathlib.Path(folder)
    aside = folder.with_name(f"{_DAMAGED}{folder.name}")
    number = 1
    while aside.exists():
        number += 1
        aside = folder.with_name(f"{_DAMAGED}{folder.name}.{number}")
    folder.rename(aside)
    return aside


def sweep(parent: str | os.PathLike[str]) -> list[str]:
    """Removes what dead writers left behind in `parent`, and returns its names. Call it as the only writer.

    A folder whose writer died between moving it aside and putting the new one in its place is put back.
    """
    parent, swept = pathlib.Path(parent), []
    for path in sorted(parent.glob(".*")):
        match = _DEBRIS.fullmatch(path.name)
        if match is None:
            continue
        swept.append(path.name)
        kind, name = match.groups()
        if kind == _REPLACED and not (parent / name).exists():
            path.rename(parent / name)
        else:
            _remove(path)
    return swept


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def _digest(manifest: Mapping[str, Any]) -> str:
    """The SHA-256 of a manifest's content, which it holds itself: so a changed byte in it is seen, too."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
