"""Executions: how n steps run as one call.

`execution(state, step, feed)` opens the feed at the state's step and returns `run(n)`, which runs at most n steps and
returns how many it ran. The metrics of each step are added to the state's window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import tensorflow as tf

from loopwright.trainer.objective import Metric
from loopwright.trainer.state import TrainState
from loopwright.trainer.step import Step

Run = Callable[[int], int]
Batch = dict[str, tf.Tensor]


class Execution(Protocol):
    """Binds a step to a state and a feed."""

    def __call__(self, state: TrainState, step: Step, feed: Any) -> Run: ...


def graph(steps_per_call: int = 50) -> Execution:
    """Up to `steps_per_call` steps in one `tf.function`: a `tf.while` over the iterator, traced once."""

    def bind(state: TrainState, step: Step, feed: Any) -> Run:
        iterator = iter(feed(int(state.step)))

        def one(batch: Batch) -> dict[str, Metric]:
            metrics = step(state, batch)
            state.step.assign_add(1)
            return metrics

        names, accumulate = accumulator(one, iterator.element_spec)
        state.open_window(names)

        @tf.function
        def call(iterator: Any, n: tf.Tensor) -> None:
            state.window.assign(accumulate(iterator, tf.ensure_shape(state.window, [len(names), 2]), n))

        def run(n: int) -> int:
            n = min(n, steps_per_call)
            call(iterator, tf.constant(n, tf.int64))
            return n

        return run

    return bind


def eager() -> Execution:
    """One step a call, run as Python: for debuggers and print statements."""

    def bind(state: TrainState, step: Step, feed: Any) -> Run:
        iterator = iter(feed(int(state.step)))

        def run(n: int) -> int:
            metrics = step(state, next(iterator))
            state.step.assign_add(1)
            if not state.window_names:
                state.open_window(tuple(sorted(metrics)))
            state.window.assign_add(as_window(metrics))
            return 1

        return run

    return bind


def as_window(metrics: dict[str, Metric]) -> tf.Tensor:
    """Metrics as float64 `[M, 2]`, rows in the order of their names."""
    return tf.stack([tf.stack([tf.cast(part, tf.float64) for part in metrics[name]]) for name in sorted(metrics)])


def accumulator(one: Callable[[Batch], dict[str, Metric]], spec: Any) -> tuple[tuple[str, ...], Callable]:
    """Traces `one` for batches of `spec` and returns the names of its metrics and a function that sums them.

    `accumulate(iterator, window, n)` takes n batches from the iterator and adds each batch's metrics to the window
    `[M, 2]`, one after the other; it is meant to be called inside a `tf.function`.
    """
    traced = tf.function(one).get_concrete_function(spec)
    names = tuple(sorted(traced.structured_outputs))

    def accumulate(iterator: Any, window: tf.Tensor, n: tf.Tensor) -> tf.Tensor:
        for _ in tf.range(n):
            window += as_window(traced(next(iterator)))
        return window

    return names, accumulate
