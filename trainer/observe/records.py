"""What a run says of itself: records, and the writers that keep them."""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from loopwright.trainer.base import json_lines


class Record:
    """The values of one split at one step.

    Args:
      step: steps taken.
      split: `train` or `eval`.
      values: names to numbers.
      steps_per_epoch: where known, the record says at which epoch it was made, as a fraction.
    """

    def __init__(
        self, step: int, split: str, values: Mapping[str, float], *, steps_per_epoch: int | None = None
    ) -> None:
        self.step, self.split, self.values = step, split, dict(values)
        self.epoch = None if steps_per_epoch is None else step / steps_per_epoch
        self.wall_time = time.time()

    def as_dict(self) -> dict[str, Any]:
        """The record as metrics.jsonl holds it."""
        head: dict[str, Any] = {"step": self.step}
        if self.epoch is not None:
            head["epoch"] = round(self.epoch, 6)
        return head | {"split": self.split, "wall_time": self.wall_time} | self.values


#: Any callable that takes a record.
Writer = Callable[[Record], None]


class JsonLines:
    """A writer of metrics.jsonl: one object a record, flushed at once; what isn't finite is written as null."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path)
        self._file: Any = None

    def read(self) -> list[dict[str, Any]]:
        """The whole records that are there; half a last line, which a killed process left, isn't one."""
        return json_lines.read(self.path)

    def cut(self, step: int) -> None:
        """Takes out the records past a step, which a run that goes on from there writes again; and half a last line."""
        json_lines.cut(self.path, step)

    def __call__(self, record: Record) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8", buffering=1)
        values = {name: json_lines.finite(value) for name, value in record.as_dict().items()}
        self._file.write(json.dumps(values) + "\n")

    def flush(self) -> None:
        """Puts what was written on the disk: a checkpoint is committed after it."""
        if self._file is not None:
            os.fsync(self._file.fileno())
