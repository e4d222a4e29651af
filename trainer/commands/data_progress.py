"""What a terminal shows during long work other than training: a bar, or a line that says what is being done."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


class DataProgress:
    """Called as `progress(what, done, total)`. On a terminal it shows a bar, which goes away when all is done.

    Without `moves`, and elsewhere than on a terminal, it shows nothing.
    """

    def __init__(self, console: Console | None = None, *, moves: bool = True) -> None:
        self.console = console or Console(file=sys.stderr)
        self.moves = moves and self.console.is_terminal
        self._bar: Progress | None = None
        self._what = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        if not self.moves:
            return
        if self._bar is None or what != self._what:
            self._stop()
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=40 if self.console.width >= 100 else 18),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True),
            )
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task(what, total=total)
            self._what = what
            self._bar.start()
            atexit.register(self._stop)  # If the command fails on the way, the terminal gets its cursor back.
        self._bar.update(self._task, completed=done)
        if done >= total:
            self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


@contextlib.contextmanager
def status(what: str, *, moves: bool = True) -> Iterator[None]:
    """Says what is being done while the block runs: a moving line on a terminal, nothing elsewhere."""
    if not moves or not sys.stderr.isatty():
        yield
        return
    # A separate file, because standard error is redirected while TensorFlow starts.
    with os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8") as file, Console(file=file).status(f"{what} …"):
        yield


@contextlib.contextmanager
def pieces(total: int, console: Console | None = None) -> Iterator[Callable[[str, int], None]]:
    """A function `show(what, done)` that shows which of `total` pieces of work are done, and the time left.

    Without a terminal it shows nothing.
    """
    console = console or Console(stderr=True)
    bar = [BarColumn()] if console.width >= 100 else []
    columns = (TextColumn("{task.description}"), *bar, TaskProgressColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        yield lambda what, done: progress.update(task, description=what, completed=done)
