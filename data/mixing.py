"""Random bits that are a function of where they are used: a counter-based generator in TensorFlow ops.

The mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014), a bijection of 64 bits in which every input bit flips every output bit with a probability of about a half. A
key is made by adding a number to the key before, times the golden ratio in 64 bits, and mixing. All of it is integer
arithmetic on whole vectors, so one draw for a batch costs a dozen small ops, and a sample's bits don't depend on the batch
that it is in.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


def mix(bits: tf.Tensor) -> tf.Tensor:
    """SplitMix64's finaliser on uint64 of any shape."""
    bits = tf.bitwise.bitwise_xor(bits, _shift(bits, 30)) * _word(0xBF58476D1CE4E5B9)
    bits = tf.bitwise.bitwise_xor(bits, _shift(bits, 27)) * _word(0x94D049BB133111EB)
    return tf.bitwise.bitwise_xor(bits, _shift(bits, 31))


def combine(key: Any, number: Any) -> tf.Tensor:
    """A key, uint64, out of a key and a number (ints or int64 or uint64 tensors, broadcast): not yet mixed."""
    return _as_word(key) + (_as_word(number) + _word(1)) * _word(_GOLDEN)


def keys(seed: int, epoch: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """One key, uint64 `[B]`, for each sample `index` `[B]` in its `epoch` `[B]` (both int64)."""
    return mix(combine(mix(combine(mix(combine(0, seed)), epoch)), index))


def draw(keys: tf.Tensor, number: int) -> tf.Tensor:
    """Fresh bits, uint64 `[B]`: another `number` gives other bits of the same samples."""
    return mix(combine(keys, number))


def integers(bits: tf.Tensor, count: int) -> tf.Tensor:
    """Bits to whole numbers from 0 to count - 1, int64, even to within count / 2**32 (count below 2**31)."""
    return tf.bitcast(_shift(_shift(bits, 32) * _word(count), 32), tf.int64)


def uniform(bits: tf.Tensor) -> tf.Tensor:
    """Bits to float32 in [0, 1), in steps of 2**-24."""
    return tf.cast(_shift(bits, 40), tf.float32) * tf.constant(2.0**-24)


def _word(value: int) -> tf.Tensor:
    return tf.constant(value & _WORD, tf.uint64)


def _as_word(value: Any) -> tf.Tensor:
    if isinstance(value, int):
        return _word(value)
    return value if value.dtype == tf.uint64 else tf.bitcast(tf.cast(value, tf.int64), tf.uint64)


def _shift(bits: tf.Tensor, count: int) -> tf.Tensor:
    return tf.bitwise.right_shift(bits, tf.constant(count, tf.uint64))
