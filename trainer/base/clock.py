"""Counts how many seconds a run spends on what."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Clock:
    """Adds up the seconds of named phases. All time outside the phases is training.

    `count` registers parts of training whose seconds are measured elsewhere, such as the waits for input.

    Args:
      now: a monotonic clock in seconds. Tests pass a simulated clock.

    Attributes:
      phases: the seconds of each phase so far.
      current: the name of the present phase, or an empty string.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now, self._start = now, now()
        self.phases: dict[str, float] = {}
        self.current = ""
        self._counters: dict[str, Callable[[], float]] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the seconds of the block to a phase. Phases do not nest."""
        start, self.current = self._now(), name
        try:
            yield
        finally:
            self.current = ""
            self.phases[name] = self.phases.get(name, 0.0) + self._now() - start

    def end_start(self) -> None:
        """Counts to the phase `start` all seconds that were in no phase so far. Only the first call counts."""
        self.phases.setdefault("start", self.training_seconds())

    def count(self, name: str, seconds: Callable[[], float]) -> None:
        """Registers a part of training. `seconds()` returns the seconds that it has taken so far."""
        self._counters[name] = seconds

    def timed(self, name: str, hook: Any) -> Any:
        """The same hook. The seconds of its calls are added to a phase."""
        return _Timed(self, name, hook)

    def total_seconds(self) -> float:
        """Seconds since the clock was made."""
        return self._now() - self._start

    def training_seconds(self) -> float:
        """Seconds since the clock was made that are in no phase."""
        return self.total_seconds() - sum(self.phases.values())

    def seconds(self) -> dict[str, float]:
        """The seconds so far of each phase and each registered part of training; `step` is the rest of training."""
        parts = {name: seconds() for name, seconds in self._counters.items()}
        return {**self.phases, **parts, "step": self.training_seconds() - sum(parts.values())}


class _Timed:
    """Wraps a hook and counts the seconds of its calls. All other attributes are those of the hook."""

    def __init__(self, clock: Clock, name: str, hook: Any) -> None:
        self.clock, self.name, self.hook = clock, name, hook

    def __call__(self, *arguments: Any) -> None:
        with self.clock.phase(self.name):
            self.hook(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.hook, name)


class TimedIterator:
    """An iterator whose clock counts the seconds for which its caller waits, as `input`."""

    def __init__(self, iterator: Iterator[Any], clock: Clock, now: Callable[[], float] = time.perf_counter) -> None:
        self._iterator, self._now, self.seconds = iterator, now, 0.0
        clock.count("input", lambda: self.seconds)

    def __next__(self) -> Any:
        start = self._now()
        element = next(self._iterator)
        self.seconds += self._now() - start
        return element
