"""A run goes on with its data wherever they lie now. The data count, and not the text of `--dataset`."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import TYPE_CHECKING

from loopwright import flags
from loopwright.data import file_names
from loopwright.data.catalog import FOLDER
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.base.run_folder import RunFolder
from loopwright.trainer.base.say import say
from loopwright.trainer.commands import workdir

if TYPE_CHECKING:
    from loopwright.data import Dataset


def by_name_of_run(config: flags.Config, dataset: Dataset) -> tuple[flags.Config, Dataset]:
    """The config with its workdir, and the dataset, both by the name that the run there has for the data.

    If a run is the same but for the text of `--dataset`, and its data are the same, this is that run. `folder:pets`,
    `folder:pets/` and a copy in the scratch folder of a job are thus one dataset. The run keeps the first text. Without
    --workdir, such a run is looked for among the folders in `runs`. If there is none, nothing changes.
    """
    folder = pathlib.Path(config.run.workdir or workdir.default_workdir(config))
    candidates = [folder]
    if config.run.workdir is None and not RunFolder.at(folder).flags.exists():
        candidates += sorted(path.parent for path in folder.parent.glob(f"*/{RunFolder.at(folder).flags.name}"))
    for candidate in candidates:
        there = _read(candidate, config)
        if there is None or there.data.dataset == config.data.dataset:
            continue
        known = dataset
        if there.data.dataset.startswith(FOLDER) and config.data.dataset.startswith(FOLDER):
            name = pathlib.Path(there.data.dataset.removeprefix(FOLDER)).name  # It is part of the fingerprint.
            known = dataclasses.replace(dataset, full_name=name)
        elif file_names.is_files(there.data.dataset) and (
            file_names.split_name(there.data.dataset)[0] == file_names.split_name(config.data.dataset)[0]
        ):
            known = dataclasses.replace(dataset, full_name=file_names.moved_name(there.data.dataset, dataset.full_name))
        if known.fingerprint == _fingerprint(candidate):
            say(
                f"--dataset={config.data.dataset} holds the data of --dataset={there.data.dataset}: {candidate} goes on"
            )
            data = dataclasses.replace(config.data, dataset=there.data.dataset)
            return workdir.with_run(dataclasses.replace(config, data=data), workdir=str(candidate)), known
    return workdir.with_run(config, workdir=str(folder)), dataset


def _read(folder: pathlib.Path, config: flags.Config) -> flags.Config | None:
    """The flags of the run in a folder, if nothing but `--dataset` makes it another run."""
    try:
        there = workdir.read_config(folder)
    except TrainingError:  # It is raised again if this is the folder that is trained in.
        return None
    if there is None:
        return None
    same = dataclasses.replace(config, data=dataclasses.replace(config.data, dataset=there.data.dataset))
    if config.run.execution == "auto":
        same = workdir.with_run(same, execution=there.run.execution)
    return there if flags.identity(same) == flags.identity(there) else None


def _fingerprint(folder: pathlib.Path) -> str | None:
    """The fingerprint of the data of the run in a folder, or None if run.json can't be read."""
    try:
        return json.loads(RunFolder.at(folder).facts.read_text(encoding="utf-8"))["dataset_fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
