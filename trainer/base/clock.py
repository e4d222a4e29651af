"""Where a run's seconds go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Clock:
    """Adds up the seconds of named phases; what is in no phase is training.

    Seconds inside training that are measured elsewhere, such as the waits for input, are told by `count`.

    Args:
      now: a monotonic clock in seconds; tests bring their own.

    Attributes:
      phases: seconds by name.
      current: the phase that is going on, or an empty string.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now, self._start = now, now()
        self.phases: dict[str, float] = {}
        self.current = ""
        self._counters: dict[str, Callable[[], float]] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the seconds of the block to a phase. Phases do not nest."""
        start, self.current = self._now(), name
        try:
            yield
        finally:
            self.current = ""
            self.phases[name] = self.phases.get(name, 0.0) + self._now() - start

    def end_phase(self, name: str) -> None:
        """Counts to a phase all that was in none so far."""
        self.phases[name] = self.phases.get(name, 0.0) + self.training_seconds()

    def count(self, name: str, seconds: Callable[[], float]) -> None:
        """Names a part of training: `seconds()` is how much it has taken so far."""
        self._counters[name] = seconds

    def timed(self, name: str, hook: Any) -> Any:
        """The hook, its seconds counted to a phase."""
        return _Timed(self, name, hook)

    def total_seconds(self) -> float:
        """Seconds since the clock was made."""
        return self._now() - self._start

    def training_seconds(self) -> float:
        """Seconds since the clock was made that are in no phase."""
        return self.total_seconds() - sum(self.phases.values())

    def seconds(self) -> dict[str, float]:
        """All seconds so far by phase; `step` is training without its named parts."""
        parts = {name: seconds() for name, seconds in self._counters.items()}
        return {**self.phases, **parts, "step": self.training_seconds() - sum(parts.values())}


class _Timed:
    def __init__(self, clock: Clock, name: str, hook: Any) -> None:
        self.clock, self.name, self.hook = clock, name, hook
        self.reads_metrics = getattr(hook, "reads_metrics", True)

    def __call__(self, *arguments: Any) -> None:
        with self.clock.phase(self.name):
            self.hook(*arguments)
