"""Which checkpoints stay: the newest, one every so often, and the best. Imports no TensorFlow."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from loopwright.trainer.base import atomic

_BEST = "best.json"


class Retention:
    """Deletes the checkpoints in a folder that needn't be kept.

    What each one scored is in its own manifest, so the best is known after any restart, whatever was written last.

    Args:
      directory: the run's `checkpoints` folder.
      keep: how many of the newest stay.
      keep_every: those whose step is a multiple of it stay for ever.
      monitor: the metric of evaluation whose best value stays; less is better for losses. The first with a value is
        better than later ones with the same.
    """

    def __init__(
        self, directory: pathlib.Path, keep: int = 3, keep_every: int | None = None, monitor: str = "accuracy"
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep}: the newest checkpoint is always kept")
        self.directory, self.keep, self.keep_every, self.monitor = directory, keep, keep_every, monitor
        self._scores: dict[str, float | None] = {}

    def folders(self) -> list[pathlib.Path]:
        """The committed checkpoints, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted((path for path in self.directory.iterdir() if path.name.isdigit()), key=lambda p: int(p.name))

    def apply(self, newest: pathlib.Path, evaluation: Mapping[str, float]) -> None:
        """Takes in a checkpoint that was just committed: renews best.json and deletes what needn't be kept."""
        self._scores[newest.name] = evaluation.get(self.monitor)
        folders = self.folders()
        best = self.best(folders)
        if best is not None:
            value = self._score(best)
            text = json.dumps({"step": int(best.name), "monitor": self.monitor, "value": value})
            atomic.replace_file(self.directory / _BEST, text + "\n")
        for folder in folders[: -self.keep]:
            forever = self.keep_every is not None and int(folder.name) % self.keep_every == 0
            if folder not in (best, newest) and not forever:
                atomic.delete_folder(folder)
                self._scores.pop(folder.name, None)

    def best(self, folders: list[pathlib.Path]) -> pathlib.Path | None:
        """The one of the folders with the best value of the metric; None where none has one."""
        sign = -1.0 if "loss" in self.monitor else 1.0
        scored = [(folder, self._score(folder)) for folder in folders]
        best, most = None, -math.inf
        for folder, value in scored:
            if value is not None and sign * value > most:
                best, most = folder, sign * value
        return best

    def _score(self, folder: pathlib.Path) -> float | None:
        if folder.name not in self._scores:
            self._scores[folder.name] = _evaluation(folder).get(self.monitor)
        return self._scores[folder.name]


def _evaluation(folder: pathlib.Path) -> dict[str, Any]:
    """What a checkpoint's manifest says of its evaluation; nothing for one that can't be read, which isn't the best then."""
    try:
        manifest = json.loads((folder / atomic.MANIFEST).read_text(encoding="utf-8"))
        return dict(manifest.get("evaluation", {}))
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
