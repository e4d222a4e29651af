"""The loop and `model.fit` reach the same weights, to the last bit: same seed, same batches, no jit."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from loopwright import models, trainer

STEPS = 30
EAGER_STEPS = 10
SHAPE = (20, 20, 1)


def regularised() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(4, 3, activation="relu", kernel_regularizer="l2"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Flatten(),
            keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.01)),
        ]
    )


def entry(name: str) -> Callable[[], keras.Model]:
    return lambda: models.create(name, SHAPE, 3)


def optimizer_of(name: str) -> keras.optimizers.Optimizer:
    return trainer.make_optimizer(name, 1e-3, momentum=0.9, weight_decay=0.01, precision="float32")


def by_fit(
    build: Callable[[], keras.Model],
    optimizer: str,
    feed: Any,
    *,
    from_logits: bool,
    steps: int = STEPS,
    **options: Any,
) -> Any:
    keras.utils.set_random_seed(0)
    model = build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    model.compile(optimizer_of(optimizer), loss, metrics=["accuracy"], jit_compile=False, **options)
    model.fit(feed().map(lambda batch: (batch["x"], batch["y"])).take(steps), verbose=0, shuffle=False)
    return model


def by_loop(
    build: Callable[[], keras.Model],
    optimizer: str,
    feed: Any,
    *,
    from_logits: bool,
    execution: Any,
    steps: int = STEPS,
) -> Any:
    keras.utils.set_random_seed(0)
    state = trainer.TrainState.create(build(), optimizer_of(optimizer))
    step = trainer.gradient_step(trainer.classification(from_logits=from_logits))
    trainer.train(state, feed, step, num_steps=steps, execution=execution)
    return state


def assert_equal_to_the_bit(fitted: keras.Model, state: trainer.TrainState) -> None:
    ours, theirs = [
        [*model.variables, *optimizer.variables]
        for model, optimizer in ((state.model, state.optimizer), (fitted, fitted.optimizer))
    ]
    assert any("seed_generator" in variable.path for variable in ours)
    for variable, twin in zip(ours, theirs, strict=True):
        assert np.array_equal(variable.numpy(), twin.numpy()), variable.path


@pytest.mark.parametrize(
    ("build", "optimizer", "from_logits", "batch_size"),
    [
        pytest.param(entry("cnn"), "adam", True, 14, id="cnn-adam"),
        pytest.param(entry("cnn_subclass"), "sgd", False, 14, id="cnn_subclass-sgd"),
        pytest.param(regularised, "adamw", True, 16, id="regularised-adamw-ragged"),
    ],
)
def test_graph_reaches_the_weights_of_fit(
    make_feed: Any, build: Any, optimizer: str, from_logits: bool, batch_size: int
) -> None:
    feed = make_feed(side=SHAPE[0], batch_size=batch_size)
    ours = by_loop(build, optimizer, feed, from_logits=from_logits, execution=trainer.graph(7))
    assert_equal_to_the_bit(by_fit(build, optimizer, feed, from_logits=from_logits), ours)


def test_eager_reaches_the_weights_of_eager_fit(make_feed: Any) -> None:
    feed = make_feed(side=SHAPE[0])
    ours = by_loop(
        entry("cnn_sequential"), "adam", feed, from_logits=False, execution=trainer.eager(), steps=EAGER_STEPS
    )
    theirs = by_fit(entry("cnn_sequential"), "adam", feed, from_logits=False, run_eagerly=True, steps=EAGER_STEPS)
    assert_equal_to_the_bit(theirs, ours)
