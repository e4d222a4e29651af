"""Models and data of a user's own: layers that Keras doesn't know, and a feed whose batches say nothing but x and y."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from loopwright import data

IMAGES = np.random.default_rng(0).random((40, 8, 8, 1), np.float32)
LABELS = np.arange(40) % 3


class Scale(layers.Layer):
    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, inputs: Any) -> Any:
        return inputs * self.scale


@keras.saving.register_keras_serializable("own")
class Listed(Scale):
    pass


class Subclassed(keras.Model):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.parts = [layers.Flatten(), Scale(), layers.Dense(num_classes)]

    def call(self, inputs: Any) -> Any:
        for part in self.parts:
            inputs = part(inputs)
        return inputs


def scaled(input_shape: Any, num_classes: int) -> keras.Model:
    last = layers.Dense(num_classes, activation="softmax")
    return keras.Sequential([keras.Input(input_shape), layers.Flatten(), Scale(), last])


def listed(input_shape: Any, num_classes: int) -> keras.Model:
    return keras.Sequential([keras.Input(input_shape), layers.Flatten(), Listed(), layers.Dense(num_classes)])


def subclassed(input_shape: Any, num_classes: int) -> keras.Model:
    return Subclassed(num_classes)


def samples(split: str) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((IMAGES, LABELS))


class Plain:
    """A feed of batches of ten without `index`."""

    steps_per_epoch, examples_per_epoch = 4, 40

    def __init__(self, split: str) -> None:
        self.batches = -1 if split == "train" else self.steps_per_epoch
        self.feed = data.array_feed(IMAGES, LABELS, 10)
        self.element_spec = {name: self.feed.element_spec[name] for name in ("x", "y")}

    def __call__(self, start_step: int = 0) -> tf.data.Dataset:
        return self.feed(start_step).map(lambda batch: {name: batch[name] for name in ("x", "y")}).take(self.batches)


def feed(split: str) -> Plain:
    return Plain(split)


feed.class_names = ("red", "green", "blue")  # type: ignore[attr-defined]
