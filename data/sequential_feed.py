"""The sequential feed: it takes samples one after the other, such as files that are read from front to back."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from loopwright.data import stateless_random
from loopwright.data.autograph import no_autograph
from loopwright.data.feed import Epochs, make_batch
from loopwright.data.protocols import Augmentation, Batch
from loopwright.data.scaling import AUTO, Scaling
from loopwright.data.splits import READ_AT_ONCE, RecordSplit
from loopwright.data.stacked_feed import StackedFeed, stack_batches

_FILES_AT_ONCE = 16
_RECORDS_IN_A_ROW = 16

#: Gives the samples of an epoch (its number, an int64 scalar) in order: pairs of a sample's index and its stored form.
Order = Callable[[tf.Tensor], tf.data.Dataset]


@dataclasses.dataclass(frozen=True, eq=False)
class SequentialFeed:
    """A feed over samples that come one after the other. Each epoch may have a different order.

    The stream is a function of the step as long as the order is a function of the epoch. Two things cost more than in a
    random-access feed: opening the stream inside an epoch reads (but doesn't decode) the epoch's samples up to that
    step, and each shard reads all samples of the global batch.

    Args:
      order: gives the samples of an epoch.
      decode: turns a batch of stored samples, as `order` gives them, into raw samples.
      epochs: the number of samples in an epoch, and how they are divided into batches.
      augment: applied to `x` as stored, or None.
      scaling: which inputs are scaled to [0, 1].
    """

    order: Order
    decode: Callable[[Any], Batch]
    epochs: Epochs
    augment: Augmentation | None = None
    scaling: Scaling = AUTO

    @property
    def steps_per_epoch(self) -> int:
        return self.epochs.steps_per_epoch

    @property
    def examples_per_epoch(self) -> int:
        return self.epochs.examples_per_epoch

    @property
    def has_ragged_batch(self) -> bool:
        return self.epochs.has_ragged_batch

    @property
    def end(self) -> int | None:
        return self.epochs.end

    @functools.cached_property
    def element_spec(self) -> dict[str, Any]:
        return self().element_spec

    @functools.cached_property
    def stored(self) -> dict[str, Any]:
        """The specs of the batches as they are stored: before augmentation and scaling."""
        batches = self.order(tf.constant(0, tf.int64)).batch(1)
        return batches.map(no_autograph(lambda index, stored: self.decode(stored))).element_spec

    def scaled(self, mode: str) -> SequentialFeed:
        """The same feed with another `Scaling.mode`."""
        return dataclasses.replace(self, scaling=dataclasses.replace(self.scaling, mode=mode))

    def shard(self, index: int, count: int) -> SequentialFeed:
        """The part of every global batch that belongs to replica `index` of `count`."""
        return dataclasses.replace(self, epochs=self.epochs.shard(index, count))

    def stacked(self, k: int) -> StackedFeed:
        """The same stream in stacks of k consecutive batches; see `StackedFeed`."""
        return StackedFeed(self, k, stack_batches)

    @functools.cached_property
    def _traced(self) -> Callable[..., Batch]:
        return tf.function(self._batch, autograph=False)

    def __call__(self, start_step: int = 0) -> tf.data.Dataset:
        first_epoch, place = divmod(start_step, self.steps_per_epoch)
        last = np.iinfo(np.int64).max if self.epochs.shuffle else 1

        def from_start(epoch: tf.Tensor) -> tf.data.Dataset:
            done = tf.where(epoch == first_epoch, tf.constant(place * self.epochs.batch_size, tf.int64), 0)
            batches = self.order(epoch).take(self.examples_per_epoch).skip(done).batch(self.epochs.batch_size)
            return batches.map(no_autograph(lambda index, stored: (epoch, index, stored)))

        batches = tf.data.Dataset.range(first_epoch, max(last, first_epoch)).flat_map(no_autograph(from_start))
        batches = batches.map(no_autograph(self._traced), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return batches.prefetch(tf.data.AUTOTUNE)

    def _batch(self, epoch: tf.Tensor, index: tf.Tensor, stored: Any) -> Batch:
        there = tf.size(index)
        rows = tf.range(self.epochs.batch_size if self.epochs.pad else there)
        rows = rows[self.epochs.shard_index :: self.epochs.shard_count]
        if self.epochs.rows is not None:
            rows = tf.ensure_shape(rows, [self.epochs.rows])
        index, stored = tf.nest.map_structure(
            lambda part: tf.gather(part, tf.minimum(rows, there - 1)), (index, stored)
        )
        mask = rows < there if self.epochs.pad else None
        epochs = tf.fill(tf.shape(index), epoch)
        raw = self.decode(stored)
        return make_batch(raw, index, epochs, mask=mask, augment=self.augment, scaling=self.scaling)


def sequential_feed(
    split: RecordSplit,
    epochs: Epochs,
    *,
    seed: int = 0,
    augment: Augmentation | None = None,
    buffer_size: int = 10_000,
    bad: Sequence[int] = (),
    scaling: Scaling = AUTO,
) -> SequentialFeed:
    """A feed over record files that can't be read at random, such as TFRecord files.

    Each epoch takes the files in an order drawn from (seed, epoch) and reads 16 of them in turns. It mixes the records
    in a buffer of `buffer_size` records, whose draws come from (seed, epoch), too. Samples mix only as far as the
    buffer reaches. Records at the places in `bad` are left out. Without `epochs.shuffle`, the samples come in the order
    of their places.
    """
    files = split.files
    columns = (
        [file.path for file in files.files],
        np.array([file.skip for file in files.files], np.int64),
        np.array([file.take for file in files.files], np.int64),
        np.array(files.starts[:-1], np.int64),
    )

    def samples_of(number: tf.Tensor) -> tf.data.Dataset:
        path, skip, take, first = (tf.gather(tf.constant(column), number) for column in columns)
        index = tf.data.Dataset.range(first, first + take)
        if bad:  # These records are read by place, because TensorFlow's reader stops at a damaged record.
            good = index.filter(no_autograph(lambda place: tf.reduce_all(place != tf.constant(list(bad), tf.int64))))
            places = good.batch(READ_AT_ONCE)
            return places.map(no_autograph(lambda places: (places, files.read_tensor(places)))).unbatch()
        # If a file was cut off at the end of a record, the reader takes that for its end. This notices missing records.
        whole = tf.data.experimental.assert_cardinality(take)
        return tf.data.Dataset.zip(index, files.of_file(path, skip, take).apply(whole))

    def order(epoch: tf.Tensor) -> tf.data.Dataset:
        numbers = tf.range(len(files.files), dtype=tf.int64)
        if epochs.shuffle:
            seeds = tf.stack([tf.constant(seed, tf.int64), epoch])
            numbers = tf.random.experimental.index_shuffle(numbers, seeds, tf.constant(len(files.files) - 1, tf.int64))
        samples = tf.data.Dataset.from_tensor_slices(numbers).interleave(
            no_autograph(samples_of),
            cycle_length=min(_FILES_AT_ONCE, len(files.files)) if epochs.shuffle else 1,
            block_length=_RECORDS_IN_A_ROW,
        )
        return _shuffled(samples, stateless_random.epoch_key(seed, epoch), buffer_size) if epochs.shuffle else samples

    return SequentialFeed(order, split.decoder, epochs, augment, scaling)


def _shuffled(samples: tf.data.Dataset, bits: tf.Tensor, buffer_size: int) -> tf.data.Dataset:
    """`Dataset.shuffle` by its op, because the method would mix TensorFlow's global seed into ours."""
    spec = samples.element_spec
    flat = tf.nest.flatten(spec)
    shuffled = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(samples),
        buffer_size=tf.constant(buffer_size, tf.int64),
        seed=tf.bitcast(bits, tf.int64),
        seed2=tf.constant(1, tf.int64),
        output_types=[part.dtype for part in flat],
        output_shapes=[part.shape for part in flat],
        reshuffle_each_iteration=False,
    )
    return tf.data.experimental.from_variant(shuffled, spec)
