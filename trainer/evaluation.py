"""Evaluation: exact means over a finite feed, in one compiled call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from loopwright.trainer.execution import accumulator
from loopwright.trainer.objective import Objective
from loopwright.trainer.optimizers import averaged_weights
from loopwright.trainer.records import Record, Writer
from loopwright.trainer.state import TrainState


def evaluate(state: TrainState, feed: Any, objective: Objective) -> dict[str, float]:
    """The mean of each of the objective's metrics over every sample of the feed, ragged last batch included."""
    return evaluator(state, feed, objective)()


def evaluator(state: TrainState, feed: Any, objective: Objective) -> Callable[[], dict[str, float]]:
    """`evaluate` to be called again and again: compiled once.

    Where the optimizer keeps an average of the weights, that is what's evaluated. The state of Keras metrics is put back
    after it: they belong to the training window.
    """
    names, accumulate = accumulator(
        lambda batch: objective(state.model, batch, training=False).metrics, feed.element_spec
    )

    @tf.function
    def call(iterator: Any, n: tf.Tensor) -> tf.Tensor:
        return accumulate(iterator, tf.zeros([len(names), 2], tf.float64), n)

    def run() -> dict[str, float]:
        window = [(variable, tf.identity(variable)) for metric in state.metrics for variable in metric.variables]
        for metric in state.metrics:
            metric.reset_state()
        with averaged_weights(state.model, state.optimizer):
            sums = call(iter(feed()), tf.constant(feed.steps_per_epoch, tf.int64)).numpy()
        means = {name: float(total / weight) for name, (total, weight) in zip(names, sums, strict=True)}
        means |= {name: float(value) for name, value in state.metric_results().items()}
        for variable, value in window:
            variable.assign(value)
        return means

    return run


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

    def __call__(self, state: TrainState, metrics: Mapping[str, tf.Tensor]) -> None:
        if self._run is None:
            self._run = evaluator(state, self.feed, self.objective)
        self.last = self._run()
        record = Record(int(state.step), "eval", self.last, steps_per_epoch=self.steps_per_epoch)
        for write in self.writers:
            write(record)
