"""A residual perceptron for tables (Gorishniy et al. 2021, "Revisiting deep learning models for tabular data")."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
from keras import layers

from loopwright.models.head import head

WIDTH, BLOCKS, DROPOUT = 256, 3, 0.1


def tabular(input_shape: Any, num_classes: Any, *, target_mean: Any = None, target_std: Any = None) -> keras.Model:
    """Pre-norm residual blocks over standardised numbers, ending in `[B, num_classes]` float32.

    Args:
      input_shape: of a vector, or a dict of shapes by name. Arrays are flattened, and all of a dict is concatenated.
      target_mean, target_std: of a target that is a number. The outputs are in its unit; without them they are logits.
    """
    if isinstance(input_shape, Mapping):
        inputs: Any = {name: keras.Input(shape, name=name) for name, shape in input_shape.items()}
        x = layers.Concatenate()([_vector(part) for part in inputs.values()])
    else:
        inputs = keras.Input(input_shape)
        x = _vector(inputs)
    x = layers.Dense(WIDTH)(x)
    for _ in range(BLOCKS):
        y = layers.LayerNormalization()(x)
        y = layers.Dense(WIDTH, activation="silu")(y)
        y = layers.Dropout(DROPOUT)(y)
        y = layers.Dense(WIDTH)(y)
        x = layers.Add()([x, y])
    x = layers.ReLU()(layers.LayerNormalization()(x))
    return keras.Model(inputs, head(x, num_classes, target_mean, target_std), name="tabular")


def _vector(x: Any) -> Any:
    """The numbers of an input as `[B, F]`."""
    return x if len(x.shape) == 2 else layers.Reshape((math.prod(x.shape[1:]),))(x)
