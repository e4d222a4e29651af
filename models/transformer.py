"""A small transformer encoder for texts: 2 blocks of width 64 with 4 heads."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from loopwright.models.attention import block, with_positions
from loopwright.models.head import head

WIDTH, HEADS, BLOCKS, DROPOUT = 64, 4, 2, 0.1


def transformer(
    input_shape: tuple[int, ...],
    num_classes: Any,
    *,
    vocabulary_size: int,
    output_shape: Any = None,
    target_mean: Any = None,
    target_std: Any = None,
) -> keras.Model:
    """An encoder of token ids `[B, T]` int32, in which 0 is padding, ending in `[B, num_classes]` float32.

    The positions are pooled by learned weights, in which padding has no part. Where `output_shape` is that of a target for
    each position, nothing is pooled and the outputs are `[B, T, num_classes]`.
    """
    (length,) = input_shape
    ids = keras.Input((length,), dtype="int32")
    x = with_positions(layers.Embedding(vocabulary_size, WIDTH)(ids))
    x = layers.Dropout(DROPOUT)(x)
    tokens = layers.Reshape((1, length))(ids)  # Attention takes every id but 0 for True.
    for _ in range(BLOCKS):
        x = block(x, HEADS, DROPOUT, attention_mask=tokens)
    x = layers.LayerNormalization()(x)
    if not isinstance(output_shape, tuple) or len(output_shape) < 2:
        scores = layers.Reshape((length,))(layers.Dense(1)(x))
        weights = layers.Softmax()(scores, mask=ids)  # zeros for a text without a token
        x = layers.Dot(axes=1)([weights, x])
    return keras.Model(ids, head(x, num_classes, target_mean, target_std), name="transformer")
