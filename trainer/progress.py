"""How a run looks on a terminal: a bar that moves, or plain lines where stderr is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from loopwright.trainer.records import Record
from loopwright.trainer.state import TrainState


class Progress:
    """A hook that moves the bar after each call, and (its method `write`) a writer that prints records.

    On a terminal the bar shows the running means, and evaluations stay above it as lines; elsewhere each record is a line.
    """

    reads_metrics = False

    def __init__(self, *, num_steps: int, steps_per_epoch: int, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stderr)
        self.num_steps, self.steps_per_epoch = num_steps, steps_per_epoch
        self._rate = ""
        columns: list[ProgressColumn] = [
            SpinnerColumn(),
            TextColumn("epoch {task.fields[epoch]}"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[values]}"),
            TimeRemainingColumn(compact=True),
        ]
        self._bar = Bar(*columns, console=self.console, disable=not self.console.is_terminal, expand=True)
        self._task = self._bar.add_task("train", total=num_steps, completed=0, epoch="", values="")

    def start(self, step: int) -> None:
        """Tells where training starts, so that the time left counts from there."""
        self._bar.reset(self._task, total=self.num_steps, completed=step, epoch="", values="")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.stop()

    def __call__(self, state: TrainState, metrics: Mapping[str, tf.Tensor]) -> None:
        if not self.console.is_terminal:
            return
        step = int(state.step)
        values = _phrase({name: float(mean) for name, mean in metrics.items()}) + self._rate
        epoch = min(step, self.num_steps - 1) // self.steps_per_epoch + 1
        self._bar.update(self._task, completed=step, epoch=epoch, values=values)

    def say(self, line: str) -> None:
        """Prints a line, above the bar where there is one."""
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def write(self, record: Record) -> None:
        """Prints a record, and keeps its speed for the bar."""
        rate = record.values.get("examples_per_second")
        if rate:
            self._rate = f"  {rate:,.0f}/s"
        if record.split != "eval" and self.console.is_terminal:
            return
        line = f"step {record.step:>{len(str(self.num_steps))}}  {record.split:<5}  {_phrase(record.values)}"
        if record.split != "eval" and rate:
            line += self._rate
        self.console.print(line, highlight=False, soft_wrap=True)


def _phrase(values: Mapping[str, Any]) -> str:
    """Loss first, then the other metrics of the model, in short."""
    hidden = ("learning_rate", "examples_per_second")
    names = sorted((name for name in values if name not in hidden), key=lambda name: (name != "loss", name))
    return "  ".join(
        f"{name} {values[name]:.4f}" if values[name] < 1000 else f"{name} {values[name]:g}" for name in names
    )
