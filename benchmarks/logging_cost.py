"""What logging costs: a loop that logs to metrics.jsonl and TensorBoard, against the same loop without a hook.

A third loop stops at the same steps and writes nothing. There is one process, one model and one compiled loop. Blocks
of steps of the three ways take turns in a random order. All blocks begin and end at the same places between two logs,
so the costs of their first steps are the same.

    python benchmarks/logging_cost.py --data_dir=... --model=cnn --log_every=20
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import tempfile
import time
from typing import Any

import turns

from loopwright import data, trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mnist_5k", help="images:cifar_shaped for images of CIFAR-10's shape")
    parser.add_argument("--data_dir")
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--log_every", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--steps", type=int, default=40, help="steps in a block")
    arguments = parser.parse_args()

    dataset = data.load(arguments.dataset, data_dir=arguments.data_dir, feed="memory")
    state, step = turns.job(dataset, arguments.model)
    feed = dataset.train_feed(arguments.batch_size, drop_remainder=True)
    run = trainer.graph()(state, step, feed)

    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder)
        writers = [trainer.JsonLines(workdir / "metrics.jsonl"), trainer.TensorBoard(workdir / "tensorboard")]
        log = trainer.Log(writers, steps_per_epoch=feed.steps_per_epoch, examples_per_step=arguments.batch_size)
        every = arguments.log_every
        hooks: dict[str, list[Any]] = {
            "without": [],
            "stops": [trainer.every(every, lambda state, metrics: None)],
            "writes": [trainer.every(every, log.__call__)],
        }

        def block(name: str) -> float:
            last = int(state.step) + arguments.steps
            start = time.perf_counter()
            trainer.train(state, feed, step, num_steps=last, execution=lambda *_: run, hooks=hooks[name])
            return time.perf_counter() - start

        seconds = turns.take_turns({name: lambda name=name: block(name) for name in hooks}, arguments.rounds)
        records = len((workdir / "metrics.jsonl").read_text().splitlines())
    result = {
        "model": arguments.model,
        "batch_size": arguments.batch_size,
        "log_every": arguments.log_every,
        "records": records,
        "ms_a_step": {name: round(1e3 * statistics.median(s) / arguments.steps, 3) for name, s in seconds.items()},
        "stops": turns.ratio(seconds, "stops", "without"),
        "writes": turns.ratio(seconds, "writes", "without"),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
