"""The hook that logs what training is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loopwright.trainer.base.clock import Clock
from loopwright.trainer.core.loss_scaling import scaling_values
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.observe.records import Record, Writer


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
