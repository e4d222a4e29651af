"""What transformers are made of (Vaswani et al. 2017). All layers are of Keras, so plain Keras opens every export."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers


def with_positions(x: Any) -> Any:
    """A linear map of embeddings `[B, T, D]`, plus a learned vector for each position.

    The vectors are the bias of an `EinsumDense`, because Keras has no layer of positions. `T` is therefore fixed.
    """
    length, width = x.shape[1:]
    return layers.EinsumDense(
        "btk,kd->btd",
        (length, width),
        bias_axes="td",
        bias_initializer=keras.initializers.RandomNormal(stddev=0.02),
        name="positions",
    )(x)


def block(x: Any, heads: int, dropout: float, **attention: Any) -> Any:
    """A pre-norm block (Xiong et al. 2020) over `[B, T, D]`: self-attention, then a perceptron of four times the width.

    Args:
      attention: what the attention is called with, such as `use_causal_mask=True` or an `attention_mask`.
    """
    width = x.shape[-1]
    y = layers.LayerNormalization()(x)
    y = layers.MultiHeadAttention(heads, width // heads)(y, y, **attention)
    x = layers.Add()([x, layers.Dropout(dropout)(y)])
    y = layers.LayerNormalization()(x)
    y = layers.Dense(4 * width, activation="gelu")(y)
    y = layers.Dense(width)(y)
    return layers.Add()([x, layers.Dropout(dropout)(y)])
