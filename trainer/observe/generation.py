"""Texts that a language model writes, token by token, from the end of a prompt.

A model sees a window of T tokens, the context that it was trained with. A shorter text stands at the window's beginning,
with padding after it, and a longer one is seen as its last T tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from loopwright.trainer.base.graph_writes import written_variables
from loopwright.trainer.core.evaluation import put_back
from loopwright.trainer.core.optimizers import averaged_weights
from loopwright.trainer.core.state import TrainState

#: The token that fills windows. It is never written.
PADDING = 0


def next_tokens(call: Callable[[np.ndarray], Any], prompts: np.ndarray, count: int, context: int) -> np.ndarray:
    """The likeliest `count` tokens after prompts, each chosen after those before it: `[P, count]` int64.

    It works for any callable, so that a model can be compared with its exports.

    Args:
      call: gives logits or probabilities `[P, T, V]` of the token after each position, from token ids `[P, T]` int32.
      prompts: token ids `[P, p]`, at least one for each prompt.
      context: T.
    """
    row = np.asarray(prompts, np.int32)
    for _ in range(count):
        seen = row[:, -context:]
        window = np.pad(seen, [(0, 0), (0, context - seen.shape[1])], constant_values=PADDING)
        scores = np.array(call(window), np.float32)[:, seen.shape[1] - 1]
        scores[:, PADDING] = -np.inf
        row = np.concatenate([row, scores.argmax(axis=-1).astype(np.int32)[:, np.newaxis]], axis=1)
    return row[:, np.shape(prompts)[1] :].astype(np.int64)


def writer(
    state: TrainState, context: int, *, activated: bool = False, temperature: float = 0.8, seed: int = 0
) -> Callable[[np.ndarray, int], np.ndarray]:
    """A function `(prompts, count)` that gives the next `count` tokens `[P, count]` int64, in one compiled call.

    If the optimizer averages weights, the averages write. What the model changes is put back, so that the function changes
    no bit of a run. The same seed and weights write the same tokens.

    Args:
      context: T, the number of tokens that the model takes.
      activated: whether the model gives probabilities.
      temperature: what logits are divided by before a token is drawn. 0 takes the likeliest token.
    """

    def of_position(scores: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        logits = tf.math.log(scores) if activated else scores
        logits = tf.where(tf.range(tf.shape(logits)[-1]) == PADDING, -np.inf, logits)
        if temperature == 0:
            return tf.argmax(logits, axis=-1)
        return tf.random.stateless_categorical(logits / temperature, 1, seed=tf.stack([seed, number]))[:, 0]

    def write(window: tf.Tensor, length: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        def step(number: tf.Tensor, window: tf.Tensor, length: tf.Tensor, found: tf.TensorArray) -> tuple[Any, ...]:
            outputs = tf.cast(state.model(window, training=False), tf.float32)
            token = of_position(outputs[:, length - 1], number)
            full = length == context
            window = tf.where(full, tf.roll(window, -1, axis=1), window)
            place = tf.where(full, context - 1, length)
            window = tf.where(tf.range(context) == place, tf.cast(token, window.dtype)[:, tf.newaxis], window)
            return number + 1, window, tf.minimum(length + 1, context), found.write(number, token)

        begun = (tf.constant(0), window, length, tf.TensorArray(tf.int64, count, element_shape=[None]))
        *_, found = tf.while_loop(lambda number, *_: number < count, step, begun)
        return tf.transpose(found.stack())

    spec = [tf.TensorSpec([None, context], tf.int32), tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.int32)]
    traced = tf.function(write, input_signature=spec, autograph=False)

    @functools.cache
    def changed() -> list[tf.Variable]:
        return written_variables(traced.get_concrete_function())

    def run(prompts: np.ndarray, count: int) -> np.ndarray:
        seen = np.asarray(prompts, np.int32)[:, -context:]
        window = np.pad(seen, [(0, 0), (0, context - seen.shape[1])], constant_values=PADDING)
        with averaged_weights(state.model, state.optimizer), put_back(changed()):
            return traced(window, tf.constant(seen.shape[1]), tf.constant(count)).numpy()

    return run
