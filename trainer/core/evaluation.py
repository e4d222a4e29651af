"""Evaluation: exact means over a finite feed, in one compiled call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow as tf

from loopwright.trainer.base.graph_writes import written_variables
from loopwright.trainer.base.retrace import watched
from loopwright.trainer.base.windows import metric_results
from loopwright.trainer.core import border
from loopwright.trainer.core.accumulator import accumulator
from loopwright.trainer.core.objective import Objective
from loopwright.trainer.core.optimizers import averaged_weights
from loopwright.trainer.core.state import TrainState


@contextlib.contextmanager
def put_back(variables: Iterable[tf.Variable]) -> Iterator[None]:
    """Gives variables the values back that they have now, after the block, also when it fails."""
    kept = [(variable, tf.identity(variable)) for variable in variables]
    try:
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)


def evaluate(state: TrainState, feed: border.AnyFeed, objective: Objective) -> dict[str, float]:
    """The mean of each of the objective's metrics over every sample of the feed, ragged last batch included.

    The feed may also be a `tf.data.Dataset` of batches `(x, y)` that knows its number of batches. Raises TypeError or
    ValueError for arguments that can't be meant, and TrainingError for a feed that ends before `steps_per_epoch`.
    """
    return evaluator(state, feed, objective)()


def evaluator(state: TrainState, feed: border.AnyFeed, objective: Objective) -> Callable[[], dict[str, float]]:
    """A function that evaluates, for more than one call.

    It is compiled once. A new evaluator takes the same trace if nothing has changed.

    Where the optimizer keeps an average of the weights, that average is evaluated. Every variable that the evaluation
    changes is put back afterwards: the state of Keras metrics, which belongs to the training window, the seeds of a model
    that draws, and the states of recurrent layers. So evaluation changes no bit of a run.
    """
    feed, objective = border.evaluation(state, feed, objective)
    lease = state.compiled_calls.take(
        "evaluation", objective=objective, spec=feed.element_spec, model=state.model, metrics=state.metrics
    )
    names, changed, metrics, call = lease.get("call", lambda: _traced(state, objective, feed.element_spec))

    def run() -> dict[str, float]:
        with averaged_weights(state.model, state.optimizer), put_back(changed):
            for metric in metrics:
                metric.reset_state()
            steps = feed.steps_per_epoch
            with border.in_words(f"an evaluation of {steps} steps"):
                sums = call(iter(feed()), tf.constant(steps, tf.int64)).numpy()
            means = {name: float(total / weight) for name, (total, weight) in zip(names, sums, strict=True)}
            return means | {name: float(value) for name, value in metric_results(metrics).items()}

    lease.until_end_of(run)
    return run


def _traced(state: TrainState, objective: Objective, spec: Any) -> tuple[Any, ...]:
    """The names of the metrics, the variables that change, the Keras metrics that are updated, and the compiled call."""
    names, accumulate, traced = accumulator(lambda batch: objective(state.model, batch, training=False).metrics, spec)
    changed = written_variables(traced)
    handles = {id(variable.handle) for variable in changed}
    # A metric that this objective doesn't update, such as those of a `train_step`, says nothing here.
    metrics = [metric for metric in state.metrics if any(id(v.value.handle) in handles for v in metric.variables)]

    @tf.function
    def call(iterator: Any, n: tf.Tensor) -> tf.Tensor:
        return accumulate(iterator, tf.zeros([len(names), 2], tf.float64), n)[0]

    return names, changed, metrics, watched(call, "evaluation")
