"""What `evaluate`, `predict` and `export` begin with: a run's checkpoint, or a file or folder of an exported model."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import TYPE_CHECKING

from loopwright import flags
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.commands import workdir
from loopwright.trainer.commands.train import build

if TYPE_CHECKING:
    from loopwright.data import Dataset
    from loopwright.trainer.core.state import TrainState


@dataclasses.dataclass(frozen=True)
class Source:
    """A run by its flags (`config`) and its folder, and the checkpoint that is asked for; or an export, without `config`."""

    path: pathlib.Path | None
    config: flags.Config | None = None
    folder: pathlib.Path = pathlib.Path()

    def restore(self, state: TrainState) -> pathlib.Path:
        """Gives a state what the named checkpoint holds, the newest whole one without a name; returns where that lies.

        Raises TrainingError where there is none, and for one that doesn't fit.
        """
        from loopwright.trainer.checkpoint.checkpoint import restore_folder, restore_newest

        if self.path is not None:
            restore_folder(self.path, state, exact=False)
            return self.path
        newest = restore_newest(self.folder / "checkpoints", state)
        if newest is None:
            raise TrainingError(f"--workdir={self.folder}: holds no checkpoint that is whole")
        return newest


def find(workdir_flag: str | None, restore_from: str | None) -> Source:
    """What the flags name. Raises UsageError for nothing, for what isn't there, and for a folder of neither kind."""
    path = pathlib.Path(restore_from) if restore_from else None
    if path is None and workdir_flag is None:
        raise flags.UsageError("give --workdir=DIR of a run, or --restore_from=model.h5")
    if path is not None and not path.exists():
        raise flags.UsageError(f"--restore_from={path}: no such file or folder")
    if path is not None and (path.is_file() or (path / "saved_model.pb").is_file()):
        return Source(path)
    folder = pathlib.Path(workdir_flag) if workdir_flag else (path or pathlib.Path()).resolve().parent.parent
    config = workdir.read_config(folder)
    if config is None:
        named = f"--restore_from={path}" if path else f"--workdir={folder}"
        raise flags.UsageError(f"{named}: no checkpoint of a run ({folder / workdir.FLAGFILE} is missing)")
    return Source(path, config, folder)


def restored_job(source: Source, config: flags.Config, dataset: Dataset) -> tuple[build.Job, pathlib.Path]:
    """The job of a run with the state of its checkpoint, and where that lies. What only hooks keep isn't restored."""
    job = build.build_job(
        config.model,
        config.optimization,
        dataset,
        seed=config.run.seed,
        total_steps=_total_steps(source.folder, config),
    )
    return job, source.restore(job.state)


def _total_steps(folder: pathlib.Path, config: flags.Config) -> int:
    """The steps of the whole run, on which its schedule depends; the length of an epoch is in its run.json."""
    if config.run.train_steps:
        return config.run.train_steps
    path = folder / "run.json"
    try:
        return (config.run.epochs or 0) * json.loads(path.read_text(encoding="utf-8"))["steps_per_epoch"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} can't be read ({type(error).__name__}: {error})") from None
