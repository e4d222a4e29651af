"""Checkpoints: the whole state, committed in one piece, and restored exactly.

The files are `tf.train.Checkpoint`'s own. Plain TensorFlow reads them:

    checkpoint = tf.train.Checkpoint(model=model)
    checkpoint.restore("runs/x/checkpoints/00001250/state").expect_partial()
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from loopwright.trainer import commit
from loopwright.trainer.errors import TrainingError
from loopwright.trainer.state import TrainState

_PREFIX = "state"
_LATEST = "latest"


class Checkpoint:
    """A hook that saves the state into `directory/<step>/`, keeps the newest, and restores them.

    Args:
      directory: the run's `checkpoints` folder.
      keep: how many checkpoints to keep.
      facts: put into every manifest, such as the identity of the run.
      before_commit: called before each save is committed; flush there what must not be newer than the checkpoint.
    """

    reads_metrics = False

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int = 3,
        facts: Mapping[str, Any] | None = None,
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self.directory = pathlib.Path(directory)
        self.keep, self.facts, self.before_commit = keep, dict(facts or {}), before_commit

    def __call__(self, state: TrainState, metrics: Mapping[str, tf.Tensor]) -> None:
        self.save(state)

    def save(self, state: TrainState) -> pathlib.Path:
        """Commits the state and returns its folder; a step that is saved already is left as it is."""
        step = int(state.step)
        folder = self.directory / f"{step:08d}"
        if folder.exists():
            return folder
        self.before_commit()
        checkpoint = tf.train.Checkpoint(**state.trackables())
        facts = {"step": step, "tensorflow": tf.__version__, "keras": keras.__version__, **self.facts}
        commit.commit_folder(folder, lambda temporary: checkpoint.write(str(temporary / _PREFIX)), facts)
        commit.replace_file(self.directory / _LATEST, folder.name + "\n")
        for old in self.folders()[: -self.keep]:
            commit.delete_folder(old)
        return folder

    def folders(self) -> list[pathlib.Path]:
        """The committed checkpoints, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted((path for path in self.directory.iterdir() if path.name.isdigit()), key=lambda p: int(p.name))

    def restore(self, state: TrainState) -> int | None:
        """Restores the newest checkpoint into the state and returns its step; None where there is none yet.

        Raises TrainingError when the newest is damaged or doesn't fit the state; nothing is begun afresh.
        """
        folders = self.folders()
        if not folders:
            return None
        restore_folder(folders[-1], state)
        return int(state.step)


def restore_folder(folder: str | os.PathLike[str], state: TrainState, *, exact: bool = True) -> dict[str, Any]:
    """Restores one committed checkpoint into a state that was built like the saved one; returns its manifest.

    Every file is checked against the manifest before TensorFlow sees it. With `exact=False` the checkpoint may hold more
    than the state, which is enough for evaluation.

    Raises TrainingError for a damaged checkpoint, and for one that doesn't fit the state.
    """
    try:
        manifest = commit.read_manifest(folder)
    except commit.Damaged as error:
        raise TrainingError(
            f"the checkpoint is damaged: {error}; move that folder away to go on from the one before"
        ) from None
    try:
        status = tf.train.Checkpoint(**state.trackables()).read(str(pathlib.Path(folder) / _PREFIX))
        if exact:
            status.assert_consumed()
        else:
            status.assert_existing_objects_matched().expect_partial()
    except (AssertionError, ValueError, tf.errors.OpError) as error:
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise TrainingError(f"the checkpoint {folder} doesn't fit this model and optimizer: {first_line}") from error
    return manifest
