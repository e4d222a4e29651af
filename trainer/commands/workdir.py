"""The run's folder: where it lies, what run it holds, and the facts that are kept beside the numbers."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

from loopwright import flags
from loopwright.trainer.base.atomic import replace_file, sweep
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.base.lock import only_writer
from loopwright.trainer.commands import machine

FLAGFILE = "flags.txt"
#: What the last bits depend on, besides versions.
_ARITHMETIC = ("cpu", "cpus", "devices", "intra_op_threads", "inter_op_threads", "onednn")


@contextlib.contextmanager
def open_workdir(config: flags.Config) -> Iterator[pathlib.Path]:
    """The folder of the run, made where it isn't there, and locked inside the block: one writer a folder.

    Raises TrainingError (exit 2) for a folder that can't be written, that another process writes, or that holds another run,
    whose differences it names.
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
    with only_writer(path):
        sweep(path)
        if not (path / FLAGFILE).exists():
            write_flags(path, config)
        yield path


def write_flags(workdir: pathlib.Path, config: flags.Config) -> None:
    """Writes the flagfile of the run: what it is, and how it is going to go on."""
    replace_file(workdir / FLAGFILE, flags.to_flagfile(config))


def make_folder(flag: str, path: pathlib.Path) -> None:
    """Makes a folder and tries a file in it. Raises TrainingError (exit 2), naming the flag, where that can't be done."""
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
    path = pathlib.Path(workdir) / FLAGFILE
    if not path.is_file():
        return None
    try:
        groups, _ = flags.parse([f"--flagfile={path.absolute()}"], flags.TRAIN_GROUPS, usage="", help_text="")
        return flags.config_from_groups(groups)
    except flags.UsageError as error:
        raise TrainingError(f"{path} can't be read: {error}") from None


def identity_differences(workdir: pathlib.Path, config: flags.Config) -> list[str]:
    """How the run in a folder differs from this one: "--model=mlp there, cnn here". Empty where there is none."""
    there_config = read_config(workdir)
    if there_config is None:
        return []
    there, here = flags.identity(there_config), flags.identity(config)
    return [
        f"--{name}={there.get(name)} there, {here.get(name)} here"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]


def write_run_json(workdir: pathlib.Path, facts: dict[str, Any]) -> list[str]:
    """Writes run.json: versions, machine and devices, and the facts of this run.

    Returns on what the last bits depend and what isn't as it was in the run's process before, such as "cpus: 8 before, 2
    now".

    Raises TrainingError where the folder's run had other data under the same name.
    """
    import tensorflow_datasets as tfds

    path, before = workdir / "run.json", {}
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            fingerprint = before["dataset_fingerprint"]
        except (ValueError, KeyError, TypeError) as error:
            raise TrainingError(
                f"{path} is damaged ({error}); delete it to go on without the check of the data"
            ) from None
        if fingerprint != facts["dataset_fingerprint"]:
            raise TrainingError(
                f"{workdir} was trained on other data: the dataset's fingerprint was {fingerprint} and is "
                f"{facts['dataset_fingerprint']} now; restore the data, or choose another --workdir"
            )
    here = machine.environment()
    run = {
        "versions": {
            **{name: here[name] for name in ("python", "tensorflow", "keras", "numpy")},
            "tensorflow_datasets": tfds.__version__,
        },
        "host": socket.gethostname(),
        "platform": here["platform"],
        **{name: here[name] for name in _ARITHMETIC},
        "git_revision": _git_revision(),
        **facts,
    }
    replace_file(path, json.dumps(run, indent=1) + "\n")
    was, now = _arithmetic(before), _arithmetic(run)
    return [f"{name}: {value} before, {now[name]} now" for name, value in was.items() if value != now[name]]


def _arithmetic(run: dict[str, Any]) -> dict[str, Any]:
    """What the last bits depend on, out of a run.json; an old one doesn't have all."""
    return {**run.get("versions", {}), **{name: run[name] for name in _ARITHMETIC if name in run}}


def _git_revision() -> str | None:
    if shutil.which("git") is None:
        return None
    result = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return result.stdout.strip() or None
