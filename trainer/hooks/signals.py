"""Stopping a run from outside: SIGTERM and SIGINT save first; a second one ends the process at once."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Mapping
from types import FrameType
from typing import Any

from loopwright.trainer.base.clock import Clock
from loopwright.trainer.checkpoint.checkpoint import Checkpoint
from loopwright.trainer.core.state import TrainState

_SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it
_HANDLED = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):
    """The run was stopped by a signal; the program exits with 128 + the signal's number."""

    def __init__(self, signum: int, step: int, *, saved: bool) -> None:
        kept = "which is saved" if saved else "which is not saved"
        super().__init__(f"stopped by {signal.Signals(signum).name} at step {step}, {kept}")
        self.exit_code = 128 + signum


class SaveOnSignal:
    """A hook, the last of the list, that saves and raises `Interrupted` after the call in which a signal came.

    As a context manager it catches SIGTERM and SIGINT inside the block, and gives them back to the former handlers after it;
    one that came after the last call raises `Interrupted` at the end of the block.
    A Python handler runs when TensorFlow's call returns; so a thread that the C handler wakes (`signal.set_wakeup_fd`)
    listens, and a second signal ends the process within a millisecond: what is committed stays, the rest is lost.
    """

    reads_metrics = False

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._signum: int | None = None
        self._former: dict[int, Any] = {}
        self._step: int | None = None

    def __enter__(self) -> SaveOnSignal:
        self._ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self._wakes, self._former_fd = theirs, signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()
        for signum in _HANDLED:
            self._former[signum] = signal.signal(signum, self._catch)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for signum, handler in self._former.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(self._former_fd)
        self._wakes.close()  # Ends the thread.
        self._thread.join()
        self._ours.close()
        if exc_info[0] is None:  # A signal after the last call, where one came: what could be saved is saved.
            saved_step = self.checkpoint.saved_step
            self._step = saved_step if self._step is None else self._step
            self._raise(saved=self._step == saved_step)

    def _raise(self, *, saved: bool) -> None:
        """Raises `Interrupted` for the signal that came, if one came, and only once."""
        signum, self._signum = self._signum, None
        if signum is not None:
            raise Interrupted(signum, self._step or 0, saved=saved)

    def _catch(self, signum: int, frame: FrameType | None) -> None:
        """The Python handler: a signal that comes between two calls counts at once, before the thread has woken."""
        self._signum = self._signum or signum

    def _listen(self) -> None:
        heard = 0
        while received := self._ours.recv(1):
            signum = received[0]
            if signum not in _HANDLED:
                continue
            heard += 1
            if heard > 1:
                name = signal.Signals(signum).name
                ending = f"loopwright: stopped at once by a second {name}; what was saved before is whole\n"
                os.write(2, ((_SHOW_CURSOR if os.isatty(2) else "") + ending).encode())
                os._exit(128 + signum)
            self._signum = self._signum or signum

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        self.checkpoint.check()
        self._step = int(state.step)
        if self._signum is not None:
            self._raise(saved=self.checkpoint.save(state) is not None)


class ShortCalls:
    """A hook that keeps the calls of the execution shorter than a share of the time that is left after SIGTERM.

    The first call takes one step. From then on the newest call tells how long a step takes; the length of calls changes no
    number.

    Args:
      seconds: from SIGTERM to SIGKILL. A third of it is for the call, the rest for an evaluation that is due and the save.
      clock: tells the seconds of training alone.
    """

    reads_metrics = False

    def __init__(self, seconds: float, clock: Clock) -> None:
        self.seconds, self.clock = seconds / 3, clock
        self._steps = 1
        self._last: tuple[int, float] | None = None

    def next_due(self, step: int) -> int:
        """The step at which the call must end."""
        return step + self._steps

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        now = (int(state.step), self.clock.training_seconds())
        if self._last is not None and now[1] > self._last[1]:
            seconds_per_step = (now[1] - self._last[1]) / max(1, now[0] - self._last[0])
            self._steps = min(max(1, int(self.seconds / seconds_per_step)), 2 * self._steps)
        self._last = now
