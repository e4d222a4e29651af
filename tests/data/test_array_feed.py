"""Feeds over arrays: labels may be missing, what isn't an array is refused in a sentence, and padding counts as in `fit`."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import data, trainer

RNG = np.random.default_rng(0)
X = RNG.random((70, 4), np.float32)
Y = np.arange(70) % 3


def test_batches_without_labels_hold_x_and_index() -> None:
    feed = data.array_feed(X, batch_size=20, shuffle=False)
    batches = [*feed()]
    assert [set(batch) for batch in batches] == [{"x", "index"}] * 4
    np.testing.assert_array_equal(np.concatenate([batch["x"] for batch in batches]), X)
    assert set(feed.stacked(2).element_spec) == {"x", "index"}


def test_batch_size_is_32_as_in_fit() -> None:
    assert data.array_feed(X, Y).epochs.batch_size == 32


class Autoencoder(keras.Model):
    """Trains on inputs alone."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(4)

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def train_step(self, x: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x) - x))
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"loss": loss}


def test_autoencoder_trains_without_labels_as_in_fit() -> None:
    models = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        models.append(Autoencoder())
        models[-1].compile(optimizer=keras.optimizers.SGD(0.1))
        models[-1](X[:1])
    models[0].fit(X, batch_size=14, epochs=1, shuffle=False, verbose=0)
    feed = data.array_feed(X, batch_size=14, shuffle=False)
    step = trainer.step_from_keras(models[1], feed.element_spec)
    state = trainer.TrainState.create(models[1], models[1].optimizer, metrics=step.metrics)
    trainer.train(state, feed, step, num_steps=5, execution=trainer.graph())
    for ours, theirs in zip(models[1].weights, models[0].weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((X, 32), r"y=32 is a single number, and an array \[N, ...\] is wanted"),
        ((X, [0, 1, 2], 3), r"y holds 0 of type int, .* such as with numpy.asarray\(y\)"),
        (([1.0, 2.0], Y), r"x holds 1.0 of type float"),
        ((None, Y), r"x holds None of type NoneType"),
        ((tf.ragged.constant([[1], [2, 3]]), Y), "x holds a RaggedTensor"),
        ((tf.sparse.from_dense(X), Y), "x holds a SparseTensor"),
        ((X, Y[:-1]), "different lengths: 70, 69 samples"),
    ],
)
def test_what_is_not_an_array_is_refused_in_a_sentence(arguments: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        data.array_feed(*arguments)
    assert "\n" not in str(error.value)


def test_padding_counts_as_fit_counts_samples_of_weight_0() -> None:
    feed = data.array_feed(X[:6], Y[:6], 8, pad=True, shuffle=False)
    batch = next(iter(feed()))
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    outputs = trainer.classification(from_logits=True)(model, batch, training=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    weights = batch["mask"].numpy().astype(np.float32)
    of_fit = model.train_on_batch(batch["x"].numpy(), batch["y"].numpy(), sample_weight=weights)
    assert float(outputs.loss) == pytest.approx(float(of_fit), rel=1e-6)
    total, weight = outputs.metrics["loss"]
    assert (float(total / weight), float(weight)) == (pytest.approx(float(of_fit) * 8 / 6, rel=1e-6), 6)
