"""Records of what a run measured, and the writer that keeps them as lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from loopwright.trainer.base import json_lines
from loopwright.trainer.base.paths import local_path


class Record:
    """The values of one split at one step.

    Args:
      step: the number of steps taken.
      split: `train` or `eval`.
      values: numbers by name. The parts of a vector get numbers after its name: `f1/0`, `f1/1`, …
      steps_per_epoch: where it is known, the record says at which epoch it was made, as a fraction.
    """

    def __init__(
        self, step: int, split: str, values: Mapping[str, float], *, steps_per_epoch: int | None = None
    ) -> None:
        self.step, self.split, self.values = step, split, _numbers(values)
        self.epoch = None if steps_per_epoch is None else step / steps_per_epoch
        self.wall_time = time.time()

    def as_dict(self) -> dict[str, Any]:
        """The record as metrics.jsonl holds it."""
        head: dict[str, Any] = {"step": self.step}
        if self.epoch is not None:
            head["epoch"] = round(self.epoch, 6)
        return head | {"split": self.split, "wall_time": self.wall_time} | self.values


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as numbers of Python, which JSON can hold."""
    numbers: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, (int, float)):
            numbers[name] = value
        else:
            parts = np.asarray(value).tolist()
            flat = np.ravel(parts).tolist() if isinstance(parts, list) else None
            numbers |= {name: parts} if flat is None else {f"{name}/{place}": part for place, part in enumerate(flat)}
    return numbers


#: Any callable that takes a record. It may have `open(step)`, which gives a context manager: there it cuts what it wrote
#: after that step, because a run that goes on from there writes it again, and closes what it opened.
Writer = Callable[[Record], None]


@contextlib.contextmanager
def opened(writers: Iterable[Writer], step: int) -> Iterator[None]:
    """Opens writers at a step, those that can be opened, and closes them after the block."""
    with contextlib.ExitStack() as stack:
        for writer in writers:
            if hasattr(writer, "open"):
                stack.enter_context(writer.open(step))
        yield


class JsonLines:
    """A writer of metrics.jsonl: one JSON object a record. A number that isn't finite is written as null.

    Each record is in the hands of the operating system when the call returns.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = local_path(path)
        self._file: Any = None

    def read(self) -> list[dict[str, Any]]:
        """The whole records in the file. Half a last line, which a killed process left, is passed over."""
        return json_lines.read(self.path)

    @contextlib.contextmanager
    def open(self, step: int) -> Iterator[None]:
        """Cuts the records past a step and half a last line. Closes the file after the block."""
        self.close()
        json_lines.cut(self.path, step)
        try:
            yield
        finally:
            self.close()

    def __call__(self, record: Record) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8", buffering=1)
        values = {name: json_lines.finite(value) for name, value in record.as_dict().items()}
        self._file.write(json.dumps(values) + "\n")

    def flush(self) -> None:
        """Puts what was written on the disk. A checkpoint is committed after that."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file. The next record opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None
