"""The hook that evaluates while a run goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loopwright.trainer.core.evaluation import evaluator
from loopwright.trainer.core.objective import Objective
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.observe.records import Record, Writer


class Evaluate:
    """A hook that evaluates, and gives the record to writers.

    `last` holds the metrics of the newest evaluation, for whoever monitors them.
    """

    reads_metrics = False

    def __init__(
        self, feed: Any, objective: Objective, writers: Sequence[Writer] = (), *, steps_per_epoch: int | None = None
    ) -> None:
        self.feed, self.objective, self.writers = feed, objective, tuple(writers)
        self.steps_per_epoch = steps_per_epoch
        self.last: dict[str, float] = {}
        self._run: Callable[[], dict[str, float]] | None = None

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        if self._run is None:
            self._run = evaluator(state, self.feed, self.objective)
        self.last = self._run()
        record = Record(int(state.step), "eval", self.last, steps_per_epoch=self.steps_per_epoch)
        for write in self.writers:
            write(record)
