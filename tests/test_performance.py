"""docs/performance.md and README.md say what was measured, and the programs around the benchmark hold together."""

import copy
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


def test_peer_that_is_not_there_is_absent(repository: pathlib.Path) -> None:
    peers = runpy.run_path(str(repository / "benchmarks" / "peers.py"))
    row = peers["measure"]("Peer", ".venv-nowhere", "torch_loop.py", batch_size=1, steps=1, laps=1)
    assert row == {"peer": "Peer", "absent": "no .venv-nowhere; make peers"}


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
