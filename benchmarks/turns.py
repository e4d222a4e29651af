"""What the programs in this folder share: a job to measure, and turns in a random order.

The slow moments of a machine affect all blocks that take turns. So blocks are compared round by round: a ratio is the
median of the rounds' ratios, with its 95% interval (bootstrap).
"""

from __future__ import annotations

import os
import random
import statistics
from collections.abc import Callable, Mapping
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

from loopwright import data, models, trainer
from loopwright.trainer.compare import bootstrap


def job(dataset: data.Dataset, model: str) -> tuple[trainer.TrainState, trainer.Step]:
    """A state with a model of the catalog and Adam, and its step. The seed is always the same."""
    keras.utils.set_random_seed(0)
    network = models.create(model, dataset.input_shape, dataset.num_classes, precision="float32")
    logits = not models.ends_in_probabilities(model, network)
    state = trainer.TrainState.create(network, keras.optimizers.Adam())
    return state, trainer.gradient_step(trainer.classification(from_logits=logits))


def take_turns(blocks: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each block returns in each round, such as seconds. The first round is a warm-up and isn't counted."""
    order, found = random.Random(0), {name: [] for name in blocks}
    for number in range(rounds + 1):
        for name in order.sample(list(blocks), len(blocks)):
            value = blocks[name]()
            if number:
                found[name].append(value)
    return found


def ratio(found: Mapping[str, list[float]], name: str, base: str) -> dict[str, Any]:
    """How many times as long as `base` a block took: the median over the rounds, and its interval."""
    ratios = [one / other for one, other in zip(found[name], found[base], strict=True)]
    low, high = bootstrap.median_interval(ratios)
    return {"ratio": round(statistics.median(ratios), 4), "interval": [round(low, 4), round(high, 4)]}
