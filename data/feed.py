"""Feeds: the stream is a function of the step.

A batch is a dict of tensors: `x` `[B, ...]` float32, `y` `[B]` int64, `index` `[B]` int64 (the sample's place in its
split). What comes after a step is a pure function of (seed, step, shard), so a resumed run re-creates its stream at the
step where it stopped and no iterator is ever saved.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

Batch = dict[str, tf.Tensor]


class Feed(Protocol):
    """A stream of batches that can be opened at any step."""

    @property
    def steps_per_epoch(self) -> int: ...

    @property
    def examples_per_epoch(self) -> int: ...

    @property
    def element_spec(self) -> dict[str, tf.TensorSpec]: ...

    def __call__(self, start_step: int = 0) -> tf.data.Dataset: ...

    def shard(self, index: int, count: int) -> Feed: ...

    def stacked(self, k: int) -> StackedFeed: ...


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayFeed:
    """A feed over arrays in memory.

    Shuffled feeds go on for ever: each epoch is a permutation of its own, without replacement, drawn by
    `index_shuffle` from (seed, epoch). Feeds in fixed order (`shuffle=False`) end after one epoch.

    Args:
      x: `[N, ...]`; uint8 is scaled to [0, 1] by multiplying with float32(1/255), other dtypes are passed as they are.
      y: `[N]` int64 labels.
      batch_size: samples in a global batch, 1 to N.
      drop_remainder: leave out the ragged last batch of each epoch.
      shard_index, shard_count: this feed gives every `shard_count`-th row of each global batch.

    Raises ValueError for a batch size or a shard out of range.
    """

    x: tf.Tensor
    y: tf.Tensor
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    drop_remainder: bool = False
    shard_index: int = 0
    shard_count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.num_examples:
            raise ValueError(f"batch_size={self.batch_size} must lie between 1 and the split's {self.num_examples}")
        if not 0 <= self.shard_index < self.shard_count <= self.batch_size:
            raise ValueError(f"shard {self.shard_index} of {self.shard_count}: must lie within 1 to the batch size")

    @property
    def num_examples(self) -> int:
        return int(self.x.shape[0])

    @property
    def steps_per_epoch(self) -> int:
        whole, rest = divmod(self.num_examples, self.batch_size)
        return whole + (rest > 0 and not self.drop_remainder)

    @property
    def examples_per_epoch(self) -> int:
        return min(self.num_examples, self.steps_per_epoch * self.batch_size)

    @functools.cached_property
    def element_spec(self) -> dict[str, tf.TensorSpec]:
        return self().element_spec

    def shard(self, index: int, count: int) -> ArrayFeed:
        """The part of every global batch that belongs to the replica `index` of `count`."""
        return dataclasses.replace(self, shard_index=index, shard_count=count)

    def stacked(self, k: int) -> StackedFeed:
        """The same stream with k consecutive batches a stack, for executions that run k steps as one program."""
        return StackedFeed(self, k)

    def indices(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The samples `[B]` int64 of a step and its epoch, both a pure function of (seed, step, shard)."""
        epoch, place = step // self.steps_per_epoch, step % self.steps_per_epoch
        start = place * self.batch_size
        stop = tf.minimum(start + self.batch_size, self.examples_per_epoch)
        positions = tf.range(start + self.shard_index, stop, self.shard_count, dtype=tf.int64)
        if not self.shuffle:
            return positions, epoch
        seed = tf.stack([tf.constant(self.seed, tf.int64), epoch])
        last = tf.constant(self.num_examples - 1, tf.int64)
        return tf.random.experimental.index_shuffle(positions, seed, last), epoch

    def batch(self, step: tf.Tensor) -> Batch:
        """The batch of a step: an int64 scalar tensor."""
        index, _ = self.indices(step)
        if self.examples_per_epoch % self.batch_size == 0 and self.batch_size % self.shard_count == 0:
            index = tf.ensure_shape(index, [self.batch_size // self.shard_count])
        return {"x": scale(tf.gather(self.x, index)), "y": tf.gather(self.y, index), "index": index}

    def __call__(self, start_step: int = 0) -> tf.data.Dataset:
        stop = np.iinfo(np.int64).max if self.shuffle else self.steps_per_epoch
        steps = tf.data.Dataset.range(start_step, stop)
        batches = steps.map(self.batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return batches.prefetch(tf.data.AUTOTUNE)


@dataclasses.dataclass(frozen=True)
class StackedFeed:
    """A feed whose elements are stacks `[K, B, ...]` of k consecutive batches, for feeds without ragged batches."""

    feed: Feed
    k: int

    def __call__(self, start_step: int = 0) -> tf.data.Dataset:
        return self.feed(start_step).batch(self.k)


def scale(x: tf.Tensor) -> tf.Tensor:
    """uint8 images to float32 in [0, 1]; anything else as it is.

    By multiplication: the graph optimiser turns a division by a constant into one, but not everywhere, and then the same
    pixels differ in the last bit inside and outside a compiled step.
    """
    return tf.cast(x, tf.float32) * tf.constant(np.float32(1 / 255)) if x.dtype == tf.uint8 else x


def array_feed(x: Any, y: Any, **options: Any) -> ArrayFeed:
    """An `ArrayFeed` over anything that converts to tensors, such as NumPy arrays."""
    return ArrayFeed(tf.convert_to_tensor(x), tf.convert_to_tensor(y), **options)
