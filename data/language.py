"""Language models: the texts of a split as one row of tokens, cut into windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from loopwright.data.autograph import no_autograph
from loopwright.data.errors import DataError
from loopwright.data.splits import READ_AT_ONCE
from loopwright.data.text import TextPreprocessing, token_ids


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageSplit:
    """Windows over a row of tokens in memory. A sample is a window, with the next token of each of its positions.

    Window number `i` begins at the token `i * stride`. Tokens at the end that don't fill a window are left out.

    Args:
      tokens: `[N]` int32.
      length: T, the number of tokens in a window.
      stride: the distance between the beginnings of two windows.
    """

    tokens: tf.Tensor
    length: int
    stride: int

    @property
    def num_examples(self) -> int:
        room = int(self.tokens.shape[0]) - self.length - 1
        return room // self.stride + 1 if room >= 0 else 0

    @property
    def specs(self) -> dict[str, Any]:
        return {"x": tf.TensorSpec([self.length], tf.int32), "y": tf.TensorSpec([self.length], tf.int64)}

    def gather(self, index: tf.Tensor) -> dict[str, Any]:
        """The windows at places `[B]` int64: tokens `x` `[B, T]` int32, and the next tokens `y` `[B, T]` int64."""
        places = index[:, tf.newaxis] * self.stride + tf.range(self.length + 1, dtype=tf.int64)
        tokens = tf.gather(self.tokens, places)
        return {"x": tokens[:, :-1], "y": tf.cast(tokens[:, 1:], tf.int64)}

    def in_order(self, start: int, stop: int, *, bad: Collection[int] = ()) -> tf.data.Dataset:
        """The windows at places `start` to `stop - 1`, in batches."""
        index = tf.data.Dataset.range(start, stop).batch(READ_AT_ONCE)
        return index.map(no_autograph(self.gather), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(2)

    def read_one(self, index: int) -> None:
        """Does nothing: the tokens have been read."""

    def describe(self, index: int) -> str:
        """Where a window lies."""
        first = index * self.stride
        return f"tokens {first} to {first + self.length}"


def language_split(
    batches: Iterable[Mapping[str, Any]], preprocessing: TextPreprocessing, split: str, *, overlap: bool
) -> LanguageSplit:
    """The windows over the texts in batches of raw samples. A separator stands between texts, if the vocabulary has one.

    With `overlap`, a window begins at every half of the length, so that training sees each token after a long past and after
    a short one. Without, each token is predicted once.

    Raises DataError (exit 2) if the texts don't fill a window.
    """
    separator = np.array([len(preprocessing.vocabulary) - 1] if preprocessing.separator else [], np.int32)
    parts: list[np.ndarray] = []
    for batch in batches:
        for ids in token_ids(preprocessing, batch["x"]):
            parts += [*([separator] if parts else []), ids]
    row = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    length = preprocessing.sequence_length
    if len(row) <= length:
        raise DataError(
            f"the split {split!r} holds {len(row)} tokens, and a window takes {length} and the next one; choose "
            f"sequence_length below {len(row)}",
            exit_code=2,
        )
    with tf.device("CPU:0"):
        return LanguageSplit(tf.constant(row), length, max(length // 2, 1) if overlap else length)
