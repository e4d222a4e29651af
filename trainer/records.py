"""What a run says of itself: records, and the writers that keep them."""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loopwright.trainer import json_lines
from loopwright.trainer.clock import Clock
from loopwright.trainer.precision import scaling_values
from loopwright.trainer.state import TrainState


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


class Log:
    """A hook that turns the window's means into a record, with learning rate, loss scale and speed, for writers."""

    def __init__(
        self,
        writers: Sequence[Writer],
        *,
        clock: Clock | None = None,
        steps_per_epoch: int | None = None,
        examples_per_step: float | None = None,
    ) -> None:
        self.writers, self.clock = tuple(writers), clock or Clock()
        self.steps_per_epoch, self.examples_per_step = steps_per_epoch, examples_per_step
        self._last: tuple[int, float] | None = None

    def start(self, step: int) -> None:
        """Tells where training starts, so that the first record's speed counts from there."""
        self._last = (step, self.clock.training_seconds())

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        step, now = int(state.step), self.clock.training_seconds()
        values = {**metrics, "learning_rate": float(state.optimizer.learning_rate), **scaling_values(state)}
        if self._last is not None and self.examples_per_step is not None and now > self._last[1]:
            values["examples_per_second"] = (step - self._last[0]) * self.examples_per_step / (now - self._last[1])
        self._last = (step, now)
        record = Record(step, "train", values, steps_per_epoch=self.steps_per_epoch)
        for write in self.writers:
            write(record)


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
