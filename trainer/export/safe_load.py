"""Loads model files safely: every file is checked before Keras opens it.

Always refused: links, external storage and virtual datasets (they read other files), archives that write outside their
folder, and bombs, which need far more memory than their size. Refused unless the file is trusted: code, and classes that
don't come from Keras. docs/exports.md lists which attacks were tried and how Keras 3.15.1 handles each.
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
from typing import Any, BinaryIO

import h5py
import keras

from loopwright.trainer.base.errors import TrainingError, first_line
from loopwright.trainer.base.paths import local_path

#: The data in a file may take this many times the file's size, plus this many bytes.
_EXPANSION, _ALLOWANCE = 20, 64 << 20
_MOST_OBJECTS, _MOST_MEMBERS, _DEEPEST = 100_000, 10_000, 100
_HDF5 = b"\x89HDF\r\n\x1a\n"
_OWN_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
_CONFIGS = ("model_config", "training_config")
_WEIGHTS, _CONFIG = "model.weights.h5", "config.json"
#: The member of our `.keras` files that holds what training goes on with.
TRAINING = "loopwright.h5"
#: The attribute of our `.h5` files that holds the import paths of their classes, which Keras doesn't write to an `.h5`.
CLASSES = "loopwright_classes"

#: Keras's own classes that run code from the file, or code that the file names.
_CODE = {"Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}


class Refused(TrainingError):
    """A file is not opened. The message is one line with the reason."""


def load_model(
    path: str | os.PathLike[str],
    *,
    custom_objects: Mapping[str, Any] | None = None,
    compile: bool = False,
    trust: bool = False,
) -> keras.Model:
    """Checks an `.h5` or `.keras` file and loads its model.

    Args:
      custom_objects: classes and functions by name that the file may use besides those of Keras.
      compile: whether to compile the model as the file says.
      trust: the file may hold code and name any class, which is imported from the place that the file names.

    Raises Refused for an unsafe file, and TrainingError for a file that Keras can't load.
    """
    path = local_path(path)
    stored = check_file(path, known=custom_objects or (), trust=trust)
    named = _imported(path) if trust else {}
    options = {"custom_objects": {**named, **(custom_objects or {})}, "safe_mode": not trust}
    _check_size(path, stored, {**options, "compile": False})
    try:
        return keras.models.load_model(path, **options, compile=compile)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise TrainingError(f"{path} can't be loaded ({first_line(error)})") from error


def check_file(path: str | os.PathLike[str], *, known: Collection[str] = (), trust: bool = False) -> int:
    """Raises Refused unless a file holds a model and is safe to open; returns the size of its arrays in bytes.

    Runs no code from the file, and unpacks no more than the file may hold.
    """
    path = local_path(path)
    if not path.is_file():
        raise Refused(f"{path}: no such file")
    try:
        if path.suffix in (".h5", ".hdf5"):
            configs, stored = _check_hdf5_file(path)
        elif path.suffix == ".keras":
            configs, stored = _check_archive(path)
        else:
            raise Refused("is neither an .h5 file nor a .keras file")
        for config in configs:
            _check_config(config, set(known), trust)
        return stored
    except Refused as refusal:
        raise Refused(f"{path}: {refusal}") from None


@contextlib.contextmanager
def opened_weights(path: str | os.PathLike[str], member: str = _WEIGHTS) -> Iterator[h5py.File]:
    """Opens an HDF5 file, or a member of a `.keras` archive, after it was checked. It needn't hold a model.

    Raises Refused for an unsafe file, and TrainingError if it is damaged.
    """
    path = local_path(path)
    if not path.is_file():
        raise Refused(f"{path}: no such file")
    try:
        if path.suffix == ".keras":
            _, stored = _read_archive(path)
            if member not in stored:
                raise Refused(f"holds no {member}")
            content: BinaryIO = io.BytesIO(stored[member])
            size = len(stored[member])
            head = stored[member][:64]
        else:
            content, size = path.open("rb"), path.stat().st_size
            head = content.read(64)
        with content:
            _check_superblock(head, size)
            with h5py.File(content, "r") as file:
                _check_hdf5(file, size)
                yield file
    except Refused as refusal:
        raise Refused(f"{path}: {refusal}") from None
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise TrainingError(f"{path} is damaged ({first_line(error)})") from error


def _imported(path: pathlib.Path) -> dict[str, Any]:
    """Imports the classes that a file names besides Keras's own; returns them by the names that Keras looks up."""
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            places = dict(filter(None, map(_place, _parts(_json(archive.read(_CONFIG))))))
    else:
        with h5py.File(path, "r") as file:
            places = json.loads(file.attrs.get(CLASSES, "{}"))
    try:
        return {name: pkgutil.resolve_name(place) for name, place in places.items()}
    except (ImportError, AttributeError, ValueError) as error:
        raise TrainingError(f"{path}: a class in it can't be imported ({first_line(error)})") from error


