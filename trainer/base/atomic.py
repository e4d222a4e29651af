"""Atomic writes: a file or a folder is written under a temporary name, synced to the disk, and then renamed.

A committed folder holds `manifest.json` with the size and SHA-256 of every file in it, and the hash of the manifest's own
content. A folder that has no manifest or doesn't match it was not committed. This module imports no TensorFlow.
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
_DEBRIS = re.compile(r"(\.tmp-|\.old-)\d+-(.+)")  # the number is that of the process that left it
_DAMAGED = "damaged-"
#: What file managers, editors and network file systems leave in any folder. No program reads a checkpoint from it.
_LITTER = re.compile(
    r"\..*|.*~|(Thumbs|ehthumbs)\.db|desktop\.ini|Icon\r|lost\+found|@eaDir|__MACOSX|\$RECYCLE\.BIN", re.I
)


class Damaged(Exception):
    """A committed folder differs from its manifest. The message names the file and the difference."""


def replace_file(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file. Readers see the whole old text or the whole new text at any moment."""
    replace_path(pathlib.Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))


def replace_path(path: pathlib.Path, write: Callable[[pathlib.Path], object], *, name: str | None = None) -> None:
    """Replaces the file `path` by the file that `write(temporary)` makes.

    The old file stays until the new file is whole, and when `write` fails. `name` is part of the temporary name.
    """
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{name or path.name}")
    try:
        write(temporary)
        _fsync(temporary)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # What stopped the write may stop this too. The next start sweeps.
            temporary.unlink(missing_ok=True)
        raise
    _fsync(path.parent)


def move_into_place(temporary: pathlib.Path, path: pathlib.Path) -> None:
    """Renames a finished file or folder to `path`. An old folder is deleted only after the new folder has its name."""
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
    """Creates `folder` with the files that `write(temporary_folder)` writes, and a manifest that also holds `facts`.

    An old folder of that name stays until the new folder is whole. When anything fails, the new files are removed, so
    that they don't keep a full disk full.
    """
    folder = pathlib.Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f"{_TEMPORARY}{os.getpid()}-{folder.name}")
    _remove(temporary)
    try:
        temporary.mkdir()
        _write_whole(temporary, write, facts)
        move_into_place(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_whole(temporary: pathlib.Path, write: Callable[[pathlib.Path], None], facts: Mapping[str, Any]) -> None:
    """Writes the files, then their manifest. Everything is on the disk when this returns."""
    write(temporary)
    files = {}
    for path in _files(temporary):
        _fsync(path)
        if _is_litter(str(path.relative_to(temporary))):
            continue
        files[str(path.relative_to(temporary))] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    manifest = {"schema": SCHEMA, "files": files, **facts}
    text = json.dumps({**manifest, _OWN_DIGEST: _digest(manifest)}, indent=1)
    (temporary / MANIFEST).write_text(text, encoding="utf-8")
    _fsync(temporary / MANIFEST)
    for path in [*(p for p in temporary.rglob("*") if p.is_dir()), temporary]:
        _fsync(path)


def verify_folder(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Checks every file of a committed folder against its manifest, which is returned. Raises Damaged.

    What file managers leave there, such as `.DS_Store` or `Thumbs.db`, isn't damage.
    """
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
    except OSError as error:  # a writer deleted the folder, or a folder inside it can't be read
        raise Damaged(f"{folder}: can't be listed ({error.strerror})") from None
    stray = sorted(name for name in present - set(listed) if not _is_litter(name))
    missing = sorted(set(listed) - present)
    if missing or stray:
        raise Damaged(f"{folder}: missing files {missing}, unexpected files {stray}")
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
    """Renames a folder and then deletes it, so that a reader never sees half of it under its name."""
    folder = pathlib.Path(folder)
    doomed = folder.with_name(f"{_TEMPORARY}{os.getpid()}-deleted-{folder.name}")
    folder.rename(doomed)
    shutil.rmtree(doomed)


def set_aside(folder: str | os.PathLike[str]) -> pathlib.Path:
    """Renames a damaged folder to `damaged-<name>`, which makes way for a new folder. Returns the new path."""
    folder = pathlib.Path(folder)
    aside = folder.with_name(f"{_DAMAGED}{folder.name}")
    number = 1
    while aside.exists():
        number += 1
        aside = folder.with_name(f"{_DAMAGED}{folder.name}.{number}")
    folder.rename(aside)
    return aside


def sweep(parent: str | os.PathLike[str]) -> list[str]:
    """Removes what dead writers left in `parent`, and returns the names. Only the single writer may call it.

    When a writer died after it had moved an old folder aside and before it renamed the new folder, the old folder gets
    its name back.
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


def _is_litter(name: str) -> bool:
    """Whether a file isn't part of what was committed, such as `.DS_Store`, or lies in a folder that isn't."""
    return any(_LITTER.fullmatch(part) for part in pathlib.PurePath(name).parts)


def _digest(manifest: Mapping[str, Any]) -> str:
    """The SHA-256 of a manifest's content. The manifest holds it, so a changed byte in the manifest is found."""
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
