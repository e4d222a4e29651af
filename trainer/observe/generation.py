"""Texts that a language model writes, token by token, from the end of a prompt.

A model sees a window of T tokens, the context that it was trained with. A shorter text stands at the window's beginning,
with padding after it, and a longer one is seen as its last T tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from loopwright.trainer.base.graph_writes import written_variables
from loopwright.trainer.core.evaluation import put_back
from loopwright.trainer.core.optimizers import averaged_weights
from loopwright.trainer.core.state import TrainState

#: The token that fills windows. It is never written.
PADDING = 0


def continued(
    call: Callable[[np.ndarray], Any],
    prompts: Sequence[Sequence[int]],
    context: int,
    count: int,
    *,
    never: Sequence[int] = (PADDING,),
    end: int | None = None,
    **drawing: Any,
) -> list[list[int]]:
    """The next `count` tokens after each prompt, or fewer where the text ends.

    It works for any callable, so that a model, its exports and other programs can be compared.

    Args:
      call: gives logits (or the logarithms of probabilities) `[P, T, V]` of the token after each position, from token ids
        `[P, T]` int32.
      prompts: token ids, at least one for each prompt.
      context: T.
      never: tokens that are never written.
      end: the token that ends a text, which isn't part of it; None if there is none.
      drawing: `temperature` and `seed` of `_Drawing`.
    """
    draw = _Drawing(**drawing)
    rows, open_rows = [list(prompt) for prompt in prompts], set(range(len(prompts)))
    for _ in range(count):
        if not open_rows:
            break
        window = np.full([len(rows), context], PADDING, np.int32)
        for place, row in enumerate(rows):
            window[place, : min(len(row), context)] = row[-context:]
        scores = np.asarray(call(window))
        for place in sorted(open_rows):
            of_token = scores[place, min(len(rows[place]), context) - 1].astype(np.float64)
            of_token[list(never)] = -np.inf
            token = draw(of_token)
            if token == end:
                open_rows.remove(place)
            else:
                rows[place].append(token)
    return [row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]


class _Drawing:
    """Chooses tokens.

    A temperature of 0 takes the likeliest. Above it, tokens are drawn with a probability proportional to
    `p ** (1 / temperature)`, by Gumbel's trick. The same seed draws the same tokens.
    """

    def __init__(self, temperature: float = 0.0, seed: int = 0) -> None:
        self.temperature, self._rng = temperature, np.random.default_rng(seed)

    def __call__(self, scores: np.ndarray) -> int:
        if self.temperature:
            scores = scores / self.temperature + self._rng.gumbel(size=scores.shape)
        return int(scores.argmax())


def writer(
    state: TrainState, context: int, *, activated: bool = False, **options: Any
) -> Callable[[Sequence[Sequence[int]], int], list[list[int]]]:
    """`continued` for the model of a state: a function of the prompts and the number of tokens. It is compiled once.

    If the optimizer averages weights, the averages write. What the model changes is put back, so that the function changes
    no bit of a run.

    Args:
      context: T, the number of tokens that the model takes.
      activated: whether the model gives probabilities.
      options: `never`, `end`, `temperature` and `seed` of `continued`.
    """

    def apply(ids: tf.Tensor) -> tf.Tensor:
        outputs = tf.cast(state.model(ids, training=False), tf.float32)
        return tf.math.log(outputs) if activated else outputs

    traced = tf.function(apply, input_signature=[tf.TensorSpec([None, context], tf.int32)])

    @functools.cache
    def changed() -> list[tf.Variable]:
        return written_variables(traced.get_concrete_function())

    def run(prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        with averaged_weights(state.model, state.optimizer), put_back(changed()):
            return continued(lambda ids: traced(ids).numpy(), prompts, context, count, **options)

    return run
