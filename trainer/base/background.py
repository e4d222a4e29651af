"""One job at a time in a thread of its own. Imports no TensorFlow."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable

#: Added to the niceness: training goes first where there are too few cores for both.
_NICE = 10


class Background:
    """Runs one job at a time, at a lower priority; what it raises is raised again where the job is next asked about."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Begins a job, after the one before it has ended."""
        self.join()

        def run() -> None:
            if sys.platform == "linux":  # elsewhere a thread has no priority of its own
                with contextlib.suppress(OSError):  # a sandbox may forbid it
                    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(19, os.nice(0) + _NICE))
            try:
                job()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, name="checkpoint writer")
        self._thread.start()

    def check(self) -> None:
        """Raises what the job has failed with; doesn't wait for it."""
        if self._thread is not None and not self._thread.is_alive():
            self.join()

    def join(self) -> None:
        """Waits for the job's end, and raises what it failed with."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error
