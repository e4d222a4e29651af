"""docs/performance.md and README.md say what was measured, and the programs around the benchmark hold together."""

import argparse
import copy
import json
import pathlib
import runpy
import subprocess
import sys
from typing import Any

import pytest

from loopwright import flags
from loopwright.trainer.commands import benchmark, parity


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


def test_pages_tell_of_a_machine_that_was_not_quiet(tables: dict[str, Any]) -> None:
    result = tables["load"]()
    quiet = {**result, "rows": [{**row, "interval": [row["ms_per_step"]] * 2} for row in result["rows"]]}
    busy = {
        **result,
        "rows": [{**row, "interval": [0.5 * row["ms_per_step"], row["ms_per_step"]]} for row in result["rows"]],
    }
    for part in ("machine", "headline"):
        assert "was not quiet" not in tables[part](quiet)
        assert "was not quiet" in tables[part](busy)


def test_peer_that_is_not_there_is_absent(
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


@pytest.mark.slow
def test_peers_take_turns_with_the_loop(repository: pathlib.Path, tmp_path: pathlib.Path) -> None:
    words = [sys.executable, "benchmarks/peers.py", "--model=mlp", "--steps=3", "--laps=2", f"--output={tmp_path}"]
    subprocess.run(words, cwd=repository, capture_output=True, text=True, check=True)
    found = json.loads((tmp_path / "peers.json").read_text(encoding="utf-8"))
    assert [len(row["laps_ms"]) for row in found["rows"]] == [2, 2, 2]
    assert found["rows"][0]["ratio_to_ours"] == 1


def test_commands_for_a_gpu_are_ones_that_there_are(repository: pathlib.Path) -> None:
    gpu = runpy.run_path(str(repository / "benchmarks" / "gpu.py"))
    names = [words[0] for words in gpu["commands"]()]
    assert names == ["parity"] * 6 + ["benchmark"]
    for name, *words in gpu["commands"]():
        groups = benchmark.GROUPS if name == "benchmark" else parity.GROUPS
        lists = benchmark.LISTS if name == "benchmark" else ()
        flags.parse_matrix(words, groups, lists=lists, usage="", help_text="")


@pytest.mark.slow
def test_fit_alone_times_fit(repository: pathlib.Path) -> None:
    script = repository / "benchmarks" / "fit_alone.py"
    words = [sys.executable, str(script), "--steps=2", "--epochs=1", "--dataset=benchmarks.images:cifar_shaped"]
    done = subprocess.run(words, cwd=repository, capture_output=True, text=True, check=True)
    assert '"ms_per_step": ' in done.stdout
