"""One row of the benchmark in a separate process, so that the time to its first step and its memory can be measured.

`benchmark` starts it with a JSON object of flags, and then sends a line for each command. A number asks for so many steps
and is answered with their seconds; "end" is answered with the most memory. Answers are lines of JSON on stdout. `fit` takes
`train_steps` steps whatever the number is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from loopwright import flags
from loopwright.trainer.commands import fit_job, machine, scaling, setup
from loopwright.trainer.commands.train import build

#: `fit_tuned` is the best of these with and without XLA. Values that don't divide the steps of a lap are left out.
STEPS_PER_EXECUTION = (1, 5, 25, 50)
#: How many points `curve` draws.
POINTS = 25
_SEARCH_STEPS, _SEARCH_ROUNDS = 50, 3
#: A setting whose first round takes more than this many times the best one gets no further rounds.
_HOPELESS = 3

Answer = Callable[[dict[str, Any]], None]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One combination of model, batch size and precision, as flags."""

    data: flags.Data
    model: flags.Model
    optimization: flags.Optimization
    benchmark: flags.Benchmark

    @classmethod
    def from_json(cls, groups: dict[str, dict[str, Any]]) -> Cell:
        """The inverse of `dataclasses.asdict`."""
        kinds = {
            "data": flags.Data,
            "model": flags.Model,
            "optimization": flags.Optimization,
            "benchmark": flags.Benchmark,
        }
        return cls(**{name: kind(**groups[name]) for name, kind in kinds.items()})


@dataclasses.dataclass(frozen=True, eq=False)
class ConstantFeed:
    """The first batch of a feed, again and again: it shows what a step costs if its data costs nothing."""

    feed: Any

    def __call__(self, start_step: int = 0) -> Any:
        import tensorflow as tf

        return tf.data.Dataset.from_tensors(next(iter(self.feed(0)))).repeat()


class Row:
    """The cell's dataset and feed, fresh jobs on them, and the way to answer.

    Args:
      started: when the process was started, on the monotonic clock.
    """

    def __init__(self, cell: Cell, started: float, answer: Answer) -> None:
        self.cell, self.started, self.answer = cell, started, answer
        self.dataset = setup.load_dataset(cell.data, task=cell.model.task)
        self.feed = self.dataset.train_feed(
            cell.data.batch_size, seed=cell.benchmark.seed, drop_remainder=True, augment=cell.data.augment or None
        )
        self.steps = cell.benchmark.train_steps

    def job(self) -> build.Job:
        benchmark = self.cell.benchmark
        total = self.steps * (benchmark.repeats + 1)
        job = build.build_job(
            self.cell.model, self.cell.optimization, self.dataset, seed=benchmark.seed, total_steps=total
        )
        self.feed = scaling.follow(
            scaling.decide(self.cell.data.scale, job.state.model, self.feed, tell=False), self.feed
        )
        return job

    def ready(self, **facts: Any) -> None:
        """Reports that the first step is done."""
        self.answer({"time_to_first_step_s": time.monotonic() - self.started, **facts})

    def fitted(self, **options: Any) -> tuple[Any, Any]:
        """A compiled model, and batches for it, which are converted ahead of time so that `fit` doesn't wait for them."""
        import tensorflow as tf

        job = self.job()
        network, convert = fit_job.compile_for_fit(job, **options), fit_job.batches_for_fit(job)
        return network, self.feed().map(convert).prefetch(tf.data.AUTOTUNE)


def measure_fit(row: Row, options: dict[str, Any]) -> None:
    """Lets `fit` take one step, and then an epoch for each lap. Between the epochs it waits for the next command.

    Epochs are timed from Keras's own `on_epoch_begin` to `on_epoch_end`. There is no callback inside them, because that
    would turn off the asynchronous callbacks that make `fit` faster.
    """
    import keras

    network, batches = row.fitted(**options)

    class Laps(keras.callbacks.Callback):
        start = 0.0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if _next_command() == "end":
                self.model.stop_training = True
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if not self.model.stop_training:
                row.answer({"seconds": time.perf_counter() - self.start})

    network.fit(batches, steps_per_epoch=options.get("steps_per_execution", 1), verbose=0, shuffle=False)
    row.ready()
    network.fit(batches, steps_per_epoch=row.steps, epochs=10**9, verbose=0, shuffle=False, callbacks=[Laps()])


def measure_loop(row: Row, execution: str) -> None:
    """Lets the loop take one step, and then as many as each command says."""
    from loopwright import trainer

    job, steps_per_call = row.job(), row.cell.benchmark.steps_per_call
    facts: dict[str, Any] = {}
    if execution == "auto":
        candidates = {name: build.make_execution(name, steps_per_call) for name in ("graph", "xla")}
        execution = trainer.choose(job.state, job.step, row.feed, candidates, steps=min(50, row.steps)).name
        facts["chosen"] = execution
    feed: Any = row.feed
    if execution == "floor":
        execution, feed = "graph", ConstantFeed(row.feed)
    run = build.make_execution(execution, steps_per_call)(job.state, job.step, feed)
    run(1)
    row.ready(**facts)
    while (command := _next_command()) != "end":
        start = time.perf_counter()
        _run_exactly(run, int(command))
        job.state.window.numpy()  # waits for a device, as fit does when it reads its metrics
        row.answer({"seconds": time.perf_counter() - start})


