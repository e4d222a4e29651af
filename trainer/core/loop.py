"""The training loop. It knows no flag, no file and no metric name.

state = train(state, feed, gradient_step(objective), num_steps=10_000, execution=graph(),
              hooks=[every(100, log), every(1000, checkpoint), at_end(export)])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import tensorflow as tf

from loopwright.trainer.core.execution import Execution
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.core.step import Step


class StopTraining(Exception):
    """Raised by a hook to end training early and well: the other hooks and those at the end still run."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Hook(Protocol):
    """Any callable of a state and the means of the metrics will do.

    A plain callable is called after every call of the execution; `every` and `at_end` say when else. Metrics are the
    means since the last step at which a hook of an `every` read them; only who looks at one waits for its value.
    """

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None: ...


class every:
    """Calls a hook at each multiple of n steps and, unless `at_last` is false, at the last step.

    The window of the metrics starts anew at each such step, unless the hook says `reads_metrics = False`, as those do
    that look at the state only (evaluation, checkpoints).
    """

    def __init__(self, n: int, hook: Hook, *, at_last: bool = True) -> None:
        if n < 1:
            raise ValueError(f"every({n}, …): the number of steps must be at least 1")
        self.n, self.hook, self.at_last = n, hook, at_last
        self.reads_metrics = getattr(hook, "reads_metrics", True)

    def next_due(self, step: int) -> int:
        """The first step after `step` at which the hook is due."""
        return (step // self.n + 1) * self.n

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        self.hook(state, metrics)


class at_end:
    """Calls a hook once, after the last step, when all other hooks are through."""

    def __init__(self, hook: Hook) -> None:
        self.hook = hook

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        self.hook(state, metrics)


def train(
    state: TrainState,
    feed: Any,
    step: Step,
    *,
    num_steps: int,
    execution: Execution,
    hooks: Iterable[Hook] = (),
) -> TrainState:
    """Trains from the state's step up to `num_steps`, the absolute last step, and returns the state.

    Hooks that are due at a step are called in the order given; those of `at_end` come last. What a hook raises, other than
    `StopTraining`, ends training at once and is passed on.
    """
    hooks = list(hooks)
    at_the_end: list[Hook] = [hook for hook in hooks if isinstance(hook, at_end)]
    periodic: list[Any] = [hook for hook in hooks if hasattr(hook, "next_due")]
    current, stopped = int(state.step), False
    if current >= num_steps:
        return state
    run = execution(state, step, feed)
    metrics: Mapping[str, float] = {}
    while current < num_steps and not stopped:
        before = current
        target = min([num_steps, *(hook.next_due(before) for hook in periodic)])
        with tf.profiler.experimental.Trace("train", step_num=before, _r=1):  # for a profile; free without one
            current += run(target - before)
        due = [hook for hook in hooks if _is_due(hook, before, current, last=current == num_steps)]
        if not due:
            continue
        metrics = _take_metrics(state, due)
        stopped = _call(due, state, metrics)
        if stopped:
            rest = [hook for hook in periodic if hook not in due and getattr(hook, "at_last", True)]
            _call(rest, state, metrics if _reads(due) else _take_metrics(state, rest))
    _call(at_the_end, state, metrics)
    return state


def _is_due(hook: Any, before: int, current: int, *, last: bool) -> bool:
    """Whether a hook is called between two calls of the execution: plain callables always are."""
    if isinstance(hook, at_end):
        return False
    if not hasattr(hook, "next_due") or hook.next_due(before) <= current:
        return True
    return last and getattr(hook, "at_last", True)


def _reads(hooks: list[Hook]) -> bool:
    return any(getattr(hook, "reads_metrics", False) for hook in hooks)


def _take_metrics(state: TrainState, hooks: list[Hook]) -> Mapping[str, float]:
    """The window's means; the window is cleared here, before any hook, so that a checkpoint holds the new one."""
    metrics = state.window_means()
    if _reads(hooks):
        state.clear_window()
    return metrics


def _call(hooks: list[Hook], state: TrainState, metrics: Mapping[str, float]) -> bool:
    """Calls the hooks in order; True if one of them asked to stop."""
    stopped = False
    for hook in hooks:
        try:
            hook(state, metrics)
        except StopTraining:
            stopped = True
    return stopped
