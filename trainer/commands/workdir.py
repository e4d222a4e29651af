"""The run's folder as the command line sees it: where it lies, and which run it holds."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

from loopwright import flags
from loopwright.trainer.base.atomic import replace_file
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.base.lock import only_writer
from loopwright.trainer.base.paths import local_path
from loopwright.trainer.base.run_folder import NAMES, RunFolder

#: The folders that `make_folder` has created for the command, the outermost first.
_made: list[pathlib.Path] = []


@contextlib.contextmanager
def empty_folders_removed() -> Iterator[None]:
    """Where the block fails, removes the folders that `make_folder` created in it, as far as they are still empty."""
    _made.clear()
    try:
        yield
    except BaseException:
        for folder in reversed(_made):
            with contextlib.suppress(OSError):  # It isn't empty, or it is gone.
                folder.rmdir()
        raise


@dataclasses.dataclass(frozen=True)
class Workdir:
    """The folder of a run, and where --overwrite moved the run that was there before."""

    path: pathlib.Path
    aside: pathlib.Path | None = None

    @contextlib.contextmanager
    def emptied_if_refused(self) -> Iterator[None]:
        """Where the block fails before the run has a result, empties the folder again and brings back what was moved.

        A folder that held files before the block isn't touched. Call it as the only writer of the folder.
        """
        fresh = {path.name for path in self.path.iterdir()} <= {NAMES["lock"]}
        try:
            yield
        except BaseException:
            if fresh and not _has_results(RunFolder.at(self.path)):
                self._empty()
            raise

    def _empty(self) -> None:
        for path in self.path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self.aside is not None:
            self.path.rmdir()
            self.aside.rename(self.path)


def _has_results(files: RunFolder) -> bool:
    """Whether a run has a record, a checkpoint, or something on TensorBoard that belongs to a step."""
    folders = (*files.checkpoints.glob("[0-9]*"), *files.tensorboard.glob("*/"))
    return files.metrics.exists() or any(path.is_dir() for path in folders)


def open_workdir(config: flags.Config) -> Workdir:
    """The folder of the run, created if it is missing, and with --overwrite emptied of another run, which is moved aside.

    Raises TrainingError (exit 2) for a folder that can't be written, and for one that holds another run, whose differences
    it names.
    """
    path = local_path(config.run.workdir or default_workdir(config))
    aside: pathlib.Path | None = None
    if path.exists() and not path.is_dir():
        raise TrainingError(f"--workdir={path}: is a file, not a folder", exit_code=2)
    differences = identity_differences(path, config)
    if differences and config.run.overwrite:
        path = path.resolve()  # `.` has no name, and would be the folder that is moved
        aside = path.with_name(f"{path.name}.{datetime.datetime.now():%Y%m%d-%H%M%S}")
        with only_writer(path):
            path.rename(aside)
    elif differences:
        raise TrainingError(
            f"--workdir={path} holds another run ({', '.join(differences)}); choose another --workdir, or move that run "
            "aside with --overwrite",
            exit_code=2,
        )
    make_folder("--workdir", path)
    return Workdir(path, aside)


def with_run(config: flags.Config, **changes: Any) -> flags.Config:
    """The config with changed flags of the group `Run`."""
    return dataclasses.replace(config, run=dataclasses.replace(config.run, **changes))


def write_flags(workdir: pathlib.Path, config: flags.Config) -> None:
    """Writes the flagfile of the run: what it is, and how it goes on."""
    replace_file(RunFolder.at(workdir).flags, flags.to_flagfile(config))


def make_folder(flag: str, path: pathlib.Path) -> None:
    """Makes a folder and tries to write a file in it. Raises TrainingError (exit 2), naming the flag, where that fails."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        _made.extend(reversed(missing))
        replace_file(path / ".writable", "")
        (path / ".writable").unlink()
    except OSError as error:
        raise TrainingError(f"{flag}={path}: can't be written ({error.strerror})", exit_code=2) from None


def default_workdir(config: flags.Config) -> str:
    """`runs/<dataset>-<model>-<8 hex digits of the identity>`."""
    digest = hashlib.sha256(json.dumps(flags.identity(config), sort_keys=True).encode()).hexdigest()
    names = (re.sub(r"[^\w.]+", "_", name) for name in (config.data.dataset, config.model.model))
    return str(pathlib.Path("runs") / "-".join([*names, digest[:8]]))


def read_config(workdir: str | os.PathLike[str]) -> flags.Config | None:
    """The flags of the run in a folder; None where there is no run."""
    path = RunFolder.at(workdir).flags
    if not path.is_file():
        return None
    try:
        return flags.read_flagfile(path)
    except flags.UsageError as error:
        raise TrainingError(f"{path} can't be read: {error}") from None


def identity_differences(workdir: pathlib.Path, config: flags.Config) -> list[str]:
    """How the run in a folder differs from this one: "--model=mlp there, cnn here". Empty where there is no difference."""
    there_config = read_config(workdir)
    if there_config is None:
        return []
    there, here = flags.identity(there_config), flags.identity(config)
    return [
        f"--{name}={there.get(name)} there, {here.get(name)} here"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]
