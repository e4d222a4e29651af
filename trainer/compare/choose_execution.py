"""Choosing an execution by measuring: the real model, batches, device and precision, and not a bit of them changed."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Mapping
from typing import Any

from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.core.execution import Execution, Run
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.core.step import Step

#: A candidate that takes this many times as long as the fastest over a tenth of the steps isn't measured further.
_HOPELESS = 5


@dataclasses.dataclass(frozen=True)
class Choice:
    """The fastest execution's name, and what each took: milliseconds a step, or why it can't run."""

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
) -> Choice:
    """Runs each candidate for a warm-up and `repeats` interleaved times `steps` steps, then puts every variable back.

    The warm-up, a tenth of the steps, is all there is of a candidate that takes five times as long as another in it. Where
    the feed ends before, fewer steps are measured.

    Raises TrainingError when no candidate runs, when the feed ends too soon for any measurement, or when the state isn't
    what it was, by hash.
    """
    if getattr(feed, "end", None) is not None:
        steps = _steps_before(feed.end - int(state.step), steps, repeats, len(candidates))
    before, hashes, names = state.tensors(), state.hashes(), state.window_names
    try:
        seconds, failed = _measure(state, step, feed, candidates, steps, repeats)
    finally:
        state.assign(before)
        state.window_names = names
    if not seconds:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise TrainingError(f"no execution can run this step ({reasons})")
    changed = [name for name, value in state.hashes().items() if value != hashes[name]]
    if changed:
        raise TrainingError(f"measuring the executions changed {', '.join(changed)}; name one with --execution")
    milliseconds = {name: statistics.median(times) * 1e3 for name, times in seconds.items()}
    return Choice(min(milliseconds, key=lambda name: milliseconds[name]), milliseconds, failed)


def _steps_before(left: int, steps: int, repeats: int, candidates: int) -> int:
    """As many of the steps as can be measured where the feed has so many left. Each warm-up begins where the last ended."""
    for fewer in range(steps, 0, -1):
        if candidates * (1 + _warm_up(fewer)) + repeats * fewer <= left:
            return fewer
    raise TrainingError(f"the feed ends in {left} steps, too soon to measure executions; name one with --execution")


def _warm_up(steps: int) -> int:
    return max(1, steps // 10)


def _measure(
    state: TrainState, step: Step, feed: Any, candidates: Mapping[str, Execution], steps: int, repeats: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """The seconds a step of each candidate that runs, and why the others don't."""
    runs: dict[str, Run] = {}
    failed: dict[str, str] = {}
    warm_up: dict[str, float] = {}
    for name, execution in candidates.items():
        try:
            runs[name] = execution(state, step, feed)
            _seconds_a_step(state, runs[name], 1)  # compiles
            warm_up[name] = _seconds_a_step(state, runs[name], _warm_up(steps))
        except TrainingError as error:
            runs.pop(name, None)
            failed[name] = str(error)
    seconds: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, run in runs.items():
            if warm_up[name] > _HOPELESS * min(warm_up.values()):
                seconds[name] = [warm_up[name]]
            else:
                seconds.setdefault(name, []).append(_seconds_a_step(state, run, steps))
    return seconds, failed


def _seconds_a_step(state: TrainState, run: Run, steps: int) -> float:
    start, left = time.perf_counter(), steps
    while left > 0:
        left -= run(left)
    state.step.numpy()  # waits for a device that works on by itself
    return (time.perf_counter() - start) / steps
