"""A bidirectional LSTM of 2 x 64 units (Hochreiter and Schmidhuber 1997) for texts and for sequences of vectors."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from loopwright.models.head import head

WIDTH, DROPOUT = 64, 0.2


def lstm(
    input_shape: tuple[int, ...],
    num_classes: Any,
    *,
    vocabulary_size: int | None = None,
    output_shape: Any = None,
    target_mean: Any = None,
    target_std: Any = None,
) -> keras.Model:
    """An LSTM over token ids `[B, T]` int32 or vectors `[B, T, F]`, ending in `[B, num_classes]` float32.

    The id 0 is padding, and so is a vector of zeros; the LSTM leaves both out. Where `output_shape` is that of a target for
    each position, the outputs are `[B, T, num_classes]`.
    """
    if vocabulary_size is None:
        x = inputs = keras.Input(input_shape)
        present = layers.GlobalMaxPooling1D("channels_first", dtype="float32")(_squares(x))  # over the axis F
    else:
        inputs = present = keras.Input(input_shape, dtype="int32")
        x = layers.Embedding(vocabulary_size, WIDTH)(inputs)
    positions = isinstance(output_shape, tuple) and len(output_shape) > 1
    x = layers.Dropout(DROPOUT)(x)
    x = layers.Bidirectional(layers.LSTM(WIDTH, return_sequences=positions))(x, mask=present)
    x = layers.Dropout(DROPOUT)(x)
    return keras.Model(inputs, head(x, num_classes, target_mean, target_std), name="lstm")


def _squares(x: Any) -> Any:
    return layers.Multiply(dtype="float32")([x, x])
