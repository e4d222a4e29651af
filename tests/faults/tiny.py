"""What the runs of these tests train: a small model with everything that has a state, and inputs that go wrong."""

import os
import time

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def net(input_shape: tuple[int, ...], num_classes: int) -> keras.Model:
    """Convolution, batch norm and dropout; TINY_WIDTH filters, so that a test can change the model under its name."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(int(os.environ.get("TINY_WIDTH", "2")), 3, strides=3, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            layers.Flatten(),
            layers.Dense(num_classes, dtype="float32"),
        ]
    )


def _scaled(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, tf.float32) * np.float32(1 / 255)


def _chosen(keys: tf.Tensor) -> tf.Tensor:
    """One sample in 300 or so, by its key of the epoch: bool `[B]`."""
    return tf.cast(tf.bitwise.right_shift(keys, tf.constant(40, tf.uint64)), tf.int64) % 300 == 0


def poison(x: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """NaN in place of a sample now and then."""
    return tf.where(_chosen(keys)[:, tf.newaxis, tf.newaxis, tf.newaxis], tf.constant(float("nan")), _scaled(x))


def poison_all(x: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """Nothing but NaN."""
    return _scaled(x) * float("nan")


def hang(x: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """Never returns, at a sample now and then."""

    def wait(chosen: np.ndarray) -> np.bool_:
        if chosen.any():
            time.sleep(10_000)
        return np.bool_(True)

    with tf.control_dependencies([tf.numpy_function(wait, [_chosen(keys)], tf.bool)]):
        return tf.identity(_scaled(x))
