"""Which checkpoints stay: the newest, one every so often, and the best. Imports no TensorFlow."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from loopwright.trainer.base import atomic
from loopwright.trainer.base.monitor import Monitor

_BEST = "best.json"


class Retention:
    """Deletes the checkpoints in a folder that needn't be kept.

    The manifest of each checkpoint holds what evaluation said of it. So the best one is known after any restart.

    Args:
      directory: the run's `checkpoints` folder.
      keep: how many of the newest stay.
      keep_every: checkpoints whose step is a multiple of it stay for ever.
      monitor: the metric of evaluation whose best value stays, `NAME:min` or `NAME:max` where its direction isn't known.
        The first checkpoint with a value counts as better than later ones with the same value.

    Raises ValueError for a `keep` below 1, and for a monitor without a direction.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        keep: int = 3,
        keep_every: int | None = None,
        monitor: str | Monitor = "accuracy",
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep}: the newest checkpoint is always kept, so give at least 1")
        self.directory, self.keep, self.keep_every, self.monitor = directory, keep, keep_every, Monitor.of(monitor)
        self._scores: dict[str, float | None] = {}

    def folders(self) -> list[pathlib.Path]:
        """The committed checkpoints, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted((path for path in self.directory.iterdir() if path.name.isdecimal()), key=lambda p: int(p.name))

    def apply(self, newest: pathlib.Path, evaluation: Mapping[str, float]) -> None:
        """Takes in a checkpoint that was just committed: renews best.json and deletes what needn't be kept."""
        self._scores[newest.name] = evaluation.get(self.monitor.name)
        folders = self.folders()
        best = self.best(folders)
        if best is not None:
            facts = {"step": int(best.name), "monitor": self.monitor.name, "value": self._score(best)}
            atomic.replace_file(self.directory / _BEST, json.dumps(facts) + "\n")
        for folder in folders[: -self.keep]:
            forever = self.keep_every is not None and int(folder.name) % self.keep_every == 0
            if folder not in (best, newest) and not forever:
                atomic.delete_folder(folder)
                self._scores.pop(folder.name, None)

    def best(self, folders: list[pathlib.Path]) -> pathlib.Path | None:
        """The folder with the best value of the metric; None where none has a value."""
        best: pathlib.Path | None = None
        for folder in folders:
            if self.monitor.is_better(self._score(folder), None if best is None else self._score(best)):
                best = folder
        return best

    def _score(self, folder: pathlib.Path) -> float | None:
        if folder.name not in self._scores:
            self._scores[folder.name] = _evaluation(folder).get(self.monitor.name)
        return self._scores[folder.name]


def _evaluation(folder: pathlib.Path) -> dict[str, Any]:
    """What a checkpoint's manifest says of its evaluation; nothing where the manifest can't be read."""
    try:
        manifest = json.loads((folder / atomic.MANIFEST).read_text(encoding="utf-8"))
        return dict(manifest.get("evaluation", {}))
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
