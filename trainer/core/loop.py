"""The training loop. It knows no flag, no file and no metric name.

state = train(state, feed, gradient_step(objective), num_steps=10_000, execution=graph(),
              hooks=[every(100, log), every(1000, checkpoint), at_end(export)])
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence

import tensorflow as tf

from loopwright.trainer.base.say import say
from loopwright.trainer.core import border
from loopwright.trainer.core.execution import Execution, Run
from loopwright.trainer.core.hook import Contract, Hook, StopTraining
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.core.step import Step


def train(
    state: TrainState,
    feed: border.AnyFeed,
    step: Step,
    *,
    num_steps: int,
    execution: Execution | str,
    hooks: Iterable[Hook] | Hook = (),
) -> TrainState:
    """Trains from the state's step up to `num_steps`, the absolute last step, and returns the state.

    What is meant is also taken where it is plain: a `tf.data.Dataset` of batches `(x, y)` as the feed, which begins again at
    its end (`streams.of_dataset` says when a resumed run is exact), `execution="graph"`, one hook alone. Anything that can't
    be meant raises TypeError or ValueError before the first step. A feed that ends too early raises TrainingError.

    The state keeps what was compiled, so that the next call begins at once. It is compiled again where something differs
    that the step reads in Python: attributes of layers, optimizer, step and objective, closures, globals (`traces.py`).

    Hooks that are due at the same step are called in the order given. Those of `at_end` come last. Hooks that open
    something are opened in this order before the first step, and closed in reverse order after the last one. An error of a
    hook, other than `StopTraining`, ends training at once and is passed on. The reason of a `StopTraining` goes to stderr.
    """
    feed, step, num_steps, execution, hooks = border.training(state, feed, step, num_steps, execution, hooks)
    contracts = [Contract.of(hook) for hook in hooks]
    periodic = [contract for contract in contracts if not contract.at_end]
    state.cadences = _cadences(state, periodic)
    with contextlib.ExitStack() as stack:
        metrics: Mapping[str, float] = state.window_means()
        reason = _open(contracts, state, stack)
        if reason is None and int(state.step) < num_steps:
            reason, metrics = _take_steps(state, execution(state, step, feed), num_steps, periodic)
        _call([contract for contract in contracts if contract.at_end], state, metrics)
    if reason is not None:
        say(f"training stopped at step {int(state.step)}: {reason}")
    return state


def _open(contracts: Sequence[Contract], state: TrainState, stack: contextlib.ExitStack) -> str | None:
    """Opens the hooks. Returns the reason where one of them says that training has been stopped before."""
    reason = None
    for contract in contracts:
        try:
            stack.enter_context(contract.open(state))
        except StopTraining as stop:
            reason = reason or stop.reason
    return reason


def _take_steps(
    state: TrainState, run: Run, num_steps: int, hooks: Sequence[Contract]
) -> tuple[str | None, Mapping[str, float]]:
    """Runs to the last step and calls the hooks on the way.

    Returns the reason where a hook stopped training, and the metrics that hooks were given last.
    """
    current, reason = int(state.step), None
    metrics: Mapping[str, float] = {}
    while current < num_steps and reason is None:
        before = current
        target = min([num_steps, *(hook.next_due(before) for hook in hooks)])
        with tf.profiler.experimental.Trace("train", step_num=before, _r=1):  # for a profile; free without one
            current += run(target - before)
        last = current == num_steps
        due = [hook for hook in hooks if hook.is_due(before, current) or (last and hook.at_last)]
        if not due:
            metrics = state.window_means()
            continue
        reason, metrics = _call(due, state)
        if reason is not None:
            _call([hook for hook in hooks if hook not in due and hook.at_last], state, metrics)
    return reason, metrics


def _cadences(state: TrainState, hooks: Sequence[Contract]) -> tuple[int, ...]:
    """The cadences at which hooks read the metrics. Raises ValueError where Keras metrics would have to follow several."""
    cadences = tuple(sorted({hook.cadence for hook in hooks if hook.cadence is not None}))
    if len(cadences) > 1 and state.metrics:
        names = ", ".join(metric.name for metric in state.metrics)
        raise ValueError(
            f"hooks read the metrics every {', every '.join(map(str, cadences))} steps, and the state of {names} can follow "
            "one cadence only; use one n for these hooks, or give those that read no metrics reads_metrics = False"
        )
    return cadences


def _call(
    hooks: Sequence[Contract], state: TrainState, given: Mapping[str, float] | None = None
) -> tuple[str | None, Mapping[str, float]]:
    """Calls the hooks in order: with the means of their windows, or, where they have none that ends, with what is given.

    The windows that end here begin again before any hook is called, so that a checkpoint holds the new ones. Returns the
    reason where a hook asked to stop, and the means since a hook last read the metrics.
    """
    means, windows = state.take_windows({hook.cadence for hook in hooks if hook.cadence is not None})
    given = means if given is None else given
    reason = None
    for hook in hooks:
        try:
            hook.call(state, given if hook.cadence is None else windows[hook.cadence])
        except StopTraining as stop:
            reason = reason or stop.reason
    return reason, given
