"""Stopping a run from outside: SIGTERM and SIGINT save first."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from types import FrameType
from typing import Any

import tensorflow as tf

from loopwright.trainer.checkpoint import Checkpoint
from loopwright.trainer.state import TrainState


class Interrupted(Exception):
    """The run was stopped by a signal and has saved; the program exits with 128 + the signal's number."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} at step {step}, which is saved")
        self.exit_code = 128 + signum


class SaveOnSignal:
    """A hook, the last of the list, that saves and raises `Interrupted` after the call in which a signal came.

    As a context manager it catches SIGTERM and SIGINT inside the block, and gives them back to the former handlers after it.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._signum: int | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> SaveOnSignal:
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._former[signum] = signal.signal(signum, self._catch)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for signum, handler in self._former.items():
            signal.signal(signum, handler)

    def _catch(self, signum: int, frame: FrameType | None) -> None:
        self._signum = signum

    def __call__(self, state: TrainState, metrics: Mapping[str, tf.Tensor]) -> None:
        if self._signum is not None:
            self.checkpoint.save(state)
            raise Interrupted(self._signum, int(state.step))
