"""Times the loop (`graph`) in float32 and bfloat16, with TensorFlow's own threads and with one thread an op, in turns.

With one thread an op, as many ops run at a time as there are cores. A CPU without AMX and without AVX-512 BF16
emulates bfloat16. There nothing is measured, and an earlier result is deleted.

    python benchmarks/precisions.py --output=benchmarks/results/cnn
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
from typing import Any

import variants

from loopwright import flags
from loopwright.trainer.base.atomic import replace_file
from loopwright.trainer.commands.benchmark.one_row import Cell
from loopwright.trainer.commands.machine import environment
from loopwright.trainer.compare import bootstrap

PRECISIONS = ("float32", "mixed_bfloat16")
#: Threads inside an op and ops at a time. With 0, TensorFlow decides.
THREADS = ((0, 0), (1, os.cpu_count() or 1))


def measure(dataset: str, model: str, batch_size: int, steps: int, laps: int) -> list[dict[str, Any]]:
    """A row for each precision and number of threads. Their laps take turns."""
    cells = {
        (precision, intra, inter): Cell(
            flags.Data(dataset=dataset, batch_size=batch_size),
            flags.Model(model=model, precision=precision),
            flags.Optimization(),
            flags.Benchmark(train_steps=steps, repeats=laps, intra_op_threads=intra, inter_op_threads=inter),
        )
        for precision in PRECISIONS
        for intra, inter in THREADS
    }
    names = ("precision", "intra_op_threads", "inter_op_threads")
    return [
        {
            **dict(zip(names, key, strict=True)),
            "model": model,
            "batch_size": batch_size,
            "ms_per_step": statistics.median(times),
            "interval": bootstrap.median_interval(times),
            "laps_ms": times,
        }
        for key, times in variants.laps_in_turns(cells, steps, laps).items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, type=pathlib.Path, help="folder for precisions.json")
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--dataset", default="benchmarks.images:cifar_shaped")
    parser.add_argument("--batch_size", default="32,256", help="several values with commas between them")
    parser.add_argument("--steps", type=int, default=20, help="steps in a lap")
    parser.add_argument("--laps", type=int, default=15)
    arguments = parser.parse_args()
    path = arguments.output / "precisions.json"
    facts = environment()
    if not {"amx_bf16", "avx512_bf16"} & set(facts["instruction_sets"]):
        path.unlink(missing_ok=True)
        print("precisions.py: this CPU emulates bfloat16; nothing is measured")
        return
    rows = []
    for batch_size in map(int, arguments.batch_size.split(",")):
        rows += measure(arguments.dataset, arguments.model, batch_size, arguments.steps, arguments.laps)
    result = {"environment": facts, "steps": arguments.steps, "laps": arguments.laps, "rows": rows}
    arguments.output.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(result, indent=1) + "\n")
    for row in rows:
        threads = f"{row['intra_op_threads']}, {row['inter_op_threads']} threads"
        print(f"batch {row['batch_size']}, {row['precision']}, {threads}: {row['ms_per_step']:.3g} ms a step")


if __name__ == "__main__":
    main()
