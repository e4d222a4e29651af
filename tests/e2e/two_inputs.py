"""What a user of two inputs brings along: a dataset and a model, each a function."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def samples(split: str) -> tf.data.Dataset:
    """Images and sizes of three classes: 70 samples to train on, 20 others."""
    rng = np.random.default_rng(len(split))
    count = 70 if split == "train" else 20
    labels = rng.integers(0, 3, count)
    images = rng.normal(labels[:, None, None, None], 1.0, (count, 12, 12, 1)).astype("float32")
    sizes = rng.uniform(size=(count, 1)).astype("float32")
    return tf.data.Dataset.from_tensor_slices(({"image": images, "size": sizes}, labels))


def model(input_shape: dict[str, Any], num_classes: int) -> keras.Model:
    """A convolution over the image and a dense layer over the size."""
    inputs = {name: keras.Input(shape, name=name) for name, shape in input_shape.items()}
    x = layers.Flatten()(layers.Conv2D(4, 3, activation="relu")(inputs["image"]))
    x = layers.Concatenate()([layers.Dropout(0.2)(x), layers.Dense(4)(inputs["size"])])
    return keras.Model(inputs, layers.Dense(num_classes)(x))
