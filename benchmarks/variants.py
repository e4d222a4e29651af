"""Times a row of the benchmark with several sets of flags, in turns, so a slow moment of the machine affects all sets.

    python benchmarks/variants.py '--model=cnn --onednn=off' '--model=cnn --onednn=on'

A set is a list of flags of `loopwright benchmark`, in quotes. Each set has a separate process. All are compared with
the first set. The figures are medians over the laps, with 95% intervals (bootstrap, which resamples the laps in pairs).
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import statistics
from collections.abc import Hashable, Mapping
from typing import TypeVar

from loopwright import flags
from loopwright.trainer.commands.benchmark import command as benchmark
from loopwright.trainer.commands.benchmark.one_row import Cell
from loopwright.trainer.compare import bootstrap

Key = TypeVar("Key", bound=Hashable)


def laps_in_turns(cells: Mapping[Key, Cell], steps: int, laps: int, row: str = "graph") -> dict[Key, list[float]]:
    """The milliseconds a step of each lap of each cell. The first lap is a warm-up and isn't counted."""
    with contextlib.ExitStack() as stack:
        workers = {key: stack.enter_context(benchmark.row_worker(cell, row)) for key, cell in cells.items()}
        for worker in workers.values():
            worker.read()
            worker.lap(steps)
        found: dict[Key, list[float]] = {key: [] for key in workers}
        for _ in range(laps):
            for key, worker in workers.items():
                found[key].append(worker.lap(steps))
        for worker in workers.values():
            worker.say("end")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        usage="variants.py [--row ROW] [--steps N] [--laps N] 'FLAGS' 'FLAGS' ...",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--row", default="graph", choices=("graph", "xla", "floor", "fit"))
    parser.add_argument("--steps", type=int, default=20, help="steps in a lap")
    parser.add_argument("--laps", type=int, default=15)
    arguments, variants = parser.parse_known_args()
    if len(variants) < 2:
        parser.error("give two sets of flags or more")
    sizes = [f"--train_steps={arguments.steps}", f"--repeats={arguments.laps}"]
    cells = {}
    for number, variant in enumerate(variants):
        words = [*shlex.split(variant), *sizes]
        try:
            groups, _ = flags.parse(words, benchmark.GROUPS, usage=parser.format_usage(), help_text="")
        except flags.UsageError as error:
            parser.error(str(error))
        cells[number] = Cell(*groups)
    found = laps_in_turns(cells, arguments.steps, arguments.laps, arguments.row)
    for number, laps in found.items():
        low, high = bootstrap.median_interval(laps)
        line = f"{variants[number]}: {statistics.median(laps):.3g} ({low:.3g}–{high:.3g}) ms a step"
        if number:
            low, high = bootstrap.median_ratio_interval(found[0], laps)
            line += f", {bootstrap.median_ratio(found[0], laps):.2f} ({low:.2f}–{high:.2f}) times as fast as the first"
        print(line)


if __name__ == "__main__":
    main()
