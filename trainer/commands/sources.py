"""What `evaluate`, `predict` and `export` read: the checkpoint of a run, or an exported model."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from loopwright import flags
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.base.run_folder import RunFolder
from loopwright.trainer.commands import workdir
from loopwright.trainer.commands.train import build

if TYPE_CHECKING:
    from loopwright.data import Dataset
    from loopwright.trainer.core.state import TrainState


@dataclasses.dataclass(frozen=True)
class Source:
    """A run, or an exported model.

    Attributes:
      path: the checkpoint of the run that was asked for, or None for the newest; the file or folder of an export.
      config: the flags of the run; None for an export.
      folder: of the run.
    """

    path: pathlib.Path | None
    config: flags.Config | None = None
    folder: pathlib.Path = pathlib.Path()

    def restore(self, state: TrainState) -> pathlib.Path:
        """Restores the state from the checkpoint that was asked for, or from the newest undamaged one; returns its path.

        Raises TrainingError if there is none, and for one that doesn't fit.
        """
        from loopwright.trainer.checkpoint.checkpoint import restore_folder, restore_newest

        if self.path is not None:
            restore_folder(self.path, state, exact=False)
            return self.path
        newest = restore_newest(RunFolder.at(self.folder).checkpoints, state)
        if newest is None:
            raise TrainingError(f"--workdir={self.folder}: holds no checkpoint that is whole; train the run on")
        return newest


def parse(
    argv: Sequence[str], groups: Sequence[type], *, usage: str, help_text: str, positional: str | None = None
) -> tuple[list[Any], list[str], Source]:
    """`flags.parse` for a command that reads a run or an export, with what it reads.

    The first group has --workdir and --restore_from. Data flags that aren't typed get the values that they have in the run.
    """
    parsed, words = flags.parse(argv, groups, usage=usage, help_text=help_text, positional=positional, checked=False)
    source = find(parsed[0].workdir, parsed[0].restore_from)
    if source.config is not None:
        of_run = flags.to_arguments(source.config.data)
        parsed, _ = flags.parse(
            [*of_run, *argv], groups, usage=usage, help_text=help_text, positional=positional, checked=False
        )
    flags.check(parsed)
    return parsed, words, source


def find(workdir_flag: str | None, restore_from: str | None) -> Source:
    """What the flags name. Raises UsageError if they name nothing, or nothing that is a run or an export."""
    path = pathlib.Path(restore_from) if restore_from else None
    if path is None and workdir_flag is None:
        raise flags.UsageError("give --workdir=DIR of a run, or --restore_from=FILE such as model.h5")
    if path is not None and not path.exists():
        raise flags.UsageError(f"--restore_from={path}: no such file or folder")
    if path is not None and (path.is_file() or (path / "saved_model.pb").is_file()):
        return Source(path)
    folder = pathlib.Path(workdir_flag) if workdir_flag else (path or pathlib.Path()).resolve().parent.parent
    config = workdir.read_config(folder)
    if config is None:
        named = f"--restore_from={path}" if path else f"--workdir={folder}"
        raise flags.UsageError(f"{named}: not a run or a checkpoint of one ({RunFolder.at(folder).flags} is missing)")
    return Source(path, config, folder)


def with_outputs(config: flags.Config, outputs: str) -> flags.Config:
    """The config of a run, with an --outputs other than `auto` in place of its own."""
    if outputs == "auto":
        return config
    return dataclasses.replace(config, model=dataclasses.replace(config.model, outputs=outputs))


def identity_in(path: pathlib.Path) -> dict[str, Any] | None:
    """The identity of the run that wrote an export, or None if the file and the manifest beside it don't tell it."""
    from loopwright.trainer.export import formats, h5_reader

    try:
        if path.suffix in (".h5", ".hdf5"):
            return dict(h5_reader.read_facts(path)["identity"])
        return dict(formats.read_exports_manifest(path.parent)["files"][path.name]["identity"])
    except (OSError, ValueError, KeyError, TypeError, TrainingError):
        return None


def restored_job(source: Source, config: flags.Config, dataset: Dataset) -> tuple[build.Job, pathlib.Path]:
    """The job of a run with the state of its checkpoint, and the checkpoint's path.

    What hooks keep in the state, such as early stopping, isn't restored.
    """
    job = build.build_job(
        config.model,
        config.optimization,
        dataset,
        seed=config.run.seed,
        total_steps=_total_steps(source.folder, config),
    )
    return job, source.restore(job.state)


def _total_steps(folder: pathlib.Path, config: flags.Config) -> int:
    """The steps of the whole run, on which its schedule depends. Its run.json tells the length of an epoch."""
    if config.run.train_steps:
        return config.run.train_steps
    path = RunFolder.at(folder).facts
    try:
        return (config.run.epochs or 0) * json.loads(path.read_text(encoding="utf-8"))["steps_per_epoch"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} can't be read ({type(error).__name__}: {error})") from None
