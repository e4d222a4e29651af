"""The lecture's network as a subclass of `tf.keras.Model`: 42,442 parameters for 32x32x3 inputs and 10 classes."""

from typing import Any

import keras
from keras import layers


class CnnSubclass(keras.Model):
    """Two convolutions and a softmax; `call` gives probabilities `[B, num_classes]` float32."""

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conv1 = layers.Conv2D(32, 3, activation="relu")
        self.pool1 = layers.MaxPooling2D()
        self.dropout = layers.Dropout(0.2)
        self.conv2 = layers.Conv2D(64, 3, activation="relu")
        self.pool2 = layers.MaxPooling2D()
        self.flatten = layers.Flatten()
        self.classify = layers.Dense(num_classes, activation="softmax", dtype="float32")

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        x = self.pool1(self.conv1(inputs))
        x = self.dropout(x, training=training)
        x = self.pool2(self.conv2(x))
        return self.classify(self.flatten(x))


def cnn_subclass(input_shape: tuple[int, ...], num_classes: int) -> keras.Model:
    """The network for `num_classes` classes. Its first call fixes the input shape."""
    return CnnSubclass(num_classes, name="cnn_subclass")
