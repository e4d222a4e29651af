"""A bar for work on data that takes a while: decoding a split, copying it, looking for bad samples."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class DataProgress:
    """Called as `progress(what, done, total)`; a bar on a terminal, nothing elsewhere, and gone when all is done.

    Without `moves` there is no bar on a terminal either.
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
        self._bar.update(self._task, completed=done)
        if done >= total:
            self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
