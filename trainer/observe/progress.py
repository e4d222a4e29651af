"""How a run looks on a terminal: a view that moves, or plain lines where stderr isn't a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from loopwright.trainer.base.clock import Clock
from loopwright.trainer.base.monitor import Monitor
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.observe.records import Record

MODES = ("auto", "plain", "none")
_REFRESHES_A_SECOND = 4
#: Values that are whole numbers, and those that the view shows in another place.
_COUNTS = ("loss_scale", "skipped_steps")
_APART = ("learning_rate", "examples_per_second")


class Progress:
    """A hook that moves the view after a call. Its method `write` is a writer that shows records.

    On a terminal, a bar with the time left stands over the newest numbers of training and evaluation. Evaluations stay
    above it as lines. Elsewhere each record is a line without control codes.

    Args:
      monitor: the metric whose best value is shown.
      mode: `auto` (the view on a terminal, lines elsewhere), `plain` (lines) or `none`.
      clock: says what the run does when it isn't training.
      records: gives the records that the run has already, when training begins.

    Attributes:
      num_steps: the absolute last step, where it is known.
      steps_per_epoch: where it is known, the view shows the epoch.
    """

    reads_metrics = False

    def __init__(
        self,
        *,
        num_steps: int | None = None,
        steps_per_epoch: int | None = None,
        monitor: str | Monitor = "loss",
        mode: str = "auto",
        console: Console | None = None,
        clock: Clock | None = None,
        records: Callable[[], Iterable[Mapping[str, Any]]] = tuple,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode={mode!r}: choose from {', '.join(MODES)}")
        self.console, self.clock, self.now = console or Console(file=sys.stderr), clock or Clock(), now
        self.num_steps, self.steps_per_epoch, self.mode = num_steps, steps_per_epoch, mode
        self.monitor, self.records = Monitor.of(monitor), records
        self._moves = mode == "auto" and self.console.is_terminal
        self._drawn = 0.0
        self._train = self._eval = self._best_text = self._rate = self._learning_rate = ""
        self._best: float | None = None
        wide = self.console.width >= 100
        columns: list[ProgressColumn] = [
            SpinnerColumn(),
            TextColumn("{task.fields[epoch]}"),
            BarColumn(bar_width=40 if wide else 18),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            TextColumn("{task.fields[doing]}", style="cyan"),
        ]
        self._bar = Bar(*columns, console=self.console)
        self._task = self._bar.add_task("train", total=num_steps, epoch="", rate="", doing="")
        self._live = Live(
            console=self.console,
            get_renderable=self._view,
            refresh_per_second=_REFRESHES_A_SECOND,
            transient=True,
            vertical_overflow="crop",
        )

    @contextlib.contextmanager
    def open(self, state: TrainState) -> Iterator[None]:
        """Shows the view inside the block. The time left counts from the state's step."""
        self._bar.reset(self._task, total=self.num_steps, completed=int(state.step))
        for record in self.records():
            if record["split"] == "eval":
                self._keep_best(record["step"], record)
        if self._moves:
            self._live.start()
        try:
            yield
        finally:
            self._live.stop()

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        now = self.now()
        if not self._moves or now - self._drawn < 1 / _REFRESHES_A_SECOND:
            return
        self._drawn = now
        self._bar.update(self._task, completed=int(state.step))
        self._train = phrase(metrics)

    def say(self, line: str) -> None:
        """Prints a line, above the bar where there is one."""
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def write(self, record: Record) -> None:
        """Shows a record: as a line, or in the view."""
        rate = record.values.get("examples_per_second")
        if rate:
            self._rate = f"{rate:,.0f}/s"
        if "learning_rate" in record.values:
            self._learning_rate = f"  lr {record.values['learning_rate']:.2g}"
        if record.split == "eval":
            self._eval = phrase(record.values)
            self._keep_best(record.step, record.values)
        if self.mode == "none" or (self._moves and record.split != "eval"):
            return
        line = (
            f"step {record.step:>{len(str(self.num_steps or record.step))}}  {record.split:<5}  {phrase(record.values)}"
        )
        if record.split != "eval" and rate:
            line += f"  {self._rate}"
        text = Text(line, no_wrap=True, overflow="ellipsis") if self._moves else Text(line)
        self.console.print(text, soft_wrap=not self._moves)

    def _keep_best(self, step: int, values: Mapping[str, Any]) -> None:
        value = values.get(self.monitor.name)
        if value is not None and self.monitor.is_better(value, self._best):
            self._best = value
            self._best_text = f"best {self.monitor.name} {value:.4f} at step {step}"

    def _view(self) -> RenderableType:
        task = self._bar.tasks[0]
        step = int(task.completed)
        doing = self.clock.current and f"{self.clock.current} …"
        self._bar.update(self._task, epoch=self._epoch(step), rate=self._rate, doing=doing)
        rows = [
            ("train", self._train and self._train + self._learning_rate),
            ("eval", self._eval),
            ("", self._best_text),
        ]
        lines = [Text(f"  {name:<6} {text}", no_wrap=True, overflow="ellipsis") for name, text in rows if text]
        return Group(self._bar.get_renderable(), *lines)

    def _epoch(self, step: int) -> str:
        if self.num_steps is None or self.steps_per_epoch is None:
            return ""
        epoch = min(step, self.num_steps - 1) // self.steps_per_epoch + 1
        return f"epoch {epoch}/{-(-self.num_steps // self.steps_per_epoch)}"


def phrase(values: Mapping[str, Any]) -> str:
    """A line of numbers: the loss, the other metrics, then the learning rate."""
    names = sorted((name for name in values if name not in _APART), key=lambda name: (name != "loss", name))
    parts = [
        f"{name} {values[name]:.4f}" if abs(values[name]) < 1000 and name not in _COUNTS else f"{name} {values[name]:g}"
        for name in names
    ]
    if "learning_rate" in values:
        parts.append(f"lr {values['learning_rate']:.2g}")
    return "  ".join(parts)
