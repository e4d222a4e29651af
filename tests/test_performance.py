"""docs/performance.md and README.md agree with the measurements, and the programs around the benchmark work."""

import argparse
import copy
import json
import pathlib
import re
import runpy
import subprocess
import sys
from typing import Any

import pytest

from loopwright import flags
from loopwright.trainer.commands import parity
from loopwright.trainer.commands.benchmark import command as benchmark
from loopwright.trainer.commands.benchmark import one_row


@pytest.fixture(scope="module")
def tables(repository: pathlib.Path) -> dict[str, Any]:
    return runpy.run_path(str(repository / "benchmarks" / "tables.py"))


def test_pages_hold_the_measured_numbers(tables: dict[str, Any]) -> None:
    result = tables["load"]()
    for path in tables["PAGES"]:
        page = path.read_text(encoding="utf-8")
        assert "<!-- measured: " in page
        assert tables["render"](page, result) == page, f"run benchmarks/tables.py: {path}"


def test_other_numbers_make_another_page(tables: dict[str, Any]) -> None:
    result = tables["load"]()
    changed = copy.deepcopy(result)
    for row in changed["rows"]:
        row["ms_per_step"] *= 1.5
        row["laps_ms"] = [lap * 1.5 for lap in row["laps_ms"]]
    for name in ("matrix", "peers"):
        assert (tables[name](changed) != tables[name](result)) == (name == "matrix")
    assert "| no |" in tables["aims"]({**result, "rows": [{**row, "laps_ms": [1.0]} for row in result["rows"]]})


def test_pages_say_that_a_machine_was_not_quiet(tables: dict[str, Any]) -> None:
    result = tables["load"]()
    quiet = {**result, "rows": [{**row, "interval": [row["ms_per_step"]] * 2} for row in result["rows"]]}
    busy = {
        **result,
        "rows": [{**row, "interval": [0.5 * row["ms_per_step"], row["ms_per_step"]]} for row in result["rows"]],
    }
    for part in ("machine", "headline"):
        assert "was not quiet" not in tables[part](quiet)
        assert "was not quiet" in tables[part](busy)


