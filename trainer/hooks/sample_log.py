"""The log of samples: which ones each step saw, so that two runs can be compared sample by sample."""

from __future__ import annotations

import json
import os
import pathlib
import zlib
from typing import Any

import numpy as np
import tensorflow as tf

from loopwright.trainer.base import json_lines
from loopwright.trainer.core.objective import Metric
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.core.step import Batch, Step


class SampleLog:
    """Writes a line for each step: `{"step": 7, "index": [...], "crc32": ...}`, in the order in which steps are taken.

    `step` counts from 1, as `TrainState.step` does after it; `index` are the samples' places, and the checksum covers the
    inputs as the step saw them, augmented and scaled. Written by the step itself, so that nothing which was merely read
    ahead is in it; that works in `graph` and `eager`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path)
        self._file: Any = None
        self._failure: OSError | None = None

    def cut(self, step: int) -> None:
        """Takes out the lines past a step, which a run that goes on from there writes again; and half a last line."""
        json_lines.cut(self.path, step)

    def logged(self, step: Step) -> Step:
        """The step, its samples logged."""

        def one(state: TrainState, batch: Batch) -> dict[str, Metric]:
            inputs = tf.nest.flatten(batch["x"])
            tf.numpy_function(self._write, [state.step + 1, batch["index"], *inputs], [])
            return step(state, batch)

        return one

    def flush(self) -> None:
        """Puts what was written on the disk: a checkpoint is committed after it. Raises what writing failed with."""
        if self._failure is not None:
            raise self._failure
        if self._file is not None:
            os.fsync(self._file.fileno())

    def _write(self, step: np.ndarray, index: np.ndarray, *inputs: np.ndarray) -> None:
        checksum = 0
        for tensor in inputs:
            checksum = zlib.crc32(tensor.tobytes(), checksum)
        line = json.dumps({"step": int(step), "index": index.tolist(), "crc32": checksum}) + "\n"
        try:
            self._file = self._file or self.path.open("a", encoding="utf-8", buffering=1)
            self._file.write(line)
        except OSError as error:  # An error of a function inside a graph is many lines long, so `flush` raises it.
            self._failure = self._failure or error
