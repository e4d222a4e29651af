"""Runs one job at a time in a second thread. Imports no TensorFlow."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable

#: Added to the thread's niceness, so that training goes first when there are too few cores for both.
_NICE = 10


class Background:
    """Runs one job at a time, at a lower priority. The next call of a method raises the error of a job that failed."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Waits for the previous job and starts a new one."""
        self.join()

        def run() -> None:
            if sys.platform == "linux":  # on other systems a thread has the priority of its process
                with contextlib.suppress(OSError):  # a sandbox may forbid it
                    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(19, os.nice(0) + _NICE))
            try:
                job()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, name="checkpoint writer")
        self._thread.start()

    def check(self) -> None:
        """Raises the error of a job that has failed. Doesn't wait for a job that runs."""
        if self._thread is not None and not self._thread.is_alive():
            self.join()

    def join(self) -> None:
        """Waits for the job to end, and raises its error if it failed."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error
