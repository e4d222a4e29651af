"""Stopping a run from outside: SIGTERM and SIGINT save first; a second signal ends the process at once."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from loopwright.trainer.base.clock import Clock
from loopwright.trainer.base.say import say
from loopwright.trainer.checkpoint.checkpoint import Checkpoint
from loopwright.trainer.core.state import TrainState

_SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it
_HANDLED = (signal.SIGTERM, signal.SIGINT)


class Interrupted(SystemExit):
    """The run was stopped by a signal. A program that doesn't catch it exits with 128 + the signal's number."""

    def __init__(self, signum: int, step: int, *, saved: bool) -> None:
        super().__init__(128 + signum)
        kept = "which is saved" if saved else "which is not saved"
        self.message = f"stopped by {signal.Signals(signum).name} at step {step}, {kept}"

    def __str__(self) -> str:
        return self.message


class SaveOnSignal:
    """A hook, the last of the list, that saves and raises `Interrupted` after the call in which a signal came.

    While it is open it catches SIGTERM and SIGINT. Afterwards the former handlers are back. A signal that came after the
    last call raises `Interrupted` when the hook is closed. A program that trains in another thread than the main one can't
    catch signals; the hook says so and does nothing.

    A Python handler runs only when TensorFlow's call returns. So a thread listens that the C handler wakes
    (`signal.set_wakeup_fd`). A second signal ends the process within a millisecond: what is committed stays, the rest is
    lost.
    """

    reads_metrics = False

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._signum: int | None = None
        self._step: int | None = None

    @contextlib.contextmanager
    def open(self, state: TrainState) -> Iterator[None]:
        """Catches signals inside the block. Raises Interrupted at its end for a signal that came after the last call."""
        if threading.current_thread() is not threading.main_thread():
            say("SIGTERM and SIGINT don't save this run, because it isn't trained in the main thread")
            yield
            return
        self._signum, self._step = None, None
        with self._catching():
            yield
        self.checkpoint.wait()
        step = int(state.step) if self._step is None else self._step
        self._raise(step, saved=step == self.checkpoint.saved_step)

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        self.checkpoint.check()
        self._step = int(state.step)
        if self._signum is not None:
            self._raise(self._step, saved=self.checkpoint.save(state) is not None)

    @contextlib.contextmanager
    def _catching(self) -> Iterator[None]:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        former_fd = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        thread = threading.Thread(target=self._listen, args=[ours], name="signals", daemon=True)
        thread.start()
        former: dict[int, Any] = {signum: signal.signal(signum, self._catch) for signum in _HANDLED}
        try:
            yield
        finally:
            for signum, handler in former.items():
                signal.signal(signum, handler)
            signal.set_wakeup_fd(former_fd)
            theirs.close()  # Ends the thread.
            thread.join()
            ours.close()

    def _raise(self, step: int, *, saved: bool) -> None:
        """Raises `Interrupted` for the signal that came, if one came, and only once."""
        signum, self._signum = self._signum, None
        if signum is not None:
            interrupted = Interrupted(signum, step, saved=saved)
            say(str(interrupted))
            raise interrupted

    def _catch(self, signum: int, frame: FrameType | None) -> None:
        """The Python handler. A signal between two calls counts at once, before the thread has woken."""
        self._signum = self._signum or signum

    def _listen(self, wakes: socket.socket) -> None:
        heard = 0
        while received := wakes.recv(1):
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


class ShortCalls:
    """A hook that keeps the calls of the execution shorter than a share of the time that is left after SIGTERM.

    The first call takes one step. From then on the newest call tells how long a step takes. The length of calls changes no
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
