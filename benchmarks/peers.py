"""Times the same job elsewhere, in turns with the loop: a script that only calls `fit`, Orbit, and plain PyTorch.

`make peers` builds the environments of Orbit and PyTorch. These two know only the model `cnn` on images with the
shapes of CIFAR-10. A peer that has no environment, or that fails, is reported as absent. Each peer has a separate
process. The laps take turns, so a slow moment of the machine affects all of them.

    python benchmarks/peers.py --model=cnn --dataset=benchmarks.images:cifar_shaped --output=benchmarks/results/cnn
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import pathlib
import statistics
import sys
from collections.abc import Iterator
from typing import Any

from loopwright import flags
from loopwright.trainer.base.atomic import replace_file
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.commands.benchmark import command as benchmark
from loopwright.trainer.commands.benchmark.one_row import Cell
from loopwright.trainer.commands.machine import environment
from loopwright.trainer.compare import bootstrap

BENCHMARKS = pathlib.Path(__file__).resolve().parent
#: Peers that have separate environments: name, environment and script.
ELSEWHERE = (("Orbit", ".venv-orbit", "orbit_loop.py"), ("PyTorch", ".venv-torch", "torch_loop.py"))
#: The peer that the others are compared with.
OURS = "Loopwright, graph"
FIT_ROW, FIT_ALONE = "fit, the benchmark's row", "fit, called by fit_alone.py"


def workers(arguments: argparse.Namespace, absent: dict[str, str]) -> dict[str, benchmark.Worker]:
    """The processes by name. For each peer that can't be started, the reason is added to `absent`."""
    cell = Cell(
        flags.Data(dataset=arguments.dataset, batch_size=arguments.batch_size),
        flags.Model(model=arguments.model),
        flags.Optimization(),
        flags.Benchmark(train_steps=arguments.steps, repeats=arguments.laps),
    )
    sizes = [f"--{name}={getattr(arguments, name)}" for name in ("dataset", "model", "batch_size", "steps")]
    alone = [sys.executable, str(BENCHMARKS / "fit_alone.py"), *sizes, f"--epochs={arguments.laps + 1}", "--turns"]
    found = {
        OURS: benchmark.row_worker(cell, "graph"),
        FIT_ROW: benchmark.row_worker(cell, "fit"),
        FIT_ALONE: benchmark.Worker("fit_alone.py", alone),
    }
    for name, folder, script in ELSEWHERE:
        python = BENCHMARKS.parent / folder / "bin" / "python"
        if (arguments.model, arguments.dataset) != ("cnn", "benchmarks.images:cifar_shaped"):
            absent[name] = "knows only cnn on images of CIFAR-10's shape"
        elif python.exists():
            script_and_size = [str(BENCHMARKS / "peers" / script), str(arguments.batch_size), str(arguments.steps)]
            found[name] = benchmark.Worker(script, [str(python), *script_and_size])
        else:
            absent[name] = f"no {folder}; make peers"
    return found


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each peer: its figures, or the reason why it has none. Raises TrainingError if our loop fails."""
    absent: dict[str, str] = {}
    versions: dict[str, str] = {}
    laps: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        running = {name: stack.enter_context(worker) for name, worker in workers(arguments, absent).items()}

        @contextlib.contextmanager
        def may_fail(name: str) -> Iterator[None]:
            try:
                yield
            except TrainingError as error:
                if name == OURS:
                    raise
                absent[name] = str(error)
                running.pop(name)
                laps.pop(name, None)

        for name, worker in list(running.items()):
            with may_fail(name):
                versions[name] = worker.read().get("version", f"Keras {importlib.metadata.version('keras')}")
                worker.lap(arguments.steps)
        for _ in range(arguments.laps):
            for name, worker in list(running.items()):
                with may_fail(name):
                    laps.setdefault(name, []).append(worker.lap(arguments.steps))
        for worker in running.values():
            worker.say("end")
    versions[OURS] = importlib.metadata.version("loopwright")
    rows: list[dict[str, Any]] = [
        {
            "peer": name,
            "version": versions[name],
            "ms_per_step": statistics.median(times),
            "interval": bootstrap.median_interval(times),
            "ratio_to_ours": bootstrap.median_ratio(times, laps[OURS]),
            "ratio_to_ours_interval": bootstrap.median_ratio_interval(times, laps[OURS]),
            "laps_ms": times,
        }
        for name, times in laps.items()
    ]
    return rows + [{"peer": name, "absent": reason} for name, reason in absent.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, type=pathlib.Path, help="folder for peers.json")
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--dataset", default="benchmarks.images:cifar_shaped")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=50, help="steps in a lap")
    parser.add_argument("--laps", type=int, default=15)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    try:
        rows = measure(arguments)
    except TrainingError as error:
        sys.exit(f"peers.py: {error}")
    sizes = {name: getattr(arguments, name) for name in ("dataset", "model", "batch_size", "steps", "laps")}
    result = {**sizes, "precision": "float32", "environment": environment(), "rows": rows}
    replace_file(arguments.output / "peers.json", json.dumps(result, indent=1) + "\n")
    for row in rows:
        print(row["peer"], row.get("absent") or f"{row['ms_per_step']:.3g} ms a step", sep=": ")


if __name__ == "__main__":
    main()
