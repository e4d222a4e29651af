"""`loopwright benchmark`: the matrix, the rows, what is written and drawn; real processes, tiny jobs."""

import json
import pathlib
import time
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from loopwright import flags
from loopwright.trainer.commands.benchmark import command as benchmark
from loopwright.trainer.commands.benchmark import one_row, presentation

KEYS = {
    *("loop", "dataset", "model", "batch_size", "precision", "ms_per_step", "interval", "examples_per_second"),
    *("ratio_to_fit", "ratio_to_fit_interval", "ratio_to_fit_tuned", "ratio_to_fit_tuned_interval"),
    *("time_to_first_step_s", "peak_memory_mb", "laps_ms"),
}
#: A model that compiles at once.
MODEL = """
import keras

def tiny(input_shape, num_classes):
    return keras.Sequential([keras.Input(input_shape), keras.layers.Flatten(), keras.layers.Dense(num_classes)])
"""


@pytest.mark.slow
def test_benchmark_measures_its_rows_and_writes_what_it_says(
    loopwright: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "ROWS", ("fit", "fit_tuned", "graph", "auto"))  # a process each: seconds each
    (tmp_path / "mine.py").write_text(MODEL)
    words = ["--model=mine:tiny", "--train_steps=5", "--repeats=2", "--output=results", "--json"]
    words += ["--optimizer=sgd", "--steps_per_call=7"]
    result = loopwright("benchmark", f"--data_dir={mnist_dir}", *words)
    assert result.code == 0, result.err
    results = tmp_path / "results"
    assert json.loads((results / "benchmark.json").read_text()) == result.json
    rows = {row["loop"]: row for row in result.json["rows"]}
    assert tuple(rows) == benchmark.ROWS
    for row in rows.values():
        assert set(row) >= KEYS
        assert row["interval"][0] <= row["ms_per_step"] <= row["interval"][1]
        assert len(row["laps_ms"]) == 2
        assert row["examples_per_second"] == pytest.approx(32e3 / row["ms_per_step"])
        assert row["time_to_first_step_s"] > 0
        assert 100 < row["peak_memory_mb"] < 10_000
    assert rows["fit"]["ratio_to_fit"] == 1
    assert rows["auto"]["chosen"] in ("graph", "xla")
    (grid,) = result.json["method"]["fit_grid"]
    searched = {(entry["steps_per_execution"], entry["jit_compile"]) for entry in grid["grid"]}
    assert searched == {(steps, jit) for steps in (1, 5) for jit in (False, True)}
    assert rows["fit_tuned"]["options"]["steps_per_execution"] in (1, 5)
    assert (result.json["method"]["steps"], result.json["failed"]) == (5, [])
    assert result.json["environment"]["cpus"] >= 1
    assert result.json["method"]["flags"] == [f"--data_dir={mnist_dir}", "--optimizer=sgd", "--steps_per_call=7"]
    assert (results / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    _, drawn = scalars(results / "tensorboard" / "mine_tiny-32-float32" / "fit", "ms_per_step")
    assert drawn == pytest.approx(rows["fit"]["laps_ms"])


@pytest.mark.parametrize("loop", ["floor", pytest.param("xla", marks=pytest.mark.slow)])
def test_row_answers_its_commands(
    mnist_dir: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    commands = iter(("10", "4", "end"))
    monkeypatch.setattr(one_row, "_next_command", lambda: next(commands))
    steps: list[int] = []
    run_exactly = one_row._run_exactly
    monkeypatch.setattr(one_row, "_run_exactly", lambda run, n: (steps.append(n), run_exactly(run, n)))
    answers: list[Any] = []
    row = one_row.Row(small_cell(mnist_dir), time.monotonic(), answers.append)
    one_row.measure_loop(row, loop)
    ready, *laps = answers
    assert 0 < ready["time_to_first_step_s"] < 600
    assert [set(lap) for lap in laps] == [{"seconds"}] * 2
    assert steps == [10, 4]


def test_floor_repeats_the_first_batch_of_the_feed(mnist_dir: pathlib.Path) -> None:
    row = one_row.Row(small_cell(mnist_dir), 0.0, print)
    (first,) = row.feed().take(1)
    for batch in one_row.ConstantFeed(row.feed)(start_step=7).take(3):
        assert all(np.array_equal(batch[name], first[name]) for name in first)


def small_cell(mnist_dir: pathlib.Path) -> one_row.Cell:
    return one_row.Cell(
        flags.Data(data_dir=str(mnist_dir), batch_size=64),
        flags.Model(model="mlp"),
        flags.Optimization(),
        flags.Benchmark(train_steps=10, repeats=5, steps_per_call=4),
    )


@pytest.mark.slow
def test_curves_of_fit_and_of_the_loop_are_one_over_steps_and_drawn(
    mnist_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    cell = small_cell(mnist_dir)
    answers: list[Any] = []
    row = one_row.Row(cell, 0.0, answers.append)
    for loop in ("fit", "graph"):
        one_row.curve(row, loop, {})
    fit, ours = [answer["points"] for answer in answers]
    assert [point["step"] for point in fit] == [point["step"] for point in ours] == list(range(2, 51, 2))
    for one, other in zip(fit, ours, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["accuracy"] == pytest.approx(other["accuracy"], abs=1e-6)
    assert fit[-1]["loss"] < fit[0]["loss"]
    assert sorted(point["seconds"] for point in ours) == [point["seconds"] for point in ours]
    key = presentation.key_of(cell)
    curves = [{**key, "loop": loop, "points": points} for loop, points in (("fit", fit), ("graph", ours))]
    result = {"rows": cell_rows(**{loop: [1.0, 1.1] for loop in benchmark.ROWS}), "curves": curves}
    presentation.draw(result, tmp_path / "curves.png")
    presentation.draw({**result, "curves": []}, tmp_path / "bars.png")
    assert (tmp_path / "curves.png").stat().st_size > (tmp_path / "bars.png").stat().st_size
    for _ in range(2):  # the second replaces the first
        presentation.write_tensorboard(result, tmp_path / "tensorboard")
    events, losses = scalars(tmp_path / "tensorboard" / "mlp-64-float32" / "graph", "loss")
    assert losses == pytest.approx([point["loss"] for point in ours])
    assert [event.step for event in events] == list(range(2, 51, 2))
    assert [event.wall_time for event in events] == pytest.approx([point["seconds"] for point in ours])


def scalars(run: pathlib.Path, tag: str) -> tuple[list[Any], list[float]]:
    events = EventAccumulator(str(run), size_guidance={"tensors": 0}).Reload().Tensors(tag)
    return events, [float(tf.make_ndarray(event.tensor_proto)) for event in events]


def cell_rows(**laps: list[float]) -> list[dict[str, Any]]:
    key = {"dataset": "d", "model": "m", "batch_size": 32, "precision": "float32"}
    facts = {loop: {"time_to_first_step_s": 1.0, "peak_memory_mb": 500.0} for loop in laps}
    return presentation.make_rows(key, laps, facts)


def test_tables_call_a_tie_a_tie_and_name_the_fastest_flags(capsys: pytest.CaptureFixture[str]) -> None:
    rows = cell_rows(
        fit=[4.0, 4.1, 3.9], fit_tuned=[2.0, 2.2, 1.8], graph=[2.0, 2.3, 1.9], xla=[2.05, 2.2, 1.95], floor=[1.0] * 3
    )
    failure = {"dataset": "d", "model": "m", "batch_size": 32, "precision": "float32", "loop": "auto", "reason": "why"}
    environment = {"intra_op_threads": 1, "inter_op_threads": 0, "onednn": "off"}
    method = {"flags": ["--optimizer=sgd", "--augment=flip,mine:f g"]}
    presentation.print_tables({"rows": rows, "failed": [failure], "environment": environment, "method": method})
    out = capsys.readouterr().out
    assert "auto failed: why" in out
    assert "fastest (a tie with xla): loopwright train --dataset=d --model=m --batch_size=32" in out
    assert "--execution=graph --intra_op_threads=1 --onednn=off --optimizer=sgd '--augment=flip,mine:f g'\n" in out
    by_loop = {row["loop"]: row for row in rows}
    assert presentation.ratio_text(by_loop["graph"], "fit_tuned").endswith(" tie")
    assert not presentation.ratio_text(by_loop["graph"], "fit").endswith(" tie")
    assert presentation.ratio_text(by_loop["fit"], "fit") == "1"


def test_one_lap_says_nothing_of_its_spread(capsys: pytest.CaptureFixture[str]) -> None:
    rows = cell_rows(fit=[4.0], fit_tuned=[3.0], graph=[2.0], xla=[2.5])
    environment = {"intra_op_threads": 0, "inter_op_threads": 0, "onednn": "off"}
    presentation.print_tables({"rows": rows, "failed": [], "environment": environment, "method": {"flags": []}})
    table, _ = capsys.readouterr().out.split("±: half")
    assert "±" not in table
    assert "fastest (by one lap alone): loopwright train" in table


def test_ratio_of_a_slow_row_lies_in_its_interval() -> None:
    rows = cell_rows(fit=[1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0], fit_tuned=[1.0] * 7, xla=[10.0, 10.0, 11.0])
    low, high = rows[-1]["ratio_to_fit_interval"]
    assert low <= rows[-1]["ratio_to_fit"] <= high


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--batch_size=32,0"], "--batch_size=0"),
        (["--precision=float32,float8"], "--precision=float8"),
        (["--model=mlp,cnm"], "'cnn'"),
        (["--gradient_accumulation=2"], "--gradient_accumulation=2"),
    ],
)
def test_every_value_of_a_list_is_checked_before_anything_is_measured(
    loopwright: Any, words: list[str], part: str
) -> None:
    result = loopwright("benchmark", *words)
    assert (result.code, result.out) == (2, "")
    assert part in result.err


@pytest.mark.slow
def test_row_that_dies_ends_in_one_line(loopwright: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine.py").write_text("def bad(input_shape, num_classes):\n    raise RuntimeError('out of ideas')\n")
    result = loopwright("benchmark", f"--data_dir={mnist_dir}", "--model=mine:bad", "--train_steps=5")
    assert result.code == 1
    assert "out of ideas" in result.err.splitlines()[-1]
