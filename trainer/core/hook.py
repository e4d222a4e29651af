"""Hooks: what the loop calls between two calls of the execution, and when it calls them."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from loopwright.trainer.core.state import TrainState

#: A step that no run reaches.
NEVER = 2**62


class StopTraining(Exception):
    """A hook raises this to end training early and well. The other hooks that are due and those of `at_end` still run."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Hook(Protocol):
    """Any callable of a state and the means of the metrics is a hook.

    The hook of an `every` gets the means over its own window: the steps since it was last called. Any other hook gets the
    means over the steps since some `every` read the metrics. A mean is worked out when somebody looks at it, so training
    doesn't wait for a number that nobody reads.

    A hook may have these members, too. `Contract` reads them, and nothing else does.

    - `reads_metrics = False` says that the hook looks at the state only, as evaluation and checkpoints do. Then it has no
      window.
    - `open(state)` gives a context manager. `train` enters it before the first step and leaves it after the last one.
      There a hook cuts what it wrote after the state's step, and closes what it opened.
    - `next_due(step)` gives the next step after `step` at which a call of the execution must end for this hook.
    - `is_due(before, step)` says whether the hook is called after the execution went from one step to the other.
    - `at_last = True` says that the hook only reports or saves, so the loop calls it at the last step, too. Any other hook
      of an `every` is called at its steps alone: it might change the state, and then a run that is made longer later would
      differ from one that was longer from the start.
    """

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Contract:
    """How the loop sees a hook: when it is called, at which cadence it reads the metrics, and what it opens.

    A cadence of None is that of a hook without a window.
    """

    call: Hook
    next_due: Callable[[int], int]
    is_due: Callable[[int, int], bool]
    at_last: bool
    at_end: bool
    cadence: int | None
    open: Callable[[TrainState], contextlib.AbstractContextManager[Any]]

    @classmethod
    def of(cls, hook: Hook) -> Contract:
        """The contract of a hook. A plain callable is due after every call of the execution, and has no window: the length
        of a call must not change a number."""
        next_due = getattr(hook, "next_due", None)
        is_due = getattr(hook, "is_due", None) or _is_due_by(next_due)
        return cls(
            call=hook,
            next_due=next_due or (lambda step: NEVER),
            is_due=is_due,
            at_last=getattr(hook, "at_last", False),
            at_end=isinstance(hook, at_end),
            cadence=getattr(hook, "n", 0) if next_due is not None and getattr(hook, "reads_metrics", True) else None,
            open=getattr(hook, "open", lambda state: contextlib.nullcontext()),
        )


def _is_due_by(next_due: Callable[[int], int] | None) -> Callable[[int, int], bool]:
    return lambda before, step: next_due is None or next_due(before) <= step


class _Wrapper:
    """A hook around another one, which passes on what that one reads and opens."""

    def __init__(self, hook: Hook) -> None:
        self.hook = hook
        self.reads_metrics = getattr(hook, "reads_metrics", True)
        if hasattr(hook, "open"):
            self.open = hook.open

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        self.hook(state, metrics)


class every(_Wrapper):
    """Calls a hook at each multiple of n steps.

    With `at_last`, it is called at the last step, too. None asks the hook: those that only report or save say so.

    Raises ValueError for n below 1.
    """

    def __init__(self, n: int, hook: Hook, *, at_last: bool | None = None) -> None:
        if n < 1:
            raise ValueError(f"every({n}, …): the number of steps must be at least 1")
        super().__init__(hook)
        self.n, self.at_last = n, getattr(hook, "at_last", False) if at_last is None else at_last

    def next_due(self, step: int) -> int:
        """The first multiple of n after `step`."""
        return (step // self.n + 1) * self.n


class every_seconds(_Wrapper):
    """Calls a hook when `seconds` have passed since its last call, at the end of the call of the execution, and at the last
    step.

    This is for hooks that save or report, such as a checkpoint every ten minutes. The clock must not decide what a run
    computes. So the hook has to say `reads_metrics = False`, and should neither change the state nor stop training.

    Args:
      now: a monotonic clock in seconds; tests bring another one.

    Raises ValueError for seconds that aren't positive, and for a hook that reads the metrics.
    """

    at_last = True

    def __init__(self, seconds: float, hook: Hook, *, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(hook)
        if seconds <= 0:
            raise ValueError(f"every_seconds({seconds}, …): the time must be longer than 0 seconds")
        if self.reads_metrics:
            raise ValueError(
                f"every_seconds({seconds}, …): the hook reads the metrics, so the clock would decide over which steps their "
                "means are taken; use every(n, hook), or give the hook reads_metrics = False"
            )
        self.seconds, self._now = seconds, now
        self._called = now()

    def is_due(self, before: int, step: int) -> bool:
        """Whether the time has passed."""
        return self._now() - self._called >= self.seconds

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        self.hook(state, metrics)
        self._called = self._now()


class at_end(_Wrapper):
    """Calls a hook once when training has come to its last step, after all other hooks.

    It is also called where the state was at the last step already, because a process may have been killed before.
    """
