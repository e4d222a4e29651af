"""Real data in all three feeds."""

import pathlib
from typing import Any

import keras
import numpy as np
import pytest

from loopwright import data


@pytest.fixture(scope="module")
def feeds(fashion_mnist: pathlib.Path) -> dict[str, Any]:
    kinds = ("memory", "streaming", "sequential")
    options = {"data_dir": str(fashion_mnist), "train_split": "train[:2000]", "eval_split": "test[:100]"}
    return {
        kind: data.load("fashion_mnist", **options, feed=kind).train_feed(64, seed=3, augment="flip") for kind in kinds
    }


@pytest.mark.slow
def test_all_feeds_see_the_same_samples_each_epoch(feeds: dict[str, Any]) -> None:
    for feed in feeds.values():
        for epoch in (0, 1):
            start = epoch * feed.steps_per_epoch
            index = [batch["index"].numpy() for batch in feed(start).take(feed.steps_per_epoch)]
            np.testing.assert_array_equal(np.sort(np.concatenate(index)), np.arange(2000))


@pytest.mark.slow
def test_training_on_memory_and_streaming_ends_in_equal_weights(feeds: dict[str, Any]) -> None:
    from loopwright import trainer

    hashes = []
    for kind in ("memory", "streaming"):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Flatten(), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(10)]
        model = keras.Sequential([keras.Input((28, 28, 1)), *layers])
        state = trainer.TrainState.create(model, keras.optimizers.Adam())
        step = trainer.gradient_step(trainer.classification(from_logits=True))
        trainer.train(state, feeds[kind], step, num_steps=300, execution=trainer.graph())
        hashes.append(list(state.hashes().values()))
    assert hashes[0] == hashes[1]
