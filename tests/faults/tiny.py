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


def poison(x: tf.Tensor, index: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
    """NaN in place of sample 7, from the second epoch on."""
    bad = ((index == 7) & (epoch >= 1))[:, tf.newaxis, tf.newaxis, tf.newaxis]
    return tf.where(bad, tf.constant(float("nan")), _scaled(x))


def poison_all(x: tf.Tensor, index: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
    """NaN in every batch from the second epoch on."""
    bad = (epoch >= 1)[:, tf.newaxis, tf.newaxis, tf.newaxis]
    return tf.where(bad, tf.constant(float("nan")), _scaled(x))


def hang(x: tf.Tensor, index: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
    """Never returns, from the second epoch on."""

    def wait(epoch: np.ndarray) -> np.ndarray:
        if epoch.max() >= 1:
            time.sleep(10_000)
        return epoch

    with tf.control_dependencies([tf.numpy_function(wait, [epoch], tf.int64)]):
        return tf.identity(_scaled(x))