def _place(part: Mapping[str, Any]) -> tuple[str, str] | None:
    """The name and import path `module:name` of a part of a configuration; None if it is Keras's or isn't an object."""
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
    config, members = _read_archive(path)
    declared = 0
    for name, weights in members.items():
        _check_superblock(weights[:64], len(weights))
        try:
            with h5py.File(io.BytesIO(weights), "r") as opened:
                stored = _check_hdf5(opened, len(weights))
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            raise Refused(f"is damaged ({name}: {error})") from error
        declared += stored if name == _WEIGHTS else 0
    return [_json(config)], declared


def _read_archive(path: pathlib.Path) -> tuple[bytes, dict[str, bytes]]:
    """The configuration and the HDF5 files of a `.keras` archive, by name."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(members, size)
            names = {member.filename for member in members}
            if not {_CONFIG, _WEIGHTS} <= names:
                raise Refused(f"holds no {_CONFIG if _CONFIG not in names else _WEIGHTS}")
            found = {name: archive.read(name) for name in (_WEIGHTS, TRAINING) if name in names}
            return archive.read(_CONFIG), found
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError) as error:
        raise Refused(f"is no whole .keras archive ({error})") from error


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
    """Checks the signature and the end of file, before HDF5 reads a byte (HDF5 file format specification, II.A)."""
    if not head.startswith(_HDF5):
        raise Refused("is no HDF5 file")
    at = {0: 40, 1: 44, 2: 28, 3: 28}.get(head[8] if len(head) > 8 else -1)
    if at is None or len(head) < at + 8:
        raise Refused("is no HDF5 file of a known version")
    (end,) = struct.unpack_from("<Q", head, at)
    if end > size:
        raise Refused(f"is cut off: it says {end:,} bytes and has {size:,}")


def _check_hdf5(file: h5py.File, size: int) -> int:
    """Checks every object of the file; returns the bytes that its datasets declare."""
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
        # A chunk is unpacked as a whole, and may be larger than its data.
        declared += max(math.prod(item.shape or ()), math.prod(item.chunks or ())) * item.dtype.itemsize
        _check_expansion(declared, size, name)
    return declared


def _objects(group: h5py.Group, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """All groups and datasets with their paths, found by hard links. Raises Refused for any other kind of link."""
    if depth > _DEEPEST:
        raise Refused(f"holds groups more than {_DEEPEST} deep")
    for name in group:
        path = f"{prefix}{name}"
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise Refused(f"holds a link to another place ({path} → {getattr(link, 'filename', '')}{link.path})")
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
        raise Refused(f"is damaged ({name} is not text)")
    return value


def _json(text: str | bytes) -> Any:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(f"is damaged (its configuration is not JSON: {type(error).__name__})") from None
    if not isinstance(found, dict):
        raise Refused(f"is damaged (its configuration is a {type(found).__name__})")
    return found


def _check_config(config: Any, known: set[str], trust: bool) -> None:
    """Raises Refused for a class or function in a configuration that doesn't come from Keras, unless it is trusted."""
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
    remedy = "; if you know who made it, give trust=True"
    if isinstance(part.get("vocabulary"), str):
        raise Refused(f"reads another file ({part['vocabulary']!r} as a vocabulary){remedy}")
    name, module = part.get("class_name"), part.get("module")
    if name is None or not isinstance(name, str) or {name, str(part.get("registered_name"))} & known:
        return
    if name in _CODE:
        raise Refused(f"holds code ({name}){remedy}")
    if module is None or (name in ("function", "__typespec__") and module == "builtins"):
        return  # Keras looks these names up among its own objects.
    if str(module).partition(".")[0] != "keras":
        raise Refused(f"names a class that isn't Keras's ({module}.{part.get('registered_name') or name}){remedy}")


def _check_size(path: pathlib.Path, stored: int, options: Mapping[str, Any]) -> None:
    """Raises Refused if the architecture needs far more weights than the file holds. No weight is allocated for this."""
    from keras.src.backend.common import global_state  # the list of variables without values isn't public

    pending = "uninitialized_variables"
    before = list(global_state.get_global_attribute(pending) or [])
    try:
        with contextlib.suppress(Exception), keras.StatelessScope(initialize_variables=False):
            keras.models.load_model(path, **options)  # The real load reports the errors.
        made = list(global_state.get_global_attribute(pending) or [])[len(before) :]
    finally:
        global_state.set_global_attribute(pending, before)
    asked = sum(math.prod(variable.shape) * 4 for variable in made)
    if asked > _EXPANSION * stored + _ALLOWANCE:
        raise Refused(f"{path}: asks for {asked / 1e9:,.1f} GB of weights and holds {stored / 1e9:.3f} GB of them")
