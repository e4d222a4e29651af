"""Executions: how n steps run as one call.

`execution(state, step, feed)` opens the feed at the state's step and returns `run(n)`. A call of `run(n)` takes at most n
steps and returns how many it took. It adds the metrics of each step to the state's window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import tensorflow as tf

from loopwright.trainer.base.autograph import no_autograph
from loopwright.trainer.base.clock import Clock, TimedIterator
from loopwright.trainer.base.errors import TrainingError, first_line
from loopwright.trainer.base.fast_max_pool import fast_pooling_gradients
from loopwright.trainer.base.graph_writes import written_variables
from loopwright.trainer.base.memory import give_back_memory
from loopwright.trainer.base.private_tf import determinism_is_on, optimized_alone
from loopwright.trainer.base.retrace import specs, warn_of_retrace
from loopwright.trainer.core.feed import Batch, Feed
from loopwright.trainer.core.objective import Metric
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.core.step import Step

Run = Callable[[int], int]


class Execution(Protocol):
    """Binds a step to a state and a feed."""

    def __call__(self, state: TrainState, step: Step, feed: Feed) -> Run: ...


def graph(steps_per_call: int = 50, *, clock: Clock | None = None) -> Execution:
    """Up to `steps_per_call` steps in one `tf.function`: a `tf.while` over the iterator, traced once.

    The clock counts the seconds of compilation and of waits for input. That holds for the other executions, too.
    """

    _check_length(steps_per_call)

    def bind(state: TrainState, step: Step, feed: Feed) -> Run:
        iterator = iter(feed(int(state.step)))
        with _or_own(clock).phase("compile"):
            names, accumulate, traced_step = accumulator(_substituted(_counted(state, step)), iterator.element_spec)
            state.check_holds(written_variables(traced_step))
            state.open_window(names)
            waited = tf.Variable(0.0, dtype=tf.float64, trainable=False)

            @tf.function(input_signature=[tf.TensorSpec([], tf.int64)])
            def traced(n: tf.Tensor) -> None:
                window, seconds = accumulate(iterator, state.sums(), n)
                state.assign_sums(window)
                waited.assign_add(seconds)

            # A call takes half as long without the iterator among its arguments and without the look-up of a trace.
            call = traced.get_concrete_function()
            call(tf.constant(0, tf.int64))  # compiles, and takes no step
            give_back_memory()
        _or_own(clock).count("input", lambda: float(waited))

        def run(n: int) -> int:
            n = min(n, steps_per_call)
            call(tf.constant(n, tf.int64))
            return n

        return run

    return bind


def eager(*, clock: Clock | None = None) -> Execution:
    """One step a call, run as Python, for debuggers and print statements."""

    def bind(state: TrainState, step: Step, feed: Feed) -> Run:
        batches = TimedIterator(iter(feed(int(state.step))), _or_own(clock))
        one = _counted(state, step)
        state.window_names = ()

        def run(n: int) -> int:
            metrics = one(next(batches))
            if not state.window_names:
                state.open_window(tuple(sorted(metrics)))
            state.assign_sums(state.sums() + as_window(metrics))
            return 1

        return run

    return bind


def xla(steps_per_call: int = 50, *, clock: Clock | None = None) -> Execution:
    """The whole loop as one XLA program, over stacks of up to `steps_per_call` batches from the feed.

    One program serves every number of steps: its trip count is dynamic, over a padded stack. A second program serves the
    ragged last batch of an epoch, where there is one. XLA and `graph` draw different random numbers from the same seeds, so
    their dropout masks differ.

    Raises TrainingError for several replicas, for a feed of sparse, ragged or string tensors, and for a step that XLA can't
    compile.
    """

    _check_length(steps_per_call)

    def bind(state: TrainState, step: Step, feed: Feed) -> Run:
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            raise TrainingError("xla runs on one replica only; use execution=graph()", exit_code=2)
        _check_dense(feed.element_spec)
        stacked, begin = feed.stacked(steps_per_call), int(state.step)
        stacks = TimedIterator(iter(stacked(begin)), _or_own(clock))
        programs: dict[Any, Callable] = {}
        before: dict[str, str] = {}
        stack, length, offset = None, 0, 0

        def run(n: int) -> int:
            nonlocal stack, begin, length, offset, before
            if offset == length:
                begin += length
                stack, length, offset = next(stacks), stacked.length(begin), 0
            shapes = tuple(tensor.shape for tensor in tf.nest.flatten(stack))
            if shapes not in programs:
                if len(programs) > 1:  # the first is for whole batches, the second for a ragged one
                    warn_of_retrace("the XLA loop", before, specs(stack, "stack"))
                before = specs(stack, "stack")
                with _or_own(clock).phase("compile"):
                    programs[shapes] = _xla_program(state, step, stack)
                    programs[shapes](stack, tf.constant(0), tf.constant(0), state.sums())  # takes no step
                    give_back_memory()
            n = min(n, length - offset)
            state.assign_sums(programs[shapes](stack, tf.constant(offset), tf.constant(n), state.sums()))
            offset += n
            return n

        return run

    return bind


def _check_dense(spec: Any) -> None:
    """Raises TrainingError for a batch that XLA can't hold: one with sparse or ragged tensors, or with strings."""
    for part in tf.nest.flatten(spec):
        if not isinstance(part, tf.TensorSpec) or part.dtype == tf.string:
            kind = "strings" if part.dtype == tf.string else type(part).__name__.removesuffix("Spec")
            raise TrainingError(f"xla takes dense tensors of numbers, and the feed gives {kind}; use execution=graph()")


