"""A small GPT (Radford et al. 2019): a causal decoder of 4 blocks of width 128 with 4 heads, and tied embeddings."""

from __future__ import annotations

import keras
from keras import layers

from loopwright.models.attention import block, with_positions

WIDTH, HEADS, BLOCKS, DROPOUT = 128, 4, 4, 0.1


def gpt(input_shape: tuple[int, ...], num_classes: int, *, vocabulary_size: int) -> keras.Model:
    """A decoder of token ids `[B, T]` int32, ending in logits `[B, T, vocabulary]` float32 of the token after each position.

    Position `t` sees positions 0 to `t` alone. A shorter text is padded at its end; the outputs at its last token count.
    """
    (length,) = input_shape
    ids = keras.Input((length,), dtype="int32")
    # It doesn't cast its weights by itself, so under mixed precision another dtype would depend on the model around it.
    embedding = layers.ReversibleEmbedding(
        vocabulary_size,
        WIDTH,
        embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02),
        reverse_dtype="float32",
        dtype="float32",
    )
    x = with_positions(embedding(ids))
    x = layers.Dropout(DROPOUT)(x)
    for _ in range(BLOCKS):
        x = block(x, HEADS, DROPOUT, use_causal_mask=True)
    x = layers.LayerNormalization()(x)
    return keras.Model(ids, embedding(x, reverse=True), name="gpt")
