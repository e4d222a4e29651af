"""The log of samples: which samples each step saw, so that two runs can be compared sample by sample."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from loopwright.trainer.base import json_lines
from loopwright.trainer.base.paths import local_path
from loopwright.trainer.core.feed import Batch
from loopwright.trainer.core.objective import Metric
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.core.step import Step


class SampleLog:
    """A hook that keeps a log of samples, written by the step that `logged` makes.

    Each step writes a line `{"step": 7, "index": [...], "crc32": ...}`. `step` counts from 1: it is the state's step after
    the update. `index` holds the samples' places. The checksum covers the inputs as the step saw them, augmented and scaled.
    The step itself writes, so a sample that was only read ahead isn't in the log. This works in `graph` and `eager`.

    As a hook, it raises what writing failed with. While it is open, the lines past the state's step are cut.
    """

    reads_metrics = False

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = local_path(path)
        self._file: Any = None
        self._failure: OSError | None = None

    @contextlib.contextmanager
    def open(self, state: TrainState) -> Iterator[None]:
        """Cuts the lines past the state's step, which the run writes again. Closes the file after the block."""
        self._close()
        json_lines.cut(self.path, int(state.step))
        try:
            yield
        finally:
            self._close()

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        if self._failure is not None:
            raise self._failure

    def logged(self, step: Step) -> Step:
        """The step, which logs its samples, too."""

        def one(state: TrainState, batch: Batch) -> dict[str, Metric]:
            inputs = tf.nest.flatten(batch["x"])
            tf.numpy_function(self._write, [state.step + 1, batch["index"], *inputs], [])
            return step(state, batch)

        return one

    def flush(self) -> None:
        """Puts what was written on the disk. A checkpoint is committed after that. Raises what writing failed with."""
        if self._failure is not None:
            raise self._failure
        if self._file is not None:
            os.fsync(self._file.fileno())

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, step: np.ndarray, index: np.ndarray, *inputs: np.ndarray) -> None:
        checksum = 0
        for tensor in inputs:
            checksum = zlib.crc32(tensor.tobytes(), checksum)
        line = json.dumps({"step": int(step), "index": index.tolist(), "crc32": checksum}) + "\n"
        try:
            self._file = self._file or self.path.open("a", encoding="utf-8", buffering=1)
            self._file.write(line)
        except OSError as error:  # An error inside a graph is many lines long, so the hook raises it.
            self._failure = self._failure or error
