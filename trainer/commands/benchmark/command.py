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
from loopwright.trainer.commands import fit_job, workdir
from loopwright.trainer.commands.benchmark import presentation
from loopwright.trainer.commands.benchmark.one_row import Cell

USAGE = "usage: loopwright benchmark [--flags]"
HELP = (
    "Times model.fit with its defaults, model.fit at the best of a grid of steps_per_execution and jit_compile, the loop in "
    "each of its executions, and its floor: the same compiled step on one constant batch. Same model, weights, batches and "
    "metrics, each in a process of its own, measured in turns. --model, --batch_size and --precision take several values "
    "with commas between them."
)
GROUPS = (flags.Data, flags.Model, flags.Optimization, flags.Benchmark)
LISTS = ("model", "precision", "batch_size")
FITS = ("fit", "fit_tuned")
ROWS = (*FITS, "graph", "xla", "auto", "floor")

#: A row whose warm-up takes this many times `fit`'s is slow, and slow rows get short laps, and so many: they prove nothing
#: else.
SLOW, LAPS_OF_SLOW = 5, 3

METHOD = {
    "process": "every row in a process of its own; laps in turns: each row once, then each row again",
    "warm_up": "the first step, which compiles, a tenth of a lap, and a lap of every row that isn't slow; none counts",
    "slow_rows": f"a row whose tenth of a lap takes over {SLOW} times that of fit gets {LAPS_OF_SLOW} such laps",
    "lap": "train_steps steps of one stream that goes on from lap to lap, evaluation and checkpoints off",
    "interval": "95%, percentile bootstrap of the median over the laps; ratios resample the laps in pairs",
    "time_to_first_step_s": "from the start of the process to the end of its first step (fit_tuned: execution)",
    "peak_memory_mb": "most resident memory of the process, after all laps",
    "floor": "graph on one constant batch: no data pipeline, all else the same",
}


def run(argv: Sequence[str]) -> int:
    """Parses the flags, measures and prints."""
    matrix = flags.parse_matrix(argv, GROUPS, lists=LISTS, usage=USAGE, help_text=HELP)
    cells = [Cell(*groups) for groups in matrix]
    for cell in cells:
        models.check_name(cell.model.model)
        fit_job.check_same_as_fit(cell.model, cell.optimization)
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
    """The result of all cells; `keep` is given what there is after each of them."""
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
    a_cell = 1 + len(ROWS) * (2 + benchmark.repeats)  # the search; start, warm-up and laps of each row
    with pieces(a_cell * len(cells)) as show:
        for number, cell in enumerate(cells):
            name, done = presentation.title_of(presentation.key_of(cell)), itertools.count(a_cell * number)
            _measure_cell(cell, result, lambda text, name=name, done=done: show(f"{name}: {text}", next(done)))
            keep(result)
    return result


def _measure_cell(cell: Cell, result: dict[str, Any], say: Any) -> None:
    """Adds the rows of one cell to the result."""
    key = presentation.key_of(cell)
    say("searching fit's best")
    with row_worker(cell, "search") as worker:
        grid = worker.read()["grid"]
        result["environment"] = worker.read()["environment"]
    result["method"]["fit_grid"].append({**key, "grid": grid})
    best = min((entry for entry in grid if entry["ms_per_step"] is not None), key=lambda entry: entry["ms_per_step"])
    tuned = {name: best[name] for name in ("steps_per_execution", "jit_compile")}
    workers: dict[str, Worker] = {}
    laps: dict[str, list[float]] = {}
    facts: dict[str, dict[str, Any]] = {}

    @contextlib.contextmanager
    def may_fail(loop: str) -> Iterator[None]:
        """A row that others don't stand on may end at any moment: it's told of, and the others go on."""
        try:
            yield
        except TrainingError as error:
            if loop in (*FITS, "graph") or error.exit_code == 2:
                raise
            result["failed"].append({**key, "loop": loop, "reason": str(error)})
            workers.pop(loop)
            laps.pop(loop)

    with contextlib.ExitStack() as stack:
        for loop in ROWS:
            say(f"starting {loop}")
            workers[loop] = stack.enter_context(row_worker(cell, loop, tuned if loop == "fit_tuned" else {}))
            laps[loop] = []
            with may_fail(loop):
                facts[loop] = workers[loop].read() | ({"options": tuned} if loop == "fit_tuned" else {})
        steps = dict.fromkeys(workers, cell.benchmark.train_steps)
        warm_up: dict[str, float] = {}
        for loop, worker in list(workers.items()):
            say(f"warm-up of {loop}")
            with may_fail(loop):
                warm_up[loop] = worker.lap(steps[loop] if loop in FITS else _tenth(steps[loop]))
                if warm_up[loop] > SLOW * warm_up["fit"]:
                    steps[loop] = _tenth(steps[loop])
                elif loop not in FITS:
                    worker.lap(steps[loop])
        for repeat in range(cell.benchmark.repeats):
            for loop, worker in list(workers.items()):
                if repeat < LAPS_OF_SLOW or warm_up[loop] <= SLOW * warm_up["fit"]:
                    say(f"repeat {repeat + 1} of {cell.benchmark.repeats}: {loop}")
                    with may_fail(loop):
                        laps[loop].append(worker.lap(steps[loop]))
        for loop, worker in list(workers.items()):
            with may_fail(loop):
                facts[loop]["peak_memory_mb"] = worker.ask("end")["peak_memory_mb"]
    rows = presentation.make_rows(key, laps, facts)
    result["rows"] += rows
    if cell.benchmark.curves:
        fastest = presentation.fastest(rows)
        for loop in ("fit", fastest):
            say(f"curve of {loop}")
            with row_worker(cell, "curve", {}, loop=loop) as worker:
                result["curves"].append({**key, "loop": loop, "points": worker.read()["points"]})


def _tenth(steps: int) -> int:
    return max(1, steps // 10)


def row_worker(cell: Cell, row: str, options: dict[str, Any] | None = None, *, loop: str = "") -> Worker:
    """The process of a row of the benchmark."""
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
    """A process that answers lines with lines of JSON; a context, at whose end it has ended or is stopped."""

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
        """The milliseconds a step of so many steps. Raises as `read` does."""
        return self.ask(str(steps))["seconds"] * 1e3 / steps

    def read(self) -> dict[str, Any]:
        """The next answer. Raises TrainingError for an error that the row tells of, and for a row that died."""
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            code = self._process.wait()
            self._stderr.seek(0)
            said = [text for text in self._stderr.read().splitlines() if text.strip()]
            last = said[-1].strip()[:300] if said else "no word"
            raise TrainingError(f"the process of {self._name} ended with code {code}: {last}")
        message = json.loads(line)
        if "error" in message:
            raise TrainingError(message["error"], exit_code=message["exit_code"])
        return message
