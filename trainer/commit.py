"""Writing so that nothing is ever half-written: a temporary name on the same file system, fsync, then a rename.

A committed folder holds `manifest.json` with the size and SHA-256 of every file in it. A folder without a manifest, or
whose files don't match it, was not committed. This module imports no TensorFlow.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

MANIFEST = "manifest.json"
SCHEMA = 1
_TEMPORARY = ".tmp-"
_REPLACED = ".old-"


class Damaged(Exception):
    """A committed folder that doesn't hold what its manifest says; the message names the file and the difference."""


def replace_file(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file so that a reader sees the old content or the new, whole, whatever happens meanwhile."""
    replace_path(pathlib.Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))


def replace_path(path: pathlib.Path, write: Callable[[pathlib.Path], object], *, name: str | None = None) -> None:
    """Lets `write(temporary)` make a file that then takes the place of `path`; `name` is part of the temporary one."""
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{name or path.name}")
    write(temporary)
    _fsync(temporary)
    temporary.replace(path)
    _fsync(path.parent)


def commit_folder(
    folder: str | os.PathLike[str], write: Callable[[pathlib.Path], None], facts: Mapping[str, Any]
) -> None:
    """Creates `folder` with what `write(temporary_folder)` puts into it, and a manifest that holds `facts` too.

    A folder of that name that exists already is kept until the new one is whole, then replaced.
    """
    folder = pathlib.Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f"{_TEMPORARY}{os.getpid()}-{folder.name}")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir()
    write(temporary)
    files = {}
    for path in _files(temporary):
        _fsync(path)
        files[str(path.relative_to(temporary))] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    manifest = {"schema": SCHEMA, "files": files, **facts}
    (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _fsync(temporary / MANIFEST)
    for path in [*(p for p in temporary.rglob("*") if p.is_dir()), temporary]:
        _fsync(path)
    replaced = folder.with_name(f"{_REPLACED}{os.getpid()}-{folder.name}")
    if folder.exists():
        if replaced.exists():
            shutil.rmtree(replaced)
        folder.rename(replaced)
    try:
        temporary.rename(folder)
    except OSError:
        if replaced.exists():
            replaced.rename(folder)
        raise
    _fsync(folder.parent)
    if replaced.exists():
        shutil.rmtree(replaced)


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
    present = {str(path.relative_to(folder)) for path in _files(folder)} - {MANIFEST}
    if present != set(listed):
        missing, stray = sorted(set(listed) - present), sorted(present - set(listed))
        raise Damaged(f"{folder}: missing files {missing}, files too many {stray}")
    for name, (size, digest) in listed.items():
        if (folder / name).stat().st_size != size:
            raise Damaged(f"{folder}: {name} has {(folder / name).stat().st_size} bytes, not {size}")
        if _sha256(folder / name) != digest:
            raise Damaged(f"{folder}: {name} doesn't match its SHA-256")
    return manifest


def delete_folder(folder: str | os.PathLike[str]) -> None:
    """Deletes a folder in two moves, so that a reader never sees half of it under its name."""
    folder = pathlib.Path(folder)
    doomed = folder.with_name(f"{_TEMPORARY}{os.getpid()}-deleted-{folder.name}")
    folder.rename(doomed)
    shutil.rmtree(doomed)


def sweep(parent: str | os.PathLike[str]) -> list[str]:
    """Removes what dead writers left behind in `parent`, and returns its names. Call it as the only writer.

    A folder whose writer died between moving it aside and putting the new one in its place is put back.
    """
    parent, swept = pathlib.Path(parent), []
    for path in sorted([*parent.glob(f"{_TEMPORARY}*"), *parent.glob(f"{_REPLACED}*")]):
        swept.append(path.name)
        name = path.name.removeprefix(_REPLACED).partition("-")[2]
        if path.name.startswith(_REPLACED) and not (parent / name).exists():
            path.rename(parent / name)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return swept


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
