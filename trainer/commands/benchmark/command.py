"""`loopwright benchmark`: the same model, weights and batches, by `model.fit` and by the loop."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from loopwright import flags, models
from loopwright.trainer.base.atomic import replace_file
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.commands import workdir
from loopwright.trainer.commands.benchmark import presentation
from loopwright.trainer.commands.benchmark.one_row import Cell

USAGE = "usage: loopwright benchmark [--flags]"
HELP = (
    "Times model.fit with its defaults, model.fit with the best steps_per_execution and jit_compile of a grid, the loop in "
    "each of its executions, and its floor: the same compiled step on one constant batch. All have the same model, weights, "
    "batches and metrics. Each runs in a separate process, and they are measured in turns. --model, --batch_size and "
    "--precision take several values, comma separated."
)
GROUPS = (flags.Data, flags.Model, flags.Optimization, flags.Benchmark)
LISTS = ("model", "precision", "batch_size")
FITS = ("fit", "fit_tuned")
ROWS = (*FITS, "graph", "xla", "auto", "floor")

#: A row is slow if its warm-up takes this many times as long as that of `fit`. Slow rows get short laps, and so few: these
#: are enough to show that they are slow.
SLOW, LAPS_OF_SLOW = 5, 3

METHOD = {
    "process": "every row has a separate process; laps are in turns: each row once, then each row again",
    "warm_up": "the first step, which compiles, a tenth of a lap, and a lap of every row that isn't slow; none is counted",
    "slow_rows": f"a row whose tenth of a lap takes over {SLOW} times that of fit gets {LAPS_OF_SLOW} such short laps",
    "lap": "train_steps steps of one stream that continues from lap to lap, without evaluation and checkpoints",
    "interval": "95%, percentile bootstrap of the median over the laps; ratios resample the laps in pairs",
    "time_to_first_step_s": "from the start of the process to the end of its first step (fit_tuned: execution)",
    "peak_memory_mb": "the most resident memory of the process, after all laps",
    "floor": "graph on one constant batch: without the data pipeline, otherwise the same",
}


def run(argv: Sequence[str]) -> int:
    """Parses the flags, measures and prints."""
    matrix = flags.parse_matrix(argv, GROUPS, lists=LISTS, usage=USAGE, help_text=HELP)
    cells = [Cell(*groups) for groups in matrix]
    for cell in cells:
        models.check_name(cell.model.model)
    benchmark = cells[0].benchmark
    output = None if benchmark.output is None else pathlib.Path(benchmark.output)
    if output is not None:
        presentation.check_plots()
        workdir.make_folder("--output", output)

    def keep(result: dict[str, Any]) -> None:
        if output is not None:
            replace_file(output / "benchmark.json", json.dumps(result, indent=1) + "\n")

    result = _measure(cells, keep)
    if output is not None:
        presentation.draw(result, output / "benchmark.png")
        presentation.write_tensorboard(result, output / "tensorboard")
    if benchmark.json:
        print(json.dumps(result))
    else:
        presentation.print_tables(result)
    return 0


def _measure(cells: Sequence[Cell], keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The result of all cells. After each cell, `keep` is called with the result so far."""
    from loopwright.trainer.commands.data_progress import pieces

    benchmark = cells[0].benchmark
    typed = [
        word
        for group in (cells[0].data, cells[0].model, cells[0].optimization, benchmark)
        for word in flags.changed_arguments(group)
        if word.lstrip("-").partition("=")[0] not in presentation.SAID_ELSEWHERE
    ]
    facts = {"steps": benchmark.train_steps, "repeats": benchmark.repeats, "steps_per_call": benchmark.steps_per_call}
    result: dict[str, Any] = {
        "environment": {},
        "method": {**facts, "flags": typed, **METHOD, "fit_grid": []},
        "rows": [],
    }
    result |= {"failed": [], "curves": []}
    a_cell = 1 + len(ROWS) * (2 + benchmark.repeats)  # the search, and each row's start, warm-up and laps
    with pieces(a_cell * len(cells)) as show:
        for number, cell in enumerate(cells):
            _measure_cell(
                cell, result, _counted(show, presentation.title_of(presentation.key_of(cell)), a_cell * number)
            )
            keep(result)
    return result


def _counted(show: Callable[[str, int], None], name: str, done: int) -> Callable[[str], None]:
    """`show` for one cell: it counts the pieces of work itself, from `done` on."""
    pieces_done = itertools.count(done)
    return lambda text: show(f"{name}: {text}", next(pieces_done))


def _measure_cell(cell: Cell, result: dict[str, Any], say: Callable[[str], None]) -> None:
    """Adds the rows of one cell to the result."""
    key = presentation.key_of(cell)
    say("searching fit's best")
    with row_worker(cell, "search") as worker:
        grid = worker.read()["grid"]
        result["environment"] = worker.read()["environment"]
    result["method"]["fit_grid"].append({**key, "grid": grid})
    best = min((entry for entry in grid if entry["ms_per_step"] is not None), key=lambda entry: entry["ms_per_step"])
    tuned = {name: best[name] for name in ("steps_per_execution", "jit_compile")}
    with contextlib.ExitStack() as stack:
        rows = _Rows(cell, say)
        rows.start(stack, tuned)
        rows.warm_up()
        rows.take_laps()
        rows.end()
    made = presentation.make_rows(key, rows.laps, rows.facts)
    result["rows"] += made
    result["failed"] += rows.failed
    if cell.benchmark.curves:
        for loop in ("fit", presentation.fastest(made)):
            say(f"curve of {loop}")
            with row_worker(cell, "curve", {}, loop=loop) as worker:
                result["curves"].append({**key, "loop": loop, "points": worker.read()["points"]})


