"""Chooses the fastest execution by measuring the real job. The state is the same afterwards, to the bit."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from loopwright.trainer.base.errors import TrainingError, first_line
from loopwright.trainer.core.execution import Execution, Run
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.core.step import Step

#: A candidate whose warm-up takes this many times as long as the fastest warm-up isn't measured further.
_FAR_SLOWER = 5
#: Errors by which an execution says that it can't run a step. A bad sample raises other ones, which aren't about executions.
_CAN_NOT_RUN = (
    TrainingError,
    TypeError,
    ValueError,
    NotImplementedError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.NotFoundError,
    tf.errors.UnimplementedError,
)


@dataclasses.dataclass(frozen=True)
class ExecutionChoice:
    """The result of `choose`.

    Attributes:
      name: the fastest execution.
      milliseconds: the median time of a step, by execution.
      failed: the reason why an execution can't run, by execution.
    """

    name: str
    milliseconds: dict[str, float]
    failed: dict[str, str]


def choose(
    state: TrainState,
    step: Step,
    feed: Any,
    candidates: Mapping[str, Execution],
    *,
    steps: int = 50,
    repeats: int = 3,
) -> ExecutionChoice:
    """Measures each candidate and returns the fastest. All variables have their old values afterwards.

    Each candidate runs a warm-up of a tenth of the steps. Then the candidates take turns, `repeats` times `steps` steps
    each. A candidate whose warm-up takes five times as long as another's is not measured further. If the feed would end
    too soon, fewer steps are measured.

    Raises TrainingError if no candidate runs, if the feed is too short for any measurement, or if the state's hashes have
    changed. If no candidate runs because of an error in the step, that error is raised.
    """
    if getattr(feed, "end", None) is not None:
        steps = _steps_before(feed.end - int(state.step), steps, repeats, len(candidates))
    before, hashes, names = state.tensors(), state.hashes(), state.window_names
    try:
        seconds, errors = _measure(state, step, feed, candidates, steps, repeats)
    finally:
        state.assign(before)
        state.window_names = names
    reasons = {
        name: str(error) if isinstance(error, TrainingError) else first_line(error) for name, error in errors.items()
    }
    if not seconds:
        for error in errors.values():
            if not isinstance(error, TrainingError):
                raise error
        listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise TrainingError(f"no execution can run this step ({listed})")
    changed = [name for name, value in state.hashes().items() if value != hashes[name]]
    if changed:
        raise TrainingError(
            f"measuring the executions changed {', '.join(changed)}; choose one, as in execution=graph()"
        )
    milliseconds = {name: statistics.median(times) * 1e3 for name, times in seconds.items()}
    return ExecutionChoice(min(milliseconds, key=lambda name: milliseconds[name]), milliseconds, reasons)


def _steps_before(left: int, steps: int, repeats: int, candidates: int) -> int:
    """The largest number of steps, at most `steps`, that can be measured with `left` steps of the feed.

    The warm-ups follow one another in the feed, and so do the measurements.
    """
    for fewer in range(steps, 0, -1):
        if candidates * (1 + _warm_up(fewer)) + repeats * fewer <= left:
            return fewer
    raise TrainingError(
        f"the feed ends in {left} steps, too soon to measure executions; choose one, as in execution=graph()"
    )


def _warm_up(steps: int) -> int:
    return max(1, steps // 10)


def _measure(
    state: TrainState, step: Step, feed: Any, candidates: Mapping[str, Execution], steps: int, repeats: int
) -> tuple[dict[str, list[float]], dict[str, Exception]]:
    """The seconds per step of each candidate that runs, and the errors of those that don't run."""
    runs: dict[str, Run] = {}
    errors: dict[str, Exception] = {}
    warm_up: dict[str, float] = {}
    for name, execution in candidates.items():
        try:
            runs[name] = execution(state, step, feed)
            _seconds_per_step(state, runs[name], 1)  # compiles
            warm_up[name] = _seconds_per_step(state, runs[name], _warm_up(steps))
        except _CAN_NOT_RUN as error:
            runs.pop(name, None)
            errors[name] = error
    seconds: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, run in runs.items():
            if warm_up[name] > _FAR_SLOWER * min(warm_up.values()):
                seconds[name] = [warm_up[name]]
            else:
                seconds.setdefault(name, []).append(_seconds_per_step(state, run, steps))
    return seconds, errors


def _seconds_per_step(state: TrainState, run: Run, steps: int) -> float:
    start, left = time.perf_counter(), steps
    while left > 0:
        left -= run(left)
    state.step.numpy()  # waits until an asynchronous device has finished
    return (time.perf_counter() - start) / steps
