"""What a feed costs: the training loop on a feed against the same loop on one constant batch, which costs nothing to make.

One process, one model; blocks of steps on the constant batch, on the in-memory feed, and on the same feed with augmentation
take turns in a new order each round, so that a machine's slow moments fall on all of them. Printed are each feed's median
ratio to the constant batch and a 95% interval of that median (bootstrap over rounds).

    python benchmarks/feed_cost.py --dataset=fashion_mnist --data_dir=... --model=cnn
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import statistics
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from loopwright import data, models, trainer
from loopwright.data.feed import Feed


@dataclasses.dataclass(frozen=True)
class ConstantFeed:
    """The first batch of a feed, again and again."""

    feed: Feed

    def __call__(self, start_step: int = 0) -> tf.data.Dataset:
        batch = next(iter(self.feed(0)))
        return tf.data.Dataset.from_tensors(batch).repeat()


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
    keras.utils.set_random_seed(0)
    network = models.create(arguments.model, dataset.input_shape, dataset.num_classes, precision="float32")
    logits = not models.ends_in_probabilities(arguments.model, network)
    state = trainer.TrainState.create(network, keras.optimizers.Adam())
    step = trainer.gradient_step(trainer.classification(from_logits=logits))

    def feed(augment: str | None) -> Any:
        return dataset.train_feed(arguments.batch_size, drop_remainder=True, augment=augment)

    feeds = {"constant": ConstantFeed(feed(None)), "memory": feed(None), "augmented": feed(arguments.augment)}
    runs = {name: trainer.graph(arguments.steps)(state, step, stream) for name, stream in feeds.items()}
    for run in runs.values():
        run(arguments.steps)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    order = random.Random(0)
    for _ in range(arguments.rounds):
        for name in order.sample(list(runs), len(runs)):
            start = time.perf_counter()
            run_steps = runs[name](arguments.steps)
            seconds[name].append((time.perf_counter() - start) / run_steps)
    result: dict[str, Any] = {"constant_ms": round(1e3 * statistics.median(seconds["constant"]), 3)}
    for name in ("memory", "augmented"):
        ratios = np.array(seconds[name]) / np.array(seconds["constant"])
        draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
        low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
        result[name] = {
            "ms": round(1e3 * statistics.median(seconds[name]), 3),
            "ratio": round(float(np.median(ratios)), 3),
            "interval": [round(float(low), 3), round(float(high), 3)],
        }
    print(json.dumps({"model": arguments.model, "batch_size": arguments.batch_size, **result}, indent=1))


if __name__ == "__main__":
    main()
