"""The lecture's `Sequential` network."""

import keras
from keras import layers


def cnn_sequential(input_shape: tuple[int, ...], num_classes: int) -> keras.Model:
    """Two convolutions and a softmax, giving probabilities `[B, num_classes]` float32."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Dropout(0.2),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(num_classes, activation="softmax", dtype="float32"),
        ],
        name="cnn_sequential",
    )
