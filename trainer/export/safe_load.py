"""The door: a model file is foreign until it is shown to be harmless, before Keras opens it.

Refused for good: links, external storage and virtual datasets (they read other files), archives that write outside their
folder, and bombs, which ask for far more memory than they hold. Refused until the file is trusted: code, and names of
classes that aren't Keras's. What was tried against Keras 3.15.1, and what it let through, stands in docs/exports.md.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import pathlib
import pkgutil
import stat
import struct
import zipfile
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import h5py
import keras

from loopwright.trainer.base.errors import TrainingError, first_line

#: What is read may be so many times as large as the file, and this many bytes above it.
_EXPANSION, _ALLOWANCE = 20, 64 << 20
_MOST_OBJECTS, _MOST_MEMBERS, _DEEPEST = 100_000, 10_000, 100
_HDF5 = b"\x89HDF\r\n\x1a\n"
_OWN_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
_CONFIGS = ("model_config", "training_config")
_WEIGHTS, _CONFIG = "model.weights.h5", "config.json"
#: The attribute of an `.h5` of ours that tells where its classes are imported from, which Keras doesn't write down there.
CLASSES = "loopwright_classes"

#: Keras's own classes that run code which the file brings or names.
_CODE = {"Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}


class Refused(TrainingError):
    """A file that isn't opened; the message is one line that says why."""


def load_model(
    path: str | os.PathLike[str],
    *,
    custom_objects: Mapping[str, Any] | None = None,
    compile: bool = False,
    trust: bool = False,
) -> keras.Model:
    """The model in an `.h5` or `.keras` file that was checked first.

    Args:
      custom_objects: classes and functions by name that the file may use besides those of Keras.
      compile: whether to compile it with what the file says.
      trust: the file may bring code of its own and name any class, which is imported from where the file says.

    Raises Refused, and TrainingError for a file that Keras can't load.
    """
    path = pathlib.Path(path)
    stored = check(path, known=custom_objects or (), trust=trust)
    named = _imported(path) if trust else {}
    options = {"custom_objects": {**named, **(custom_objects or {})}, "safe_mode": not trust}
    _check_size(path, stored, {**options, "compile": False})
    try:
        return keras.models.load_model(path, **options, compile=compile)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise TrainingError(f"{path} can't be loaded ({first_line(error)})") from error


def check(path: str | os.PathLike[str], *, known: Collection[str] = (), trust: bool = False) -> int:
    """Raises Refused unless a file is a model that is safe to open; returns the bytes of the arrays that it holds.

    Runs nothing of the file, and reads no more than it holds.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise Refused(f"{path}: no such file")
    try:
        if path.suffix in (".h5", ".hdf5"):
            configs, stored = _check_hdf5_file(path)
        elif path.suffix == ".keras":
            configs, stored = _check_archive(path)
        else:
            raise Refused("is neither an .h5 nor a .keras file")
        for config in configs:
            _check_config(config, set(known), trust)
        return stored
    except Refused as refusal:
        raise Refused(f"{path}: {refusal}") from None


def _imported(path: pathlib.Path) -> dict[str, Any]:
    """What a file names besides Keras's own, imported, by the name under which Keras looks for it."""
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            places = dict(filter(None, map(_place, _parts(_json(archive.read(_CONFIG))))))
    else:
        with h5py.File(path, "r") as file:
            places = json.loads(file.attrs.get(CLASSES, "{}"))
    try:
        return {name: pkgutil.resolve_name(place) for name, place in places.items()}
    except (ImportError, AttributeError, ValueError) as error:
        raise TrainingError(f"{path}: a class that it names can't be imported ({first_line(error)})") from error


def _place(part: Mapping[str, Any]) -> tuple[str, str] | None:
    """The name and the import path `module:name` of a part of a configuration; None for what is Keras's or no object."""
    module, name = part.get("module"), part.get("class_name")
    if name == "function":
        name = part.get("config")
    if not (isinstance(module, str) and isinstance(name, str)) or module.partition(".")[0] in ("keras", "builtins"):
        return None
    return part.get("registered_name") or name, f"{module}:{name}"


def _check_hdf5_file(path: pathlib.Path) -> tuple[list[Any], int]:
    with path.open("rb") as file:
        _check_superblock(file.read(64), path.stat().st_size)
    try:
        with h5py.File(path, "r") as opened:
            stored = _check_hdf5(opened, path.stat().st_size)
            found = [_attribute(opened, name) for name in _CONFIGS if name in opened.attrs]
            if "model_config" not in opened.attrs or "model_weights" not in opened:
                raise Refused("holds no Keras model")
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise Refused(f"is damaged ({error})") from error
    return [_json(text) for text in found], stored


def _check_archive(path: pathlib.Path) -> tuple[list[Any], int]:
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(members, size)
            names = {member.filename for member in members}
            if not {_CONFIG, _WEIGHTS} <= names:
                raise Refused(f"holds no {_CONFIG if _CONFIG not in names else _WEIGHTS}")
            config, weights = archive.read(_CONFIG), archive.read(_WEIGHTS)
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError) as error:
        raise Refused(f"is no whole .keras archive ({error})") from error
    _check_superblock(weights[:64], len(weights))
    try:
        with h5py.File(io.BytesIO(weights), "r") as opened:
            stored = _check_hdf5(opened, len(weights))
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise Refused(f"is damaged ({_WEIGHTS}: {error})") from error
    return [_json(config)], stored


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    names = [member.filename for member in members]
    for member in members:
        parts = pathlib.PurePosixPath(member.filename).parts
        if "\\" in member.filename or ":" in member.filename or ".." in parts or member.filename.startswith("/"):
            raise Refused(f"would write outside its folder ({member.filename!r})")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise Refused(f"holds a link ({member.filename!r})")
    if len(names) > _MOST_MEMBERS or len(set(names)) < len(names):
        raise Refused(f"holds too many members, or two of one name ({len(names)} members)")
    _check_expansion(sum(member.file_size for member in members), size, "its members")


