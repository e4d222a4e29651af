"""A run: its folder, and the one right order of what happens there. It knows no model, loss, optimizer or execution.

with trainer.Run("runs/mine", state, monitor="accuracy:max") as run:
    trainer.train(state, feed, step, num_steps=10_000, execution=trainer.graph(),
                  hooks=run.hooks(trainer.Evaluate(eval_feed, objective), feed=feed, eval_every=500))
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loopwright.trainer.base.atomic import replace_file, sweep
from loopwright.trainer.base.clock import Clock
from loopwright.trainer.base.lock import only_writer
from loopwright.trainer.base.monitor import STANDARD, Monitor, directions_of
from loopwright.trainer.base.run_folder import RunFolder
from loopwright.trainer.checkpoint.checkpoint import Checkpoint
from loopwright.trainer.core.feed import Feed
from loopwright.trainer.core.hook import Hook, at_end, every
from loopwright.trainer.core.loss_scaling import scales
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.hooks.evaluate import Evaluate
from loopwright.trainer.hooks.guards import AbortOnNonfinite, AbortOnSkips
from loopwright.trainer.hooks.log import Log
from loopwright.trainer.hooks.signals import SaveOnSignal
from loopwright.trainer.observe.goodput import Goodput
from loopwright.trainer.observe.progress import Progress
from loopwright.trainer.observe.records import JsonLines, Writer
from loopwright.trainer.observe.summary import summarize
from loopwright.trainer.observe.tensorboard import TensorBoard


class Run:
    """The folder of a run, as a context manager: its lock, checkpoints, records, summary, and the hooks that write them.

    On entry it locks the folder, removes what a killed process left half-written, and restores the newest good checkpoint
    into the state. So put everything into the state before.

    Args:
      folder: created if it is missing.
      state: what is trained.
      monitor: the metric of evaluation that decides what is best: `NAME:min` or `NAME:max`, or a bare name whose direction
        is known.
      progress: what stderr shows: `auto` (a view that moves on a terminal, lines elsewhere), `plain` or `none`.
      clock: tells where the time goes. Give it to the execution, too (`graph(clock=run.clock)`).
      allow_fresh_start: begin at step 0 where no checkpoint of the run is whole.
      checkpoint: options of `Checkpoint`, such as `keep=5, asynchronous=True`.

    Attributes:
      files: the paths in the folder.
      restored: the step of the checkpoint that was restored; None for a new run.
      checkpoint, goodput, jsonl, progress, tensorboard, writers: the parts that `hooks` puts together.

    Raises TrainingError (exit 2) where another process writes the folder.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        state: TrainState,
        *,
        monitor: str | Monitor = "loss",
        progress: str = "auto",
        clock: Clock | None = None,
        allow_fresh_start: bool = False,
        **checkpoint: Any,
    ) -> None:
        self.files, self.state, self.clock = RunFolder.at(folder), state, clock or Clock()
        self.monitor = Monitor.of(monitor, {**STANDARD, **directions_of(None, state.metrics)})
        self.restored: int | None = None
        self.checkpoint = Checkpoint(self.files.checkpoints, monitor=self.monitor, **checkpoint)
        self.jsonl, self.tensorboard = JsonLines(self.files.metrics), TensorBoard(self.files.tensorboard)
        self.goodput = Goodput(self.files.goodput, self.clock, report=self.tensorboard.goodput)
        self.progress = Progress(monitor=self.monitor, mode=progress, clock=self.clock, records=self.jsonl.read)
        self.writers: list[Writer] = [self.jsonl, self.tensorboard, self.progress.write]
        self.checkpoint.before_commit.append(self.jsonl.flush)
        self._allow_fresh_start, self._stack = allow_fresh_start, contextlib.ExitStack()

    def __enter__(self) -> Run:
        with contextlib.ExitStack() as stack:
            self.files.root.mkdir(parents=True, exist_ok=True)
            stack.enter_context(only_writer(self.files.root))
            stack.enter_context(contextlib.closing(self.checkpoint))
            for folder in (self.files.root, self.files.checkpoints):
                sweep(folder)
            self.goodput.read(max((record["wall_time"] for record in self.jsonl.read()), default=None))
            self.restored = self.checkpoint.restore(self.state, allow_fresh_start=self._allow_fresh_start)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._stack.__exit__(*exc_info)

    def hooks(
        self,
        evaluate: Evaluate | None,
        *,
        feed: Feed | None = None,
        num_steps: int | None = None,
        log_every: int = 100,
        eval_every: int = 1000,
        checkpoint_every: int = 1000,
        guards: Sequence[Hook] | None = None,
        extra: Sequence[Hook] = (),
    ) -> list[Hook]:
        """The hooks of the run, in the order in which they must be called.

        Args:
          evaluate: gets the run's writers and decides what is best; None for a run without evaluation.
          feed: of training. With it, records hold the epoch and the speed.
          num_steps: the last step. With it, the terminal shows the time left.
          log_every, eval_every, checkpoint_every: steps between two calls. Each is called at the last step, too.
          guards: called before everything that evaluates and saves. None takes those that end a run whose loss isn't finite
            or that skips 50 updates in a row.
          extra: called after evaluation and before a checkpoint is saved.
        """
        epoch = None if feed is None else feed.steps_per_epoch
        rows = None if feed is None else feed.examples_per_epoch / feed.steps_per_epoch
        self.progress.num_steps, self.progress.steps_per_epoch = num_steps, epoch
        log = Log(self.writers, clock=self.clock, steps_per_epoch=epoch, examples_per_step=rows)
        evaluation: list[Hook] = []
        if evaluate is not None:
            evaluate.writers = tuple(dict.fromkeys([*evaluate.writers, *self.writers]))
            evaluate.steps_per_epoch = epoch
            self.checkpoint.evaluation = lambda: evaluate.last
            evaluation.append(every(eval_every, self.clock.timed("evaluation", evaluate)))
        return [
            every(log_every, log),
            self.progress,
            *(self._guards() if guards is None else guards),
            *evaluation,
            *extra,
            every(checkpoint_every, self.goodput),
            every(checkpoint_every, self.clock.timed("checkpoint", self.checkpoint)),
            SaveOnSignal(self.checkpoint),
            at_end(_Summary(self)),
        ]

    def _guards(self) -> list[Hook]:
        skips = AbortOnSkips(50, say=self.progress.say)
        return [skips] if scales(self.state.optimizer) or "skips" in self.state.extras else [skips, AbortOnNonfinite()]


class _Summary:
    """Writes summary.json when training has come to its end. While training goes on, there is none."""

    reads_metrics = False

    def __init__(self, run: Run) -> None:
        self.run = run

    @contextlib.contextmanager
    def open(self, state: TrainState) -> Iterator[None]:
        """Removes the summary of a run that was shorter."""
        self.run.files.summary.unlink(missing_ok=True)
        yield

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        self.run.checkpoint.wait()  # a run whose last save fails isn't finished
        self.run.tensorboard.finish()
        summary = summarize(self.run.jsonl.read(), self.run.goodput.summary(), self.run.monitor)
        replace_file(self.run.files.summary, json.dumps(summary, indent=1) + "\n")
