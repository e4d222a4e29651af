"""A multi-layer perceptron: 784-128-10 units for MNIST (101,770 parameters)."""

import keras
from keras import layers


def mlp(input_shape: tuple[int, ...], num_classes: int) -> keras.Model:
    """One hidden layer of 128 units, ending in logits `[B, num_classes]` float32."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(num_classes, dtype="float32"),
        ],
        name="mlp",
    )
