"""Objectives and evaluation, compared with NumPy: exact over ragged batches, masks and sample weights."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import trainer


def by_numpy(state: trainer.TrainState, feed: Any) -> dict[str, float]:
    """Mean cross-entropy and accuracy over every sample, in float64."""
    batches = list(feed().take(feed.steps_per_epoch))
    x, y = (np.concatenate([batch[key].numpy() for batch in batches]) for key in ("x", "y"))
    assert len(y) == feed.examples_per_epoch
    logits = np.asarray(state.model(x, training=False), np.float64)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]
    return {"loss": losses.mean(), "accuracy": (logits.argmax(axis=1) == y).mean()}


@pytest.mark.parametrize("batch_size", [1, 16, 32, 70])
def test_evaluate_is_exact_over_the_ragged_last_batch(
    make_state: Any, make_feed: Any, objective: Any, batch_size: int
) -> None:
    state, feed = make_state(), make_feed(batch_size=batch_size, shuffle=False)
    before = state.hashes()
    metrics = trainer.evaluate(state, feed, objective)
    expected = by_numpy(state, feed)
    assert metrics["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert metrics["accuracy"] == pytest.approx(expected["accuracy"], rel=1e-12)
    assert state.hashes() == before


def test_evaluator_follows_the_weights_and_traces_once(make_state: Any, make_feed: Any, objective: Any) -> None:
    state, feed, traces = make_state(), make_feed(shuffle=False), []

    def counted(model: Any, batch: Any, *, training: bool) -> trainer.Outputs:
        traces.append(training)
        return objective(model, batch, training=training)

    run = trainer.evaluator(state, feed, counted)
    first = run()
    assert run() == first
    state.model.trainable_variables[0].assign_add(tf.ones_like(state.model.trainable_variables[0]))
    assert run() != first
    assert run()["loss"] == pytest.approx(by_numpy(state, feed)["loss"], rel=1e-6)
    assert traces == [False]


def test_evaluate_hook_gives_a_record_to_each_writer(make_state: Any, make_feed: Any, objective: Any) -> None:
    records: list[Any] = []
    state, feed = make_state(), make_feed(shuffle=False)
    state.step.assign(10)
    hook = trainer.Evaluate(feed, objective, [records.append, records.append], steps_per_epoch=5)
    hook(state, {})
    assert [(record.step, record.split, record.epoch) for record in records] == [(10, "eval", 2.0)] * 2
    assert records[0].values == hook.last == trainer.evaluate(state, feed, objective)
    assert not hook.reads_metrics


@pytest.fixture
def batch() -> dict[str, tf.Tensor]:
    rng = np.random.default_rng(1)
    return {
        "x": tf.constant(rng.random((6, 8, 8, 1), np.float32)),
        "y": tf.constant([0, 1, 2, 0, 1, 2], tf.int64),
        "index": tf.range(6, dtype=tf.int64),
    }


def means(outputs: trainer.Outputs) -> dict[str, float]:
    return {name: float(total / weight) for name, (total, weight) in outputs.metrics.items()}


def test_mask_leaves_padding_out(make_state: Any, objective: Any, batch: Any) -> None:
    model = make_state().model
    whole = {name: part[:4] for name, part in batch.items()}
    padded = batch | {"mask": tf.constant([1, 1, 1, 1, 0, 0])}
    expected = objective(model, whole, training=False)
    outputs = objective(model, padded, training=False)
    assert means(outputs) == pytest.approx(means(expected), rel=1e-6)
    assert float(outputs.metrics["loss"][1]) == 4


def test_sample_weights_weigh_the_loss(make_state: Any, objective: Any, batch: Any) -> None:
    model = make_state().model
    weights = np.array([0.0, 1.0, 2.0, 0.5, 1.5, 3.0], np.float32)
    rows = [float(objective(model, {k: v[i : i + 1] for k, v in batch.items()}, training=False).loss) for i in range(6)]
    outputs = objective(model, batch | {"sample_weight": tf.constant(weights)}, training=False)
    assert float(outputs.loss) == pytest.approx((weights * rows).sum() / 6, rel=1e-5)  # as Keras reduces it
    both = batch | {"sample_weight": tf.constant(weights), "mask": tf.constant([True, True, True, False, False, False])}
    assert float(objective(model, both, training=False).loss) == pytest.approx((weights * rows)[:3].sum() / 6, rel=1e-5)


def test_loss_counts_what_the_model_adds(make_state: Any, objective: Any, batch: Any) -> None:
    def regularised() -> keras.Model:
        dense = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1))
        return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), dense])

    model = make_state(regularised).model
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(batch["y"], model(batch["x"]))
    added = 0.1 * np.square(model.weights[0].numpy()).sum()
    assert float(objective(model, batch, training=True).loss) == pytest.approx(float(plain) + added, rel=1e-5)


def test_classification_of_probabilities_equals_that_of_logits(make_state: Any, objective: Any, batch: Any) -> None:
    model = make_state().model
    softmax = keras.Sequential([model, keras.layers.Softmax()])
    outputs = trainer.classification(from_logits=False)(softmax, batch, training=False)
    assert means(outputs) == pytest.approx(means(objective(model, batch, training=False)), rel=1e-5)
    assert outputs.loss.dtype == tf.float32
