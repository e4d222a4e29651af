"""Mixed precision: both kinds train, and an overflow in float16 costs one update and nothing more."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import trainer
from loopwright.data.feed import array_feed

SPOILT_STEP = 3


def dense_model(dropout: float = 0.2, *, norm: bool = False) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((4,)),
            *([keras.layers.BatchNormalization()] if norm else []),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(3, dtype="float32"),
        ]
    )


@pytest.fixture
def samples() -> tuple[np.ndarray, np.ndarray]:
    """Forty samples of three classes that a small model can tell apart."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 40)
    return (rng.normal(size=(40, 4)) + y[:, None] - 1).astype(np.float32), y


def numbers(variables: list[Any]) -> list[np.ndarray]:
    return [variable.numpy() for variable in variables]


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_training_in_every_precision_lowers_the_loss(
    make_state: Any, samples: Any, objective: Any, precision: str
) -> None:
    feed = array_feed(*samples, batch_size=8)
    state = make_state(dense_model, learning_rate=1e-2, precision=precision)
    before = trainer.evaluate(state, feed, objective)["loss"]
    trainer.train(state, feed, trainer.gradient_step(objective), num_steps=40, execution=trainer.graph())
    assert trainer.evaluate(state, feed, objective)["loss"] < 0.8 * before
    assert {variable.dtype for variable in state.model.trainable_variables} == {"float32"}
    assert isinstance(state.optimizer, keras.optimizers.LossScaleOptimizer) == (precision == "mixed_float16")


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_takes_nearly_the_updates_of_float32(
    make_state: Any, samples: Any, objective: Any, precision: str
) -> None:
    feed, moved = array_feed(*samples, batch_size=8), []
    for name in ("float32", precision):  # without dropout, whose masks depend on the precision
        state = make_state(lambda: dense_model(0.0), "sgd", learning_rate=0.1, precision=name)
        before = state.model.trainable_variables[0].numpy()
        trainer.train(state, feed, trainer.gradient_step(objective), num_steps=5, execution=trainer.graph())
        moved.append(state.model.trainable_variables[0].numpy() - before)
    assert np.abs(moved[0]).max() > 0.1
    assert moved[1] == pytest.approx(moved[0], abs=0.02)


def spoil_batch(x: np.ndarray, objective: Any) -> tuple[np.ndarray, Any]:
    """The samples of one step hold a value that float16 can't hold, so the loss itself is NaN."""
    x = x.copy()
    x[SPOILT_STEP * 8] = 1e30
    return x, objective


def spoil_loss(x: np.ndarray, objective: Any) -> tuple[np.ndarray, Any]:
    """The loss of one step is finite, and overflows when it is scaled."""

    def spoilt(model: Any, batch: Any, *, training: bool) -> trainer.Outputs:
        outputs = objective(model, batch, training=training)
        factor = tf.where(batch["index"][0] == SPOILT_STEP * 8, 1e36, 1.0)
        return trainer.Outputs(outputs.loss * factor, outputs.metrics)

    return x, spoilt


@pytest.mark.parametrize("spoil", [spoil_batch, spoil_loss])
@pytest.mark.parametrize("execution", [trainer.graph(50), trainer.eager()], ids=["graph", "eager"])
def test_overflow_in_float16_halves_the_scale_and_skips_the_update(
    make_state: Any, samples: Any, objective: Any, spoil: Callable[..., Any], execution: Any
) -> None:
    x, spoilt = spoil(samples[0], objective)
    feed = array_feed(x, samples[1], batch_size=8, shuffle=False)
    state = make_state(lambda: dense_model(norm=True), precision="mixed_float16")
    step = trainer.gradient_step(spoilt)
    trainer.train(state, feed, step, num_steps=SPOILT_STEP, execution=execution)
    statistics = numbers(state.model.non_trainable_weights)
    scale = float(state.optimizer.dynamic_scale)
    weights, slots = numbers(state.model.trainable_variables), numbers(state.optimizer.inner_optimizer.variables)

    trainer.train(state, feed, step, num_steps=SPOILT_STEP + 1, execution=execution)
    assert int(state.step) == SPOILT_STEP + 1
    assert float(state.optimizer.dynamic_scale) == scale / 2
    for old, new in zip(weights, numbers(state.model.trainable_variables), strict=True):
        assert np.array_equal(old, new)
    for old, new in zip(slots, numbers(state.optimizer.inner_optimizer.variables), strict=True):
        assert np.array_equal(old, new)
    # A batch that overflows by itself leaves them as they are. One that overflows by the scale moves them, as in `fit`.
    for old, new in zip(statistics, numbers(state.model.non_trainable_weights), strict=True):
        assert np.array_equal(old, new) == (spoil is spoil_batch)
        assert np.isfinite(new).all()

    trainer.train(state, feed, step, num_steps=SPOILT_STEP + 2, execution=execution)
    assert int(state.optimizer.iterations) == SPOILT_STEP + 1
    assert not np.array_equal(weights[0], state.model.trainable_variables[0].numpy())


def test_skipped_update_stays_out_of_the_logged_means(make_state: Any, samples: Any, objective: Any) -> None:
    x, _ = spoil_batch(samples[0], objective)
    logged = []
    for precision in ("mixed_float16", "mixed_bfloat16"):
        feed = array_feed(x, samples[1], batch_size=8, shuffle=False)
        state = make_state(dense_model, precision=precision)
        hook = trainer.every(5, lambda state, metrics: logged.append({k: float(v) for k, v in metrics.items()}))
        step = trainer.gradient_step(objective)
        trainer.train(state, feed, step, num_steps=5, execution=trainer.graph(), hooks=[hook])
    skipped, spoilt = logged
    assert np.isfinite(list(skipped.values())).all()
    assert spoilt["loss"] > 1e20 or np.isnan(spoilt["loss"])  # without loss scaling nothing is skipped or hidden