class _Rows:
    """The processes of a cell's rows, and what they have measured.

    A row that no other depends on may fail. It is then left out, and added to `failed`.

    Args:
      say: called with what is done next.
    """

    def __init__(self, cell: Cell, say: Callable[[str], None]) -> None:
        self.cell, self.say = cell, say
        self.workers: dict[str, Worker] = {}
        self.laps: dict[str, list[float]] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.failed: list[dict[str, Any]] = []
        self._steps: dict[str, int] = {}
        self._slow: set[str] = set()

    def start(self, stack: contextlib.ExitStack, tuned: dict[str, Any]) -> None:
        """Starts the processes one after another and waits for the first step of each; the stack ends them."""
        for loop in ROWS:
            self.say(f"starting {loop}")
            options = {"options": tuned} if loop == "fit_tuned" else {}
            self.workers[loop] = stack.enter_context(row_worker(self.cell, loop, options.get("options")))
            self.laps[loop] = []
            with self._may_fail(loop):
                self.facts[loop] = self.workers[loop].read() | options

    def warm_up(self) -> None:
        """Takes laps that don't count, and finds out which rows are slow."""
        times: dict[str, float] = {}
        for loop, worker in list(self.workers.items()):
            self.say(f"warm-up of {loop}")
            steps = self.cell.benchmark.train_steps
            self._steps[loop] = steps
            with self._may_fail(loop):
                times[loop] = worker.lap(steps if loop in FITS else _tenth(steps))
                if times[loop] > SLOW * times["fit"]:
                    self._slow.add(loop)
                    self._steps[loop] = _tenth(steps)
                elif loop not in FITS:
                    worker.lap(steps)

    def take_laps(self) -> None:
        """Takes the laps that count, in turns."""
        repeats = self.cell.benchmark.repeats
        for repeat in range(repeats):
            for loop, worker in list(self.workers.items()):
                if repeat < LAPS_OF_SLOW or loop not in self._slow:
                    self.say(f"repeat {repeat + 1} of {repeats}: {loop}")
                    with self._may_fail(loop):
                        self.laps[loop].append(worker.lap(self._steps[loop]))

    def end(self) -> None:
        """Ends the processes, which say how much memory they took."""
        for loop, worker in list(self.workers.items()):
            with self._may_fail(loop):
                self.facts[loop]["peak_memory_mb"] = worker.ask("end")["peak_memory_mb"]

    @contextlib.contextmanager
    def _may_fail(self, loop: str) -> Iterator[None]:
        """Leaves out a row that fails in the block. Errors of rows that others depend on, and usage errors, are raised."""
        try:
            yield
        except TrainingError as error:
            if loop in (*FITS, "graph") or error.exit_code == 2:
                raise
            self.failed.append({**presentation.key_of(self.cell), "loop": loop, "reason": str(error)})
            self.workers.pop(loop)
            self.laps.pop(loop)


def _tenth(steps: int) -> int:
    return max(1, steps // 10)


def row_worker(cell: Cell, row: str, options: dict[str, Any] | None = None, *, loop: str = "") -> Worker:
    """Starts the process of a row of the benchmark."""
    spec = {
        "cell": dataclasses.asdict(cell),
        "row": row,
        "loop": loop,
        "options": options or {},
        "started": time.monotonic(),
    }
    module = "loopwright.trainer.commands.benchmark.one_row"
    return Worker(row, [sys.executable, "-P", "-m", module, json.dumps(spec)])


class Worker:
    """A process that answers each line with a line of JSON.

    As a context manager it waits at the end of the block for the process to end, or kills it after an error.
    """

    def __init__(self, name: str, words: Sequence[str]) -> None:
        self._name = name
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, text=True
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if exc_info[0] is not None:
            self._process.kill()
        self._process.communicate()
        self._stderr.close()

    def say(self, command: str) -> None:
        """Sends a command."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(command + "\n")
                self._process.stdin.flush()

    def ask(self, command: str) -> dict[str, Any]:
        """Sends a command and returns the answer. Raises as `read` does."""
        self.say(command)
        return self.read()

    def lap(self, steps: int) -> float:
        """Takes so many steps and returns the milliseconds that one took. Raises as `read` does."""
        return self.ask(str(steps))["seconds"] * 1e3 / steps

    def read(self) -> dict[str, Any]:
        """The next answer. Raises TrainingError for an error that the row reports, and for a row that died."""
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            code = self._process.wait()
            self._stderr.seek(0)
            said = [text for text in self._stderr.read().splitlines() if text.strip()]
            last = said[-1].strip()[:300] if said else "it printed nothing"
            raise TrainingError(f"the process of {self._name} ended with code {code}: {last}")
        message = json.loads(line)
        if "error" in message:
            raise TrainingError(message["error"], exit_code=message["exit_code"])
        return message
