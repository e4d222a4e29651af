"""The training loop. It knows no flag, no file and no metric name.

state = train(state, feed, gradient_step(objective), num_steps=10_000, execution=graph(),
              hooks=[every(100, log), every(1000, checkpoint), at_end(export)])
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence

import tensorflow as tf

from loopwright.trainer.base.say import say
from loopwright.trainer.core.execution import Execution, Run
from loopwright.trainer.core.feed import Feed
from loopwright.trainer.core.hook import Contract, Hook, StopTraining
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.core.step import Step


def train(
    state: TrainState,
    feed: Feed,
    step: Step,
    *,
    num_steps: int,
    execution: Execution,
    hooks: Iterable[Hook] = (),
) -> TrainState:
    """Trains from the state's step up to `num_steps`, the absolute last step, and returns the state.

    Hooks that are due at the same step are called in the order given. Those of `at_end` come last. Hooks that open
    something are opened in this order before the first step, and closed in reverse order after the last one. An error of a
    hook, other than `StopTraining`, ends training at once and is passed on. The reason of a `StopTraining` goes to stderr.
    """
    contracts = [Contract.of(hook) for hook in hooks]
    periodic = [contract for contract in contracts if not contract.at_end]
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
            continue
        metrics = _take_metrics(state, due)
        reason = _call(due, state, metrics)
        if reason is not None:
            rest = [hook for hook in hooks if hook not in due and hook.at_last]
            _call(rest, state, metrics if _any_reads(due) else _take_metrics(state, rest))
    return reason, metrics


def _any_reads(hooks: Sequence[Contract]) -> bool:
    return any(hook.reads for hook in hooks)


def _take_metrics(state: TrainState, hooks: Sequence[Contract]) -> Mapping[str, float]:
    """The window's means. The window is cleared before any hook is called, so that a checkpoint holds the new one."""
    metrics = state.window_means()
    if _any_reads(hooks):
        state.clear_window()
    return metrics


def _call(hooks: Sequence[Contract], state: TrainState, metrics: Mapping[str, float]) -> str | None:
    """Calls the hooks in order. Returns the reason where one of them asked to stop."""
    reason = None
    for hook in hooks:
        try:
            hook.call(state, metrics)
        except StopTraining as stop:
            reason = reason or stop.reason
    return reason