def _check_length(steps_per_call: int) -> None:
    if steps_per_call < 1:
        raise ValueError(f"steps_per_call={steps_per_call}: give at least 1")


def _or_own(clock: Clock | None) -> Clock:
    return clock or Clock()


def _xla_program(state: TrainState, step: Step, stack: Any) -> Callable:
    """The compiled loop for stacks of one shape."""
    spec = tf.nest.map_structure(lambda tensor: tf.TensorSpec(tensor.shape[1:], tensor.dtype), stack)
    traced = tf.function(_counted(state, step)).get_concrete_function(spec)
    state.check_holds(written_variables(traced))
    names = tuple(sorted(traced.structured_outputs))
    state.open_window(names)

    @tf.function(jit_compile=True)
    def call(stack: Any, offset: tf.Tensor, n: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
        def body(i: tf.Tensor, window: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return i + 1, window + as_window(traced(tf.nest.map_structure(lambda tensor: tf.gather(tensor, i), stack)))

        # Not `for i in tf.range(...)`: AutoGraph bounds the trips of such a loop. XLA wants the bound as a constant, so it
        # would compile the program again for each number of steps.
        window = tf.ensure_shape(window, [len(names), 2])
        return tf.while_loop(lambda i, _: i < offset + n, body, [offset, window])[1]

    def first_call(*arguments: tf.Tensor) -> tf.Tensor:
        try:
            return call(*arguments)
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError, tf.errors.NotFoundError) as error:
            raise TrainingError(f"XLA can't run this step ({first_line(error)}); use execution=graph()") from error

    return first_call


def _counted(state: TrainState, step: Step) -> Callable[[Batch], dict[str, Metric]]:
    """The step over a batch, which also counts the state's step."""

    def one(batch: Batch) -> dict[str, Metric]:
        metrics = step(state, batch)
        state.step.assign_add(1)
        return metrics

    return one


def _substituted(one: Callable[[Batch], dict[str, Metric]]) -> Callable[[Batch], dict[str, Metric]]:
    """The step with its slow operations replaced by faster ones that give the same bits."""

    def faster(batch: Batch) -> dict[str, Metric]:
        with fast_pooling_gradients():
            return one(batch)

    return faster


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
