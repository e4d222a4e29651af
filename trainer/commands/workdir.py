"""The run's folder as the command line sees it: where it lies, and which run it holds."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import re
from typing import Any

from loopwright import flags
from loopwright.trainer.base.atomic import replace_file
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.base.lock import only_writer
from loopwright.trainer.base.run_folder import RunFolder


def open_workdir(config: flags.Config) -> pathlib.Path:
    """The folder of the run, created if it is missing, and with --overwrite emptied of another run, which is moved aside.

    Raises TrainingError (exit 2) for a folder that can't be written, and for one that holds another run, whose differences
    it names.
    """
    path = pathlib.Path(config.run.workdir or default_workdir(config))
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
    return path


def with_run(config: flags.Config, **changes: Any) -> flags.Config:
    """The config with changed flags of the group `Run`."""
    return dataclasses.replace(config, run=dataclasses.replace(config.run, **changes))


def write_flags(workdir: pathlib.Path, config: flags.Config) -> None:
    """Writes the flagfile of the run: what it is, and how it goes on."""
    replace_file(RunFolder.at(workdir).flags, flags.to_flagfile(config))


def make_folder(flag: str, path: pathlib.Path) -> None:
    """Makes a folder and tries to write a file in it. Raises TrainingError (exit 2), naming the flag, where that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
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
