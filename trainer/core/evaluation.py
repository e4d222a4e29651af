"""Evaluation: exact means over a finite feed, in one compiled call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from loopwright.trainer.base.retrace import watched
from loopwright.trainer.core.execution import accumulator
from loopwright.trainer.core.objective import Objective
from loopwright.trainer.core.optimizers import averaged_weights
from loopwright.trainer.core.state import TrainState


def evaluate(state: TrainState, feed: Any, objective: Objective) -> dict[str, float]:
    """The mean of each of the objective's metrics over every sample of the feed, ragged last batch included."""
    return evaluator(state, feed, objective)()


def evaluator(state: TrainState, feed: Any, objective: Objective) -> Callable[[], dict[str, float]]:
    """A function that evaluates, for more than one call: it is compiled once.

    Where the optimizer keeps an average of the weights, that average is evaluated. The state of Keras metrics is put back
    afterwards, because it belongs to the training window.
    """
    names, accumulate = accumulator(
        lambda batch: objective(state.model, batch, training=False).metrics, feed.element_spec
    )

    @tf.function
    def call(iterator: Any, n: tf.Tensor) -> tf.Tensor:
        return accumulate(iterator, tf.zeros([len(names), 2], tf.float64), n)[0]

    watched_call = watched(call, "evaluation")

    def run() -> dict[str, float]:
        window = [(variable, tf.identity(variable)) for metric in state.metrics for variable in metric.variables]
        for metric in state.metrics:
            metric.reset_state()
        with averaged_weights(state.model, state.optimizer):
            sums = watched_call(iter(feed()), tf.constant(feed.steps_per_epoch, tf.int64)).numpy()
        means = {name: float(total / weight) for name, (total, weight) in zip(names, sums, strict=True)}
        means |= {name: float(value) for name, value in state.metric_results().items()}
        for variable, value in window:
            variable.assign(value)
        return means

    return run
