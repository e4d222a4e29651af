"""The hook that evaluates while a run goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from loopwright.trainer.core import border
from loopwright.trainer.core.evaluation import evaluator
from loopwright.trainer.core.objective import Objective
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.observe.records import Record, Writer, opened


class Evaluate:
    """A hook that evaluates, and gives the record to writers.

    While it is open, so are its writers. They cut what they hold past the state's step when they are opened.

    Attributes:
      last: the metrics of the newest evaluation, by name, for whoever monitors them.
    """

    reads_metrics = False
    at_last = True

    def __init__(
        self,
        feed: border.AnyFeed,
        objective: Objective,
        writers: Sequence[Writer] = (),
        *,
        steps_per_epoch: int | None = None,
    ) -> None:
        border.as_objective(objective)  # a mistake is told now, not at the first evaluation
        self.feed, self.objective, self.writers = border.evaluation_feed(feed), objective, tuple(writers)
        self.steps_per_epoch = steps_per_epoch
        self.last: dict[str, float] = {}
        self._run: Callable[[], dict[str, float]] | None = None
        self._state: TrainState | None = None

    @contextlib.contextmanager
    def open(self, state: TrainState) -> Iterator[None]:
        """Opens the writers at the state's step."""
        self._run = None  # what it was traced from may have changed since the last call of `train`
        with opened(self.writers, int(state.step)):
            yield

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        if self._run is None or self._state is not state:
            self._run, self._state = evaluator(state, self.feed, self.objective), state
        self.last = self._run()
        record = Record(int(state.step), "eval", self.last, steps_per_epoch=self.steps_per_epoch)
        for write in self.writers:
            write(record)
