"""Whether the files, folders and modules that flags name are there: asked of the machine, before TensorFlow is imported.

`parse` and `parse_matrix` call `check` for every command. A run's own flagfile is read without it: what a finished run was
made of may be gone by now.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

from loopwright.flags.checks import FUNCTION, Table, augmentations, run_checks
from loopwright.flags.config import Data, Model, Run
from loopwright.flags.errors import UsageError
from loopwright.flags.other_commands import Benchmark, Description, Doctor, Export, Parity

_FOLDER, FILES = "folder:", ("csv:", "npz:", "text:")
#: Files that `trainer` writes: into a run's folder, and into a checkpoint's.
_FLAGFILE, _CHECKPOINTS, _MANIFEST = "flags.txt", "checkpoints", "manifest.json"
#: What Keras writes, and what marks a folder out of which weights can be taken: a run's, or one of TensorFlow's checkpoints.
_KERAS_FILES = (".h5", ".hdf5", ".keras")
_OF_WEIGHTS = (_CHECKPOINTS, "checkpoint", "latest")


#: `gs://bucket/run`, and what `pathlib` makes of it.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


def local_path(flag: str, text: str) -> str:
    """A path on this machine, with `~` as the home folder. `trainer.base.paths` does the same for Python's users.

    Raises UsageError for the address of another place, for `~` where no home folder is known, and for a name that Python
    and TensorFlow would write in different bytes.
    """
    if _ADDRESS.match(text):
        raise UsageError(
            f"--{flag}={text}: is an address, not a path on this machine; give a local or mounted folder, and copy the "
            "files there or from there"
        )
    expanded = os.path.expanduser(text)  # noqa: PTH111 - Path.expanduser gives no word of the remedy
    if expanded.partition("/")[0] == "~":
        raise UsageError(f"--{flag}={text}: no home folder is known for ~; set HOME, or give the whole path")
    if not _same_bytes(expanded):
        raise UsageError(
            f"--{flag}={text!a}: Python and TensorFlow write this name in different bytes; set PYTHONUTF8=1, or use ASCII "
            "names"
        )
    return expanded


def _same_bytes(text: str) -> bool:
    """Whether the locale's encoding gives a name the bytes of UTF-8, which TensorFlow writes."""
    try:
        return os.fsencode(text) == text.encode()
    except UnicodeEncodeError:
        return False


def check(groups: Sequence[Any]) -> None:
    """Raises UsageError for the first flag of the groups that names something that can't be there."""
    run_checks(CHECKS, groups)


def check_data(data: Data) -> None:
    if data.dataset.startswith(_FOLDER):
        if not _is_folder(pathlib.Path(local_path("dataset", data.dataset.removeprefix(_FOLDER)))):
            raise UsageError(f"--dataset={data.dataset}: there is no such folder")
    elif not data.dataset.startswith(FILES) and FUNCTION.fullmatch(data.dataset):
        _check_module("dataset", data.dataset)
    for name, pixels in augmentations(data.augment):
        if pixels is None and ":" in name:
            _check_module("augment", name)
    _check_folder("data_dir", data.data_dir)
    _check_folder("manual_dir", data.manual_dir)


def check_model(model: Model) -> None:
    if ":" in model.model:
        _check_module("model", model.model)


def check_run(model: Model, run: Run) -> None:
    """Checks what a run begins with, unless the run may go on from its own checkpoints, which come first."""
    _check_folder("workdir", run.workdir)
    for flag, value, kinds in (("restore_from", run.restore_from, ()), ("init_from", model.init_from, _OF_WEIGHTS)):
        if value is None or _may_go_on(run, f"--{flag}={value}"):
            continue
        path = pathlib.Path(value)
        is_prefix = bool(kinds) and _exists(path.with_name(f"{path.name}.index"))
        if not _exists(path) and not is_prefix:
            raise UsageError(f"--{flag}={value}: no such file or folder")
        of_tensorflow = is_prefix or any(_exists(path / kind) for kind in kinds) or (kinds and path.suffix == ".index")
        if path.suffix not in _KERAS_FILES and not _exists(path / _MANIFEST) and not of_tensorflow:
            raise UsageError(
                f"--{flag}={value}: not a checkpoint folder ({_MANIFEST} is missing); name one, such as "
                f"runs/NAME/{_CHECKPOINTS}/00000100, or a file such as model.h5"
            )


def check_output(group: Benchmark | Parity | Export) -> None:
    _check_folder("output", group.output)


def check_description(description: Description) -> None:
    if description.sheet is not None and _is_folder(pathlib.Path(description.sheet)):
        raise UsageError(f"--sheet={description.sheet}: is a folder; name a PNG file")


def check_doctor(doctor: Doctor) -> None:
    _check_folder("data_dir", doctor.data_dir)


#: Every check, in the order in which they run.
CHECKS: Table = (
    ((Data,), check_data),
    ((Model,), check_model),
    ((Model, Run), check_run),
    ((Benchmark,), check_output),
    ((Parity,), check_output),
    ((Export,), check_output),
    ((Description,), check_description),
    ((Doctor,), check_doctor),
)


def _check_module(flag: str, text: str) -> None:
    """Refuses `module:function` if no such package or module can be found; nothing is imported."""
    name = text.partition(":")[0].partition(".")[0]
    here = [*sys.path, str(pathlib.Path.cwd())]
    found = name in sys.modules or importlib.machinery.PathFinder.find_spec(name, here)
    if not found and importlib.util.find_spec(name) is None:
        raise UsageError(
            f"--{flag}={text}: can't be imported: no module {name!r} in this folder or among the installed packages"
        )


def _check_folder(flag: str, text: str | None) -> None:
    """Refuses what can't be a folder, because it, or a folder above it, is a file."""
    if text is None:
        return
    path = pathlib.Path(text)
    found = next((part for part in (path, *path.parents) if _exists(part)), None)
    if found is not None and not _is_folder(found):
        raise UsageError(f"--{flag}={text}: {found} is a file; name a folder")


def _may_go_on(run: Run, word: str) -> bool:
    """Whether there is a run that this one may go on with.

    The name of a folder under `runs/` depends on the data, which isn't read yet. So any run there counts whose flags have
    the same word, such as `--init_from=DIR`.
    """
    if run.workdir is not None:
        return any((pathlib.Path(run.workdir) / _CHECKPOINTS).glob("*"))
    flagfiles = pathlib.Path("runs").glob(f"*/{_FLAGFILE}")
    return any(word in path.read_text(encoding="utf-8", errors="replace").splitlines() for path in flagfiles)


def _exists(path: pathlib.Path) -> bool:
    """Whether there is something; False for a path that the system refuses, such as one that is too long."""
    try:
        return path.exists()
    except OSError:
        return False


def _is_folder(path: pathlib.Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False
