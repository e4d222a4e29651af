"""Executions: how n steps run as one call.

`execution(state, step, feed)` opens the feed at the state's step and returns `run(n)`. A call of `run(n)` takes at most n
steps and returns how many it took. It adds the metrics of each step to the state's window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from loopwright.trainer.base.clock import Clock, TimedIterator
from loopwright.trainer.base.errors import TrainingError, first_line
from loopwright.trainer.base.fast_max_pool import fast_pooling_gradients
from loopwright.trainer.base.graph_writes import written_variables
from loopwright.trainer.base.memory import give_back_memory
from loopwright.trainer.base.private_tf import opened_again
from loopwright.trainer.base.retrace import specs, warn_of_retrace
from loopwright.trainer.core.accumulator import accumulator, as_window
from loopwright.trainer.core.feed import Batch, Feed
from loopwright.trainer.core.objective import Metric
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.core.step import Step
from loopwright.trainer.core.traces import nothing_like

Run = Callable[[int], int]


class Execution(Protocol):
    """Binds a step to a state and a feed."""

    def __call__(self, state: TrainState, step: Step, feed: Feed) -> Run: ...


def graph(steps_per_call: int = 50, *, clock: Clock | None = None) -> Execution:
    """Up to `steps_per_call` steps in one `tf.function`: a `tf.while` over the iterator, traced once for a state.

    The clock counts the seconds of compilation and of waits for input. That holds for the other executions, too.
    """

    _check_length(steps_per_call)

    def bind(state: TrainState, step: Step, feed: Feed) -> Run:
        batches = feed(int(state.step))
        lease = state.compiled_calls.take(
            "the training loop", step=step, spec=batches.element_spec, **_depends_on(state)
        )
        again = bool(lease.held)
        with _or_own(clock).phase("compile"):
            loop = lease.get("loop", lambda: _Loop.traced(state, step, batches))
        if again:
            opened_again(loop.iterator, batches)
        state.open_window(loop.names)
        call, waited, begin = loop.call, loop.waited, float(loop.waited)
        end: list[float] = []
        _or_own(clock).count("input", lambda: (end or [float(waited)])[0] - begin)

        def finish() -> bool:
            """Frees what the feed has read ahead."""
            end.append(float(waited))
            return loop.empty is not None and opened_again(loop.iterator, loop.empty)

        def run(n: int) -> int:
            n = min(n, steps_per_call)
            call(tf.constant(n, tf.int64))
            return n

        lease.until_end_of(run, finish)
        return run

    return bind


class _Loop(NamedTuple):
    """The compiled loop of `graph`.

    Its iterator is part of it and is opened again for each run: a call takes half as long without it among the arguments.
    """

    names: tuple[str, ...]
    call: Callable[[tf.Tensor], None]
    iterator: Any
    waited: tf.Variable
    empty: tf.data.Dataset | None

    @classmethod
    def traced(cls, state: TrainState, step: Step, batches: Any) -> _Loop:
        """Traces and compiles the loop over a dataset, of which it takes no batch."""
        iterator = iter(batches)
        names, accumulate, traced_step = accumulator(_substituted(_counted(state, step)), iterator.element_spec)
        state.check_holds(written_variables(traced_step))
        state.open_window(names)
        waited = tf.Variable(0.0, dtype=tf.float64, trainable=False)

        @tf.function(input_signature=[tf.TensorSpec([], tf.int64)])
        def traced(n: tf.Tensor) -> None:
            window, seconds = accumulate(iterator, state.sums(), n)
            state.assign_sums(window)
            waited.assign_add(seconds)

        call = traced.get_concrete_function()  # whose calls look up no trace
        call(tf.constant(0, tf.int64))
        give_back_memory()
        empty = nothing_like(batches) if isinstance(batches, tf.data.Dataset) else None
        return cls(names, call, iterator, waited, empty)


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
        lease = state.compiled_calls.take("the XLA loop", step=step, k=steps_per_call, **_depends_on(state))
        program: Any = None
        stack, length, offset = None, 0, 0

        def run(n: int) -> int:
            nonlocal stack, begin, length, offset, program
            if offset == length:
                begin += length
                stack, length, offset = next(stacks), stacked.length(begin), 0
                shapes, first = tuple(specs(stack, "stack").items()), program is None
                if shapes not in lease.held and len(lease.held) > 1:  # one is for whole batches, one for a ragged one
                    warn_of_retrace("the XLA loop", dict([*lease.held][-1]), dict(shapes))
                with _or_own(clock).phase("compile"):
                    names, program = lease.get(shapes, lambda: _xla_program(state, step, stack))
                if first:
                    state.open_window(names)
            n = min(n, length - offset)
            state.assign_sums(program(stack, tf.constant(offset), tf.constant(n), state.sums()))
            offset += n
            return n

        lease.until_end_of(run)
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


def _xla_program(state: TrainState, step: Step, stack: Any) -> tuple[tuple[str, ...], Callable[..., tf.Tensor]]:
    """The names of the metrics, and the compiled loop for stacks of one shape. Takes no step."""
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

    def checked(*arguments: tf.Tensor) -> tf.Tensor:
        try:
            return call(*arguments)
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError, tf.errors.NotFoundError) as error:
            raise TrainingError(f"XLA can't run this step ({first_line(error)}); use execution=graph()") from error

    checked(stack, tf.constant(0), tf.constant(0), state.sums())
    give_back_memory()
    return names, checked


def _depends_on(state: TrainState) -> dict[str, Any]:
    """What a trace of a step takes from the state, apart from values of variables."""
    parts = {name: getattr(state, name) for name in ("model", "optimizer", "step", "window", "metrics", "extras")}
    return {f"state.{name}": part for name, part in parts.items()} | {"windows": len(state.cadences) > 1}


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
