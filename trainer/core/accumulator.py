"""Sums of metrics over the batches of an iterator, inside a compiled call. Training and evaluation share it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from loopwright.trainer.base.autograph import no_autograph
from loopwright.trainer.base.private_tf import determinism_is_on, optimized_alone
from loopwright.trainer.core.feed import Batch
from loopwright.trainer.core.objective import Metric


@no_autograph
def as_window(metrics: dict[str, Metric]) -> tf.Tensor:
    """Metrics as float64 `[M, 2]`, rows in the order of their names."""
    rows = [tf.stack([tf.cast(part, tf.float64) for part in metrics[name]]) for name in sorted(metrics)]
    return tf.reshape(tf.stack(rows) if rows else tf.zeros([0, 2], tf.float64), [len(rows), 2])


def accumulator(one: Callable[[Batch], dict[str, Metric]], spec: Any) -> tuple[tuple[str, ...], Callable, Any]:
    """Traces `one` for batches of `spec`. Returns the names of its metrics, a function that sums them, and the trace.

    `accumulate(iterator, window, n)` takes n batches from the iterator and adds the metrics of each to the window `[M, 2]`,
    one after the other. It returns the window and the seconds (float64) for which it waited for the iterator. Call it inside
    a `tf.function`.
    """
    traced = optimized_alone(one)  # so that the step has the bits of the step that `fit` compiles
    concrete = traced.get_concrete_function(spec)
    names = tuple(sorted(concrete.structured_outputs))

    def accumulate(iterator: Any, window: tf.Tensor, n: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        waited = tf.constant(0.0, tf.float64)
        for _ in tf.range(n):
            batch = next(iterator)  # may come while the step before still runs
            with tf.control_dependencies([window]):
                ready = _now()
            with tf.control_dependencies([ready, *tf.nest.flatten(batch, expand_composites=True)]):
                waited += _now() - ready
            window += as_window(traced(batch))
        return window, waited

    return names, accumulate, concrete


@no_autograph
def _now() -> tf.Tensor:
    """The time in seconds, float64. It is always 0 under op determinism, which forbids functions to read a clock."""
    return tf.constant(0.0, tf.float64) if determinism_is_on() else tf.timestamp()