def _check_superblock(head: bytes, size: int) -> None:
    """Signature and end of file, before HDF5's own code sees a byte (HDF5 file format specification, II.A)."""
    if not head.startswith(_HDF5):
        raise Refused("is no HDF5 file")
    at = {0: 40, 1: 44, 2: 28, 3: 28}.get(head[8] if len(head) > 8 else -1)
    if at is None or len(head) < at + 8:
        raise Refused("is no HDF5 file of a known version")
    (end,) = struct.unpack_from("<Q", head, at)
    if end > size:
        raise Refused(f"is cut off: it says {end:,} bytes and has {size:,}")


def _check_hdf5(file: h5py.File, size: int) -> int:
    """Every object of the file; returns the bytes that its datasets declare."""
    declared, seen = 0, set[int]()
    for name, item in _objects(file):
        place = h5py.h5o.get_info(item.id).addr
        if place in seen or len(seen) > _MOST_OBJECTS:
            raise Refused(f"holds a loop, or far too many objects ({name})")
        seen.add(place)
        if not isinstance(item, h5py.Dataset):
            continue
        if item.external:
            raise Refused(f"reads another file (external storage of {name})")
        if item.is_virtual:
            raise Refused(f"reads another file (virtual dataset {name})")
        plist = item.id.get_create_plist()
        if any(plist.get_filter(number)[0] not in _OWN_FILTERS for number in range(plist.get_nfilters())):
            raise Refused(f"is packed with a filter that isn't HDF5's own ({name})")
        # A chunk, which may be larger than what is in it, is unpacked whole.
        declared += max(math.prod(item.shape or ()), math.prod(item.chunks or ())) * item.dtype.itemsize
        _check_expansion(declared, size, name)
    return declared


def _objects(group: h5py.Group, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Groups and datasets with their paths, by hard links alone. Raises Refused for any other link."""
    if depth > _DEEPEST:
        raise Refused(f"holds groups more than {_DEEPEST} deep")
    for name in group:
        path = f"{prefix}{name}"
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise Refused(f"holds a link to elsewhere ({path} → {getattr(link, 'filename', '')}{link.path})")
        item = group[name]
        yield path, item
        if isinstance(item, h5py.Group):
            yield from _objects(item, f"{path}/", depth + 1)


def _check_expansion(declared: int, size: int, what: str) -> None:
    if declared > _EXPANSION * size + _ALLOWANCE:
        raise Refused(f"asks for {declared / 1e9:,.1f} GB of memory and holds {size / 1e9:.3f} GB ({what})")


def _attribute(file: h5py.File, name: str) -> str | bytes:
    value = file.attrs[name]
    if not isinstance(value, (str, bytes)):
        raise Refused(f"is damaged ({name} is no text)")
    return value


def _json(text: str | bytes) -> Any:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(f"is damaged (its configuration is no JSON: {type(error).__name__})") from None
    if not isinstance(found, dict):
        raise Refused(f"is damaged (its configuration is a {type(found).__name__})")
    return found


def _check_config(config: Any, known: set[str], trust: bool) -> None:
    """Every class and function that a configuration names. Raises Refused for one that isn't Keras's."""
    for part in _parts(config):
        if not trust:
            _check_names(part, known)


def _parts(config: Any) -> Iterator[Mapping[str, Any]]:
    """Every mapping in a configuration."""
    waiting = [config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            yield part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def _check_names(part: Mapping[str, Any], known: set[str]) -> None:
    remedy = "; --trust_file opens it if you know who made it"
    if isinstance(part.get("vocabulary"), str):
        raise Refused(f"reads another file ({part['vocabulary']!r} as a vocabulary){remedy}")
    name, module = part.get("class_name"), part.get("module")
    if name is None or not isinstance(name, str) or {name, str(part.get("registered_name"))} & known:
        return
    if name in _CODE:
        raise Refused(f"brings code of its own ({name}){remedy}")
    if module is None or (name in ("function", "__typespec__") and module == "builtins"):
        return  # Keras finds these by name among its own.
    if str(module).partition(".")[0] != "keras":
        raise Refused(f"names a class that isn't Keras's ({module}.{part.get('registered_name') or name}){remedy}")


def _check_size(path: pathlib.Path, stored: int, options: Mapping[str, Any]) -> None:
    """Compares the weights that the architecture asks for with those that the file holds, by a load that makes none."""
    from keras.src.backend.common import global_state  # the list of variables whose values are put off isn't public

    pending = "uninitialized_variables"
    before = list(global_state.get_global_attribute(pending) or [])
    try:
        with contextlib.suppress(Exception), keras.StatelessScope(initialize_variables=False):
            keras.models.load_model(path, **options)  # What is wrong with the file, loading in earnest will say.
        made = list(global_state.get_global_attribute(pending) or [])[len(before) :]
    finally:
        global_state.set_global_attribute(pending, before)
    asked = sum(math.prod(variable.shape) * 4 for variable in made)
    if asked > _EXPANSION * stored + _ALLOWANCE:
        raise Refused(f"{path}: asks for {asked / 1e9:,.1f} GB of weights and holds {stored / 1e9:.3f} GB of them")
