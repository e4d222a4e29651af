"""The hook that logs the training metrics."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from loopwright.trainer.base.clock import Clock
from loopwright.trainer.core.loss_scaling import scaling_values
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.observe.records import Record, Writer, opened


class Log:
    """A hook that turns the window's means into a record for writers, with the learning rate, loss scale and speed.

    While it is open, so are its writers. They cut what they hold past the state's step when they are opened.

    Args:
      clock: tells the seconds of training alone, by which the speed is worked out.
      steps_per_epoch: where it is known, records say at which epoch they were made.
      examples_per_step: the mean number of samples in a batch. Without it there is no speed.
    """

    at_last = True

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

    @contextlib.contextmanager
    def open(self, state: TrainState) -> Iterator[None]:
        """Opens the writers at the state's step. The start of the run ends here, and the speed counts from here."""
        self.clock.end_start()
        with opened(self.writers, int(state.step)):
            self._last = (int(state.step), self.clock.training_seconds())
            yield

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        step, now = int(state.step), self.clock.training_seconds()
        values = {**metrics, "learning_rate": float(state.optimizer.learning_rate), **scaling_values(state)}
        if self._last is not None and self.examples_per_step is not None and now > self._last[1]:
            values["examples_per_second"] = (step - self._last[0]) * self.examples_per_step / (now - self._last[1])
        self._last = (step, now)
        record = Record(step, "train", values, steps_per_epoch=self.steps_per_epoch)
        for write in self.writers:
            write(record)