def test_peer_without_an_environment_is_absent(
    repository: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = runpy.run_path(str(repository / "benchmarks" / "peers.py"))
    monkeypatch.setitem(peers["workers"].__globals__, "BENCHMARKS", tmp_path)
    started: list[str] = []
    monkeypatch.setattr(benchmark, "Worker", lambda name, words: started.append(name))
    absent: dict[str, str] = {}
    sizes = {"dataset": "benchmarks.images:cifar_shaped", "batch_size": 32, "steps": 2, "laps": 2}
    peers["workers"](argparse.Namespace(model="cnn", **sizes), absent)
    assert absent == {"Orbit": "no .venv-orbit; make peers", "PyTorch": "no .venv-torch; make peers"}
    assert started == ["graph", "fit", "fit_alone.py"]


def test_gpu_table_holds_the_results(tables: dict[str, Any], tmp_path: pathlib.Path) -> None:
    assert tables["gpu"](tables["load"]()).count("unmeasured") == 12
    rows = [
        {"loop": loop, "model": "cnn", "precision": "float32", "ratio_to_fit": 1.5, "ratio_to_fit_interval": [1.4, 1.6]}
        for loop in ("graph", "xla")
    ]
    parity = {
        "parity-graph-float32": {"identical": True, "max_abs_difference": 0.0, "holds": True},
        "parity-xla-float32": {"identical": False, "max_abs_difference": 2e-3, "holds": False},
    }
    text = tables["gpu"]({"gpu": {"rows": rows, "parity": parity}})
    assert text.count("unmeasured") == 8
    for part in ("1.50 (1.40–1.60)", "identical", "fails: 2.0e-03"):
        assert part in text


def test_bfloat16_is_compared_at_the_same_threads(tables: dict[str, Any]) -> None:
    found = {("float32", 0): 12.0, ("mixed_bfloat16", 0): 10.0, ("float32", 1): 10.0, ("mixed_bfloat16", 1): 5.0}
    rows = [
        {
            "model": "cnn",
            "batch_size": 32,
            "precision": precision,
            "intra_op_threads": intra,
            "inter_op_threads": 2 * intra,
            "laps_ms": [time] * 3,
        }
        for (precision, intra), time in found.items()
    ]
    result = {**tables["load"](), "precisions": rows}
    one, other = tables["bfloat16"](result).splitlines()[2:]
    assert ("TensorFlow's own" in one, "1.20 (1.20–1.20)" in one) == (True, True)
    assert ("--intra_op_threads=1 --inter_op_threads=2" in other, "2.00 (2.00–2.00)" in other) == (True, True)
    aims = [line for line in tables["aims"](result).splitlines() if "bfloat16" in line]
    assert len(aims) == 1
    assert aims[0].endswith("| 1.20 (1.20–1.20) | no |")
    assert "Not measured" in tables["bfloat16"]({**result, "precisions": []})


ANSWERING = """
import json, sys
print(json.dumps({"time_to_first_step_s": 1.0, "version": "1"}), flush=True)
for lap, line in enumerate(sys.stdin):
    if line.strip() == "end":
        print(json.dumps({"peak_memory_mb": 9.0}), flush=True)
        break
    if lap == int(sys.argv[1]):
        sys.exit("out of memory")
    print(json.dumps({"seconds": 1.0}), flush=True)
"""


def answering(name: str, *, dies_at: int = -1) -> benchmark.Worker:
    """A process that answers as a row does, and dies at a lap; -1 for a process that doesn't die."""
    return benchmark.Worker(name, [sys.executable, "-c", ANSWERING, str(dies_at)])


@pytest.mark.parametrize("lap", [0, 2, 4])
def test_peer_that_dies_is_absent_and_the_others_go_on(repository: pathlib.Path, lap: int) -> None:
    peers = runpy.run_path(str(repository / "benchmarks" / "peers.py"))
    started = {"Loopwright, graph": answering("graph"), "fit": answering("fit"), "Orbit": answering("o", dies_at=lap)}
    peers["measure"].__globals__["workers"] = lambda arguments, absent: started
    rows = peers["measure"](argparse.Namespace(steps=1, laps=4))
    assert [(row["peer"], len(row.get("laps_ms", ()))) for row in rows] == [
        ("Loopwright, graph", 4),
        ("fit", 4),
        ("Orbit", 0),
    ]
    assert "out of memory" in rows[-1]["absent"]


@pytest.mark.parametrize("lap", [0, 1, 3])
def test_row_that_dies_is_reported_and_the_others_are_kept(monkeypatch: pytest.MonkeyPatch, lap: int) -> None:
    cell = benchmark.Cell(flags.Data(), flags.Model(), flags.Optimization(), flags.Benchmark(train_steps=1, repeats=3))
    grid = [{"steps_per_execution": 1, "jit_compile": False, "ms_per_step": 1.0}]
    search = f"import json; print(json.dumps({{'grid': {grid}}})); print(json.dumps({{'environment': {{}}}}))"

    def row_worker(cell: Any, row: str, options: Any = None, **more: Any) -> benchmark.Worker:
        if row == "search":
            return benchmark.Worker(row, [sys.executable, "-c", search])
        return answering(row, dies_at=lap if row in failing else -1)

    monkeypatch.setattr(benchmark, "row_worker", row_worker)
    kept: list[int] = []
    failing = {"xla"}
    result = benchmark._measure([cell, cell], lambda result: kept.append(len(result["rows"])))
    assert [row["loop"] for row in result["rows"]] == ["fit", "fit_tuned", "graph", "auto", "floor"] * 2
    assert [(row["loop"], "out of memory" in row["reason"]) for row in result["failed"]] == [("xla", True)] * 2
    assert kept == [5, 10]
    failing = {"graph"}
    with pytest.raises(benchmark.TrainingError, match="out of memory"):
        benchmark._measure([cell], lambda result: None)


def test_search_of_fit_runs_whole_executions() -> None:
    for k in one_row.STEPS_PER_EXECUTION:
        assert one_row.search_steps(k) % k == 0
        assert 25 <= one_row.search_steps(k) <= 50


@pytest.mark.slow
def test_peers_take_turns_with_the_loop(repository: pathlib.Path, tmp_path: pathlib.Path) -> None:
    words = [sys.executable, "benchmarks/peers.py", "--model=mlp", "--steps=3", "--laps=2", f"--output={tmp_path}"]
    subprocess.run(words, cwd=repository, capture_output=True, text=True, check=True)
    found = json.loads((tmp_path / "peers.json").read_text(encoding="utf-8"))
    assert [len(row["laps_ms"]) for row in found["rows"] if "absent" not in row] == [2, 2, 2]
    assert {row["peer"] for row in found["rows"] if "absent" in row} == {"Orbit", "PyTorch"}
    assert found["rows"][0]["ratio_to_ours"] == 1


def test_commands_for_a_gpu_have_valid_flags(repository: pathlib.Path) -> None:
    gpu = runpy.run_path(str(repository / "benchmarks" / "gpu.py"))
    names = [words[0] for words in gpu["commands"]()]
    assert names == ["parity"] * 6 + ["benchmark"]
    for name, *words in gpu["commands"]():
        groups = benchmark.GROUPS if name == "benchmark" else parity.GROUPS
        lists = benchmark.LISTS if name == "benchmark" else ()
        flags.parse_matrix(words, groups, lists=lists, usage="", help_text="")


@pytest.mark.slow
def test_precisions_take_turns(
    repository: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(repository / "benchmarks")
    precisions = runpy.run_path(str(repository / "benchmarks" / "precisions.py"))
    rows = precisions["measure"]("mnist_5k", "mlp", 32, steps=2, laps=3)
    assert [(row["precision"], row["intra_op_threads"], len(row["laps_ms"])) for row in rows] == [
        (precision, intra, 3) for precision in ("float32", "mixed_bfloat16") for intra in (0, 1)
    ]
    kept = tmp_path / "precisions.json"
    kept.write_text("{}")
    environment = lambda: {"instruction_sets": ["avx2"]}  # noqa: E731
    monkeypatch.setitem(precisions["main"].__globals__, "environment", environment)
    monkeypatch.setattr(sys, "argv", ["precisions.py", f"--output={tmp_path}"])
    precisions["main"]()
    assert not kept.exists()


@pytest.mark.slow
def test_fit_alone_times_fit(repository: pathlib.Path) -> None:
    script = repository / "benchmarks" / "fit_alone.py"
    words = [sys.executable, str(script), "--steps=2", "--epochs=1", "--dataset=benchmarks.images:cifar_shaped"]
    done = subprocess.run(words, cwd=repository, capture_output=True, text=True, check=True)
    assert '"ms_per_step": ' in done.stdout


@pytest.mark.slow
def test_variants_are_compared_with_the_first_one(
    repository: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variants = runpy.run_path(str(repository / "benchmarks" / "variants.py"))
    words = ["variants.py", "--steps=2", "--laps=3", "--model=mlp", "--model=mlp --onednn=on"]
    monkeypatch.setattr(sys, "argv", words)
    variants["main"]()
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"--model=mlp: \S+ \(\S+–\S+\) ms a step", first)
    assert re.fullmatch(r"--model=mlp --onednn=on: .* ms a step, \S+ \(\S+–\S+\) times as fast as the first", second)
    monkeypatch.setattr(sys, "argv", words[:4])
    with pytest.raises(SystemExit):
        variants["main"]()
    assert "give two sets of flags or more" in capsys.readouterr().err
