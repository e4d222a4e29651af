"""Random bits that are a function of where they are used: a counter-based generator in TensorFlow ops.

The mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014), a bijection of 64 bits in which every input bit flips every output bit with a probability of about a half. A
key is made by adding a number (plus one) times the golden ratio in 64 bits to the key before, and mixing. All of it is
integer arithmetic on whole vectors, so one draw for a batch costs a dozen small ops, and a sample's bits don't depend on
the batch that it is in.
"""

from __future__ import annotations

import tensorflow as tf

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


def mix(bits: tf.Tensor) -> tf.Tensor:
    """SplitMix64's finaliser on uint64 of any shape."""
    bits = tf.bitwise.bitwise_xor(bits, _shift(bits, 30)) * _word(0xBF58476D1CE4E5B9)
    bits = tf.bitwise.bitwise_xor(bits, _shift(bits, 27)) * _word(0x94D049BB133111EB)
    return tf.bitwise.bitwise_xor(bits, _shift(bits, 31))


def mix_number(bits: int) -> int:
    """`mix` of one Python number below 2**64."""
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & _WORD
    return bits ^ bits >> 31


def seed_key(seed: int) -> int:
    """The key of a seed: where every other key begins."""
    return mix_number((seed + 1) * _GOLDEN & _WORD)


def epoch_key(seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """The key, uint64, of an epoch (int64 of any shape) under a seed."""
    return mix(_word(seed_key(seed) + _GOLDEN) + _times_golden(epoch))


def sample_keys(seed: int, epoch: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """One key, uint64 `[B]`, for each sample `index` `[B]` in its `epoch` `[B]` (both int64)."""
    return mix(epoch_key(seed, epoch) + _times_golden(index) + _word(_GOLDEN))


def draw(keys: tf.Tensor, number: int) -> tf.Tensor:
    """64 fresh bits for each key, uint64 `[B]`: another `number` gives other bits of the same samples."""
    return mix(keys + _word((number + 1) * _GOLDEN))


def integers(bits: tf.Tensor, count: int) -> tf.Tensor:
    """The upper 32 bits to whole numbers from 0 to count - 1, int64, even to within count / 2**32 (count below 2**31)."""
    return tf.bitcast(_shift(_shift(bits, 32) * _word(count), 32), tf.int64)


def two_integers(bits: tf.Tensor, first: int, second: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Two independent whole numbers out of one draw: the first as `integers`, the second from the lower 32 bits."""
    lower = tf.bitwise.bitwise_and(bits, _word(0xFFFFFFFF))
    return integers(bits, first), tf.bitcast(_shift(lower * _word(second), 32), tf.int64)


def uniform(bits: tf.Tensor) -> tf.Tensor:
    """Bits to float32 in [0, 1), in steps of 2**-24."""
    return tf.cast(_shift(bits, 40), tf.float32) * tf.constant(2.0**-24)


def _word(value: int) -> tf.Tensor:
    return tf.constant(value & _WORD, tf.uint64)


def _times_golden(number: tf.Tensor) -> tf.Tensor:
    return tf.bitcast(number, tf.uint64) * _word(_GOLDEN)


def _shift(bits: tf.Tensor, count: int) -> tf.Tensor:
    return tf.bitwise.right_shift(bits, tf.constant(count, tf.uint64))
