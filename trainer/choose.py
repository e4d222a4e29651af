"""Choosing an execution by measuring: the real model, batches, device and precision, and not a bit of them changed."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Mapping
from typing import Any

from loopwright.trainer.errors import TrainingError
from loopwright.trainer.execution import Execution, Run
from loopwright.trainer.state import TrainState
from loopwright.trainer.step import Step


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

    Raises TrainingError when no candidate runs, or when the state isn't what it was, by hash.
    """
    before, hashes, names = state.tensors(), state.hashes(), state.window_names
    runs: dict[str, Run] = {}
    failed: dict[str, str] = {}
    for name, execution in candidates.items():
        try:
            run = execution(state, step, feed)
            _seconds(state, run, steps)
        except TrainingError as error:
            failed[name] = str(error)
        else:
            runs[name] = run
    if not runs:
        raise TrainingError(f"no execution can run this step: {failed}")
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            seconds[name].append(_seconds(state, run, steps))
    state.assign(before)
    state.window_names = names
    if state.hashes() != hashes:
        changed = [name for name, value in state.hashes().items() if value != hashes[name]]
        raise TrainingError(f"measuring the executions changed {', '.join(changed)}; name one with --execution")
    milliseconds = {name: statistics.median(times) / steps * 1e3 for name, times in seconds.items()}
    return Choice(min(milliseconds, key=lambda name: milliseconds[name]), milliseconds, failed)


def _seconds(state: TrainState, run: Run, steps: int) -> float:
    start = time.perf_counter()
    while steps > 0:
        steps -= run(steps)
    state.step.numpy()  # waits for a device that works on by itself
    return time.perf_counter() - start
