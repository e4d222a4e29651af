"""What `evaluate`, `predict` and `export` read: the checkpoint of a run, or an exported model."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from loopwright import flags
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.base.run_folder import RunFolder
from loopwright.trainer.base.say import say
from loopwright.trainer.commands import setup, workdir
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

    def load_dataset(self, data: flags.Data, progress: str = "auto") -> Dataset:
        """The dataset that the flags name, read as the run read it, with what it learned of texts or tables."""
        if self.config is None:
            return setup.load_dataset(data, progress)
        path = RunFolder.at(self.folder).preprocessing
        learned = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        return setup.load_dataset(data, progress, task=self.config.model.task, preprocessing=learned)

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
    try:
        flags.check(parsed)
    except flags.UsageError as error:
        typed = any(word.partition("=")[0] in ("--dataset", "-dataset") for word in argv)
        if source.config is None or typed or not str(error).startswith("--dataset="):
            raise
        raise flags.UsageError(
            f"{error}; {source.folder} was trained on it, so say with --dataset=… where these data lie now"
        ) from None
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


def facts_in(path: pathlib.Path) -> dict[str, Any]:
    """What an export says of its run: `identity`, `class_names` and, if only the manifest beside it tells, `outputs`.

    An `.h5` holds the facts itself, and so does a `.keras` of today. Empty if neither the file nor the manifest tells them.
    """
    from loopwright.trainer.export import formats, h5_reader

    def in_manifest(path: pathlib.Path) -> dict[str, Any]:
        return dict(formats.read_exports_manifest(path.parent)["files"][path.name])

    whole = {
        ".h5": (h5_reader.read_facts,),
        ".hdf5": (h5_reader.read_facts,),
        ".keras": (h5_reader.read_facts, in_manifest),
    }
    for read in whole.get(path.suffix, (in_manifest,)):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, TrainingError):
            return read(path)
    return {}


def identity_in(path: pathlib.Path) -> dict[str, Any] | None:
    """The identity of the run that wrote an export, or None if the file and the manifest beside it don't tell it."""
    return facts_in(path).get("identity")


def restored_job(source: Source, config: flags.Config, dataset: Dataset) -> tuple[build.Job, pathlib.Path]:
    """The job of a run with the state of its checkpoint, and the checkpoint's path.

    What hooks keep in the state, such as early stopping, isn't restored. A line on stderr says where the classes of the
    dataset aren't those of the run, because outputs and labels are matched by number.
    """
    facts = _facts_of(source.folder) if RunFolder.at(source.folder).facts.exists() else {}
    tell_of_other_classes(facts.get("class_names", ()), dataset)
    job = build.build_job(
        config.model,
        config.optimization,
        dataset,
        seed=config.run.seed,
        total_steps=_total_steps(source.folder, config),
    )
    return job, source.restore(job.state)


def tell_of_other_classes(known: Sequence[str], dataset: Dataset) -> None:
    """Says which class has another name in the run, whose classes are `known`."""
    for number, (here, before) in enumerate(zip(dataset.class_names, known, strict=False)):
        if here != before:
            say(
                f"class {number} is {here!r} in {dataset.name} and {before!r} in the run: classes are matched by number"
            )
            return


def _total_steps(folder: pathlib.Path, config: flags.Config) -> int:
    """The steps of the whole run, on which its schedule depends. Its run.json tells the length of an epoch."""
    if config.run.train_steps:
        return config.run.train_steps
    facts = _facts_of(folder)
    if "steps_per_epoch" not in facts:
        raise TrainingError(f"{RunFolder.at(folder).facts} is damaged: it has no steps_per_epoch; train the run on")
    return (config.run.epochs or 0) * facts["steps_per_epoch"]


def _facts_of(folder: pathlib.Path) -> dict[str, Any]:
    """The run.json of a run."""
    path = RunFolder.at(folder).facts
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"{path} can't be read ({type(error).__name__}: {error})") from None