def search_fit(row: Row) -> None:
    """Times `fit` over the grid: for each setting the best of several rounds, which are taken in turns.

    A setting whose first round takes three times as long as the best one gets no further rounds. If XLA with one step an
    execution takes three times as long as `fit` without XLA, longer executions with XLA are left out (null): they could only
    save the overhead of calls, which is a part of the shorter time.
    """
    import tensorflow as tf

    fits: dict[tuple[int, bool], Callable[[], float]] = {}
    found: dict[tuple[int, bool], float | None] = {}
    for jit_compile in (False, True):
        for k in (k for k in STEPS_PER_EXECUTION if row.steps % k == 0):
            first, plain = found.get((1, True)), found.get((1, False))
            found[k, jit_compile] = None
            if jit_compile and k > 1 and (first is None or first > _HOPELESS * (plain or 0.0)):
                continue
            with contextlib.suppress(tf.errors.OpError):  # XLA can't compile this model
                fits[k, jit_compile] = _timed_fit(row, steps_per_execution=k, jit_compile=jit_compile)
                found[k, jit_compile] = fits[k, jit_compile]()
    best = min(found[key] or 0.0 for key in fits)
    for _ in range(_SEARCH_ROUNDS - 1):
        for key, measure in fits.items():
            if (before := found[key] or 0.0) <= _HOPELESS * best:
                found[key] = min(before, measure())
    grid = [{"steps_per_execution": k, "jit_compile": jit, "ms_per_step": ms} for (k, jit), ms in found.items()]
    row.answer({"grid": grid})


def search_steps(steps_per_execution: int) -> int:
    """The steps of a short epoch: whole executions, because `fit` always runs its last execution to the end."""
    k = steps_per_execution
    return k * (_SEARCH_STEPS // k) if k > 1 else _SEARCH_STEPS // 2


def _timed_fit(row: Row, **options: Any) -> Callable[[], float]:
    """A function that measures the milliseconds a step of `fit`: the faster of two short epochs."""
    import keras

    network, batches = row.fitted(**options)
    k = options["steps_per_execution"]
    network.fit(batches, steps_per_epoch=k, verbose=0, shuffle=False)
    steps = search_steps(k)

    def measure() -> float:
        marks: list[float] = []
        callback = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: marks.append(time.perf_counter()),
            on_epoch_end=lambda epoch, logs: marks.append(time.perf_counter()),
        )
        network.fit(batches, steps_per_epoch=steps, epochs=2, verbose=0, shuffle=False, callbacks=[callback])
        return min(marks[1] - marks[0], marks[3] - marks[2]) / steps * 1e3

    return measure


def curve(row: Row, loop: str, options: dict[str, Any]) -> None:
    """Trains for as many steps as the benchmark times: loss and metrics over steps and seconds, compiling included.

    Each point holds the means over the steps since the point before.
    """
    import keras

    total = row.steps * row.cell.benchmark.repeats
    every = max(1, total // POINTS)
    points: list[dict[str, float]] = []
    start = time.perf_counter()

    def point(values: Any) -> None:
        seconds, step = time.perf_counter() - start, (len(points) + 1) * every
        points.append({"step": step, "seconds": seconds, **{name: float(value) for name, value in values.items()}})

    if loop == "fit":
        network, batches = row.fitted(**options)
        callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: point(logs))
        network.fit(
            batches, steps_per_epoch=every, epochs=total // every, verbose=0, shuffle=False, callbacks=[callback]
        )
    else:
        job = row.job()
        run = build.make_execution(loop, row.cell.benchmark.steps_per_call)(job.state, job.step, row.feed)
        for _ in range(total // every):
            _run_exactly(run, every)
            point(job.state.window_means())
            job.state.clear_window()
    row.answer({"points": points})


def main(argv: list[str]) -> None:
    """Runs one row: argv[0] is a JSON object with `cell`, `row`, `options` and `started` (monotonic seconds)."""
    sys.path.append(str(pathlib.Path.cwd()))  # for --model=module:function
    spec = json.loads(argv[0])
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # What libraries print must not be taken for an answer.

    def answer(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    cell, name = Cell.from_json(spec["cell"]), spec["row"]
    try:
        setup.start_tensorflow(
            intra_op_threads=cell.benchmark.intra_op_threads,
            inter_op_threads=cell.benchmark.inter_op_threads,
            onednn=cell.benchmark.onednn,
        )
        row = Row(cell, spec["started"], answer)
        if name == "search":
            search_fit(row)
        elif name == "curve":
            curve(row, spec["loop"], spec["options"])
        elif name in ("fit", "fit_tuned"):
            measure_fit(row, spec["options"])
        else:
            measure_loop(row, name)
        answer({"peak_memory_mb": peak_memory_mb(), "environment": machine.environment()})
    except Exception as error:
        if getattr(error, "exit_code", None) is None:
            raise
        answer({"error": flags.as_flags(" ".join(str(error).split())), "exit_code": error.exit_code})  # type: ignore[attr-defined]


def _next_command() -> str:
    return sys.stdin.readline().strip() or "end"  # the end of the file means that the parent died


def _run_exactly(run: Callable[[int], int], steps: int) -> None:
    while steps > 0:
        steps -= run(steps)


def peak_memory_mb() -> float:
    """The most resident memory that this process has held, in units of 10^6 bytes.

    On Linux it comes from /proc, because `getrusage` there also counts what the parent held when it started this process.
    """
    status = pathlib.Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


if __name__ == "__main__":
    main(sys.argv[1:])
