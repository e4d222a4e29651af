"""Objectives: what they count, and that `fit` counts the same."""

from typing import Any

import keras
import numpy as np
import pytest

from loopwright import trainer
from loopwright.data.feed import array_feed


def rows(samples: int = 22) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    parts = {"x": rng.normal(size=(samples, 3)), "y": rng.normal(size=samples), "weight": rng.uniform(size=samples)}
    return {name: part.astype(np.float32) for name, part in parts.items()}


def linear(outputs: int = 1) -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(outputs)])


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_regression_trains_as_fit_does_to_the_bit(weighted: bool) -> None:
    data = rows()
    weights = data["weight"] if weighted else None
    feed = array_feed(data["x"], data["y"], 8, sample_weight=weights)  # the last of three batches is ragged
    ours, theirs = linear(), linear()
    state = trainer.TrainState.create(ours, keras.optimizers.Adam(0.01))
    trainer.train(state, feed, trainer.gradient_step(trainer.regression()), num_steps=9, execution=trainer.graph())
    theirs.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    keys = ("x", "y", "sample_weight") if weighted else ("x", "y")
    theirs.fit(feed().map(lambda batch: tuple(batch[key] for key in keys)), steps_per_epoch=9, verbose=0)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("pad", [False, True], ids=["ragged", "padded"])
def test_regression_is_evaluated_exactly(pad: bool) -> None:
    data, model = rows(), linear()
    state = trainer.TrainState.create(model, keras.optimizers.SGD())
    feed = array_feed(data["x"], data["y"], 8, shuffle=False, pad=pad)
    errors = model.predict(data["x"], verbose=0)[:, 0] - data["y"]
    expected = {"loss": np.mean(errors**2), "mae": np.mean(np.abs(errors))}
    assert trainer.evaluate(state, feed, trainer.regression()) == pytest.approx(expected, rel=1e-6)


def test_regression_refuses_outputs_of_another_shape() -> None:
    data: dict[str, Any] = rows()
    state = trainer.TrainState.create(linear(outputs=2), keras.optimizers.SGD())
    with pytest.raises(ValueError, match=r"gives \(2,\) for a sample, the target is \(\)"):
        trainer.evaluate(state, array_feed(data["x"], data["y"], 8), trainer.regression())
