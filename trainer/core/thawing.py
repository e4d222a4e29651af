"""Training in two parts: some variables are frozen up to a step and trained from there on, in the same run."""

from __future__ import annotations

from collections.abc import Callable

from loopwright.trainer.core.execution import Execution, Run
from loopwright.trainer.core.feed import Feed
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.core.step import Step


def thawing(execution: Execution, at: int, thaw: Callable[[], None]) -> Execution:
    """An execution whose model changes at a step: it calls `thaw` there and is bound again.

    The optimizer must hold its variables for everything that is trained after `thaw`, so build it before anything is frozen.
    A run that goes on after the step thaws before its first call. So it doesn't matter where a run was stopped.
    """

    def bind(state: TrainState, step: Step, feed: Feed) -> Run:
        thawed = int(state.step) >= at
        if thawed:
            thaw()
        run = execution(state, step, feed)

        def call(n: int) -> int:
            nonlocal run, thawed
            ahead = at - int(state.step)
            if not thawed and ahead <= 0:
                thaw()
                thawed, run = True, execution(state, step, feed)
            return run(n if thawed else min(n, ahead))

        return call

    return bind
