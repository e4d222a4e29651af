"""Random bits that depend only on where they are used: a counter-based generator in TensorFlow ops.

The mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014). It is a bijection of 64 bits in which every input bit flips every output bit with a
probability of about one half. A new key is made from a key and a number: the key, plus (number + 1) times the golden
ratio in 64 bits, is mixed.

All of this is integer arithmetic on whole vectors. One draw for a batch costs about a dozen small ops, and the bits of
a sample don't depend on its batch.
"""

from __future__ import annotations

import tensorflow as tf

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


def mix(bits: tf.Tensor) -> tf.Tensor:
    """The finaliser of SplitMix64, for uint64 of any shape."""
    bits = tf.bitwise.bitwise_xor(bits, _shift(bits, 30)) * _word(0xBF58476D1CE4E5B9)
    bits = tf.bitwise.bitwise_xor(bits, _shift(bits, 27)) * _word(0x94D049BB133111EB)
    return tf.bitwise.bitwise_xor(bits, _shift(bits, 31))


def mix_number(bits: int) -> int:
    """`mix` for a Python number below 2**64."""
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & _WORD
    return bits ^ bits >> 31


def seed_key(seed: int) -> int:
    """The key of a seed. All other keys are made from it."""
    return mix_number((seed + 1) * _GOLDEN & _WORD)


def epoch_key(seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """The uint64 key of an epoch (int64 of any shape), given a seed."""
    return mix(_word(seed_key(seed) + _GOLDEN) + _times_golden(epoch))


def sample_keys(seed: int, epoch: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """A key for each sample, uint64 `[B]`, given its `index` and its `epoch` (both int64 `[B]`)."""
    return mix(epoch_key(seed, epoch) + _times_golden(index) + _word(_GOLDEN))


def draw(keys: tf.Tensor, number: int) -> tf.Tensor:
    """64 random bits for each key, uint64 `[B]`. Each `number` gives different bits for the same samples."""
    return mix(keys + _word((number + 1) * _GOLDEN))


def integers(bits: tf.Tensor, count: int) -> tf.Tensor:
    """Turns the upper 32 bits into whole numbers from 0 to count - 1, int64. `count` must be below 2**31.

    The numbers are equally likely to within count / 2**32.
    """
    return tf.bitcast(_shift(_shift(bits, 32) * _word(count), 32), tf.int64)


def two_integers(bits: tf.Tensor, first: int, second: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Two independent whole numbers from one draw: the first as in `integers`, the second from the lower 32 bits."""
    lower = tf.bitwise.bitwise_and(bits, _word(0xFFFFFFFF))
    return integers(bits, first), tf.bitcast(_shift(lower * _word(second), 32), tf.int64)


def uniform(bits: tf.Tensor) -> tf.Tensor:
    """Turns bits into float32 in [0, 1), in steps of 2**-24."""
    return tf.cast(_shift(bits, 40), tf.float32) * tf.constant(2.0**-24)


def _word(value: int) -> tf.Tensor:
    return tf.constant(value & _WORD, tf.uint64)


def _times_golden(number: tf.Tensor) -> tf.Tensor:
    return tf.bitcast(number, tf.uint64) * _word(_GOLDEN)


def _shift(bits: tf.Tensor, count: int) -> tf.Tensor:
    return tf.bitwise.right_shift(bits, tf.constant(count, tf.uint64))
