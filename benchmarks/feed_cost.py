"""What a feed costs: the loop on a feed against the same loop on one constant batch, which takes no time to make.

There is one process and one model. Blocks of steps take turns in a random order: on the constant batch, on the
in-memory feed, and on the same feed with augmentation.

    python benchmarks/feed_cost.py --dataset=fashion_mnist --data_dir=... --model=cnn
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import turns

from loopwright import data, trainer
from loopwright.trainer.commands.benchmark.one_row import ConstantFeed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mnist_5k")
    parser.add_argument("--data_dir")
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--augment", default="flip,translate:2")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--steps", type=int, default=100, help="steps in a block")
    arguments = parser.parse_args()

    dataset = data.load(arguments.dataset, data_dir=arguments.data_dir, feed="memory")
    state, step = turns.job(dataset, arguments.model)

    def feed(augment: str | None) -> Any:
        return dataset.train_feed(arguments.batch_size, drop_remainder=True, augment=augment)

    feeds = {"constant": ConstantFeed(feed(None)), "memory": feed(None), "augmented": feed(arguments.augment)}
    runs = {name: trainer.graph(arguments.steps)(state, step, stream) for name, stream in feeds.items()}

    def block(run: Callable[[int], int]) -> float:
        start = time.perf_counter()
        run_steps = run(arguments.steps)
        return (time.perf_counter() - start) / run_steps

    seconds = turns.take_turns({name: lambda run=run: block(run) for name, run in runs.items()}, arguments.rounds)
    result: dict[str, Any] = {"constant_ms": round(1e3 * statistics.median(seconds["constant"]), 3)}
    for name in ("memory", "augmented"):
        milliseconds = round(1e3 * statistics.median(seconds[name]), 3)
        result[name] = {"ms": milliseconds, **turns.ratio(seconds, name, "constant")}
    print(json.dumps({"model": arguments.model, "batch_size": arguments.batch_size, **result}, indent=1))


if __name__ == "__main__":
    main()
