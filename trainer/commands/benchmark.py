"""`loopwright benchmark`: the same model, weights and batches, by `model.fit` and by the loop."""

from __future__ import annotations

import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from loopwright import flags, models
from loopwright.trainer.commands import jobs, setup, workdir
from loopwright.trainer.commit import replace_file

if TYPE_CHECKING:
    from loopwright.data import Dataset, Feed

USAGE = "usage: loopwright benchmark [--flags]"
HELP = (
    "Times model.fit with its defaults, model.fit at the best of a grid of steps_per_execution and jit_compile, and the "
    "loop: same model, weights, batches and metrics, repeats interleaved, medians."
)
GROUPS = (flags.Data, flags.Model, flags.Optimization, flags.Benchmark)

#: The grid that `fit_tuned` is the best of.
FIT_GRID = tuple({"steps_per_execution": k, "jit_compile": jit} for k in (1, 10, 50) for jit in (False, True))

#: Runs a warm-up and then the given number of steps; returns the seconds that the steps took.
Measure = Callable[[int], float]


def run(argv: Sequence[str]) -> int:
    """Parses the flags, measures and prints."""
    (data, model, optimization, benchmark), _ = flags.parse(argv, GROUPS, usage=USAGE, help_text=HELP)
    models.check_name(model.model)
    if benchmark.output is not None:
        workdir.make_folder("--output", pathlib.Path(benchmark.output))
    setup.start_tensorflow(intra_op_threads=benchmark.intra_op_threads, inter_op_threads=benchmark.inter_op_threads)
    dataset = setup.load_dataset(data)
    feed = dataset.train_feed(data.batch_size, seed=benchmark.seed, drop_remainder=True)
    result = _benchmark(model, optimization, benchmark, dataset, feed, data.batch_size)
    text = json.dumps(result, indent=1)
    if benchmark.output is not None:
        replace_file(pathlib.Path(benchmark.output) / "benchmark.json", text + "\n")
    if benchmark.json:
        print(json.dumps(result))
    else:
        _print(result)
    return 0


def _benchmark(
    model: flags.Model,
    optimization: flags.Optimization,
    benchmark: flags.Benchmark,
    dataset: Dataset,
    feed: Feed,
    batch_size: int,
) -> dict[str, Any]:
    from rich.console import Console

    console = Console(stderr=True)
    steps = benchmark.train_steps

    def fresh() -> jobs.Job:
        return jobs.build_job(model, optimization, dataset, seed=benchmark.seed, total_steps=2 * steps)

    def fit(**compile_options: Any) -> Measure:
        state = fresh().state
        from_logits = not models.ends_in_probabilities(model.model, state.model)
        return _fit(state, feed, from_logits=from_logits, **compile_options)

    def loop(execution: str) -> Measure:
        job = fresh()
        execute = jobs.make_execution(execution, benchmark.steps_per_call)(job.state, job.step, feed)
        return lambda n: _loop_seconds(execute, n)

    grid = []
    with console.status("") as status:
        for options in FIT_GRID:
            status.update(f"searching fit's best: {options}")
            grid.append({**options, "ms_per_step": fit(**options)(max(50, steps // 4)) * 1e3 / max(50, steps // 4)})
        best = min(grid, key=lambda row: row["ms_per_step"])
        tuned = {name: best[name] for name in ("steps_per_execution", "jit_compile")}
        rows: dict[str, Measure] = {"fit": fit(), "fit_tuned": fit(**tuned), "graph": loop("graph"), "xla": loop("xla")}
        seconds: dict[str, list[float]] = {name: [] for name in rows}
        for repeat in range(benchmark.repeats):
            for name, measure in rows.items():
                status.update(f"repeat {repeat + 1} of {benchmark.repeats}: {name}")
                seconds[name].append(measure(steps))
    medians = {name: statistics.median(times) / steps for name, times in seconds.items()}
    return {
        "environment": {"platform": platform.platform(), "cpus": os.cpu_count(), **_versions()},
        "method": {"steps": steps, "repeats": benchmark.repeats, "fit_grid": grid, "fit_tuned": tuned},
        "rows": [
            {
                "loop": name,
                "model": model.model,
                "batch_size": batch_size,
                "precision": model.precision,
                "ms_per_step": median * 1e3,
                "range_ms": [min(seconds[name]) * 1e3 / steps, max(seconds[name]) * 1e3 / steps],
                "examples_per_second": batch_size / median,
                "ratio_to_fit": medians["fit"] / median,
            }
            for name, median in medians.items()
        ],
    }


def _fit(state: Any, feed: Feed, *, from_logits: bool, **compile_options: Any) -> Measure:
    """`fit` for twice the steps, of which the second epoch is timed: the first fills the pipeline, as the loop's does."""
    import keras

    state.model.compile(
        optimizer=state.optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits),
        metrics=["accuracy"],
        **compile_options,
    )
    dataset = feed().map(lambda batch: (batch["x"], batch["y"]))

    def seconds(steps: int) -> float:
        marks: list[float] = []
        callback = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: marks.append(time.perf_counter()),
            on_epoch_end=lambda epoch, logs: marks.append(time.perf_counter()),
        )
        state.model.fit(dataset, steps_per_epoch=steps, epochs=2, verbose=0, shuffle=False, callbacks=[callback])
        return marks[3] - marks[2]

    return seconds


def _loop_seconds(execute: Callable[[int], int], steps: int) -> float:
    _run_exactly(execute, steps)
    start = time.perf_counter()
    _run_exactly(execute, steps)
    return time.perf_counter() - start


def _run_exactly(execute: Callable[[int], int], steps: int) -> None:
    while steps > 0:
        steps -= execute(steps)


def _versions() -> dict[str, str]:
    import keras
    import tensorflow as tf

    return {"tensorflow": tf.__version__, "keras": keras.__version__, "python": platform.python_version()}


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    first = result["rows"][0]
    table = Table(title=f"{first['model']}, batch {first['batch_size']}, {first['precision']}")
    for column in ("", "ms/step", "from – to", "examples/s", "× fit"):
        table.add_column(column, justify="left" if column == "" else "right")
    for row in result["rows"]:
        low, high = row["range_ms"]
        table.add_row(
            row["loop"],
            f"{row['ms_per_step']:.2f}",
            f"{low:.2f} – {high:.2f}",
            f"{row['examples_per_second']:,.0f}",
            f"{row['ratio_to_fit']:.2f}",
        )
    console = Console()
    console.print(table)
    tuned = result["method"]["fit_tuned"]
    console.print(
        f"fit_tuned: the best of {len(result['method']['fit_grid'])}, steps_per_execution={tuned['steps_per_execution']}, "
        f"jit_compile={tuned['jit_compile']}",
        highlight=False,
    )
