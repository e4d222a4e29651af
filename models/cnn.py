"""The network that the lecture summarises: 122,570 parameters for 32x32x3 inputs and 10 classes."""

import keras
from keras import layers


def cnn(input_shape: tuple[int, ...], num_classes: int) -> keras.Model:
    """Three convolutions and two dense layers, ending in logits `[B, num_classes]` float32."""
    inputs = keras.Input(input_shape)
    x = layers.Conv2D(32, 3, activation="relu")(inputs)
    x = layers.MaxPooling2D()(x)
    x = layers.Dropout(0.2)(x)
    x = layers.Conv2D(64, 3, activation="relu")(x)
    x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(64, 3, activation="relu")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(64, activation="relu")(x)
    outputs = layers.Dense(num_classes, dtype="float32")(x)
    return keras.Model(inputs, outputs, name="cnn")
