"""The random-access feed and what every feed is made of: the arithmetic of epochs, and the last step to a batch.

`protocols` says what a batch holds and what every feed promises.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from loopwright.data.autograph import no_autograph
from loopwright.data.memory import MemorySource
from loopwright.data.protocols import Augmentation, Batch, Source
from loopwright.data.protocols import Feed as Feed  # where users of `array_feed` look for its type
from loopwright.data.scaling import AUTO, Scaling
from loopwright.data.scaling import scale as scale  # where users of a feed look for it
from loopwright.data.stacked_feed import StackedFeed

#: `tf.random.experimental.index_shuffle` puts this number before its two seeds. With it, permutations equal its own.
_INDEX_SHUFFLE_SEED = 498247692


@dataclasses.dataclass(frozen=True)
class Epochs:
    """The arithmetic of epochs, which all feeds share.

    A shuffled feed never ends. A feed in fixed order ends after one epoch. With `pad` every batch has `batch_size`
    rows: the last batch of an epoch is filled up with the last sample, and `mask` is false in these rows. These rows count
    as `fit` counts samples of weight 0: they add nothing to the loss that is differentiated, but its mean is taken over all
    rows. So the last batch of an epoch has smaller gradients. Metrics are means over the real rows.

    Raises ValueError for a batch size or a shard out of range, and for `pad` together with `drop_remainder`.
    """

    num_examples: int
    batch_size: int
    shuffle: bool = True
    drop_remainder: bool = False
    pad: bool = False
    shard_index: int = 0
    shard_count: int = 1

    def __post_init__(self) -> None:
        if min(self.batch_size, self.num_examples) < 1:
            raise ValueError(
                f"batch_size={self.batch_size} and num_examples={self.num_examples}: both must be at least 1"
            )
        if self.batch_size > self.num_examples and not self.pad:
            raise ValueError(
                f"batch_size={self.batch_size} must lie between 1 and the number of samples, {self.num_examples}; "
                "choose a smaller batch size, or pad=True"
            )
        if not 0 <= self.shard_index < self.shard_count <= self.batch_size:
            raise ValueError(
                f"shard {self.shard_index} of {self.shard_count}: the number of shards must lie between 1 and "
                f"batch_size={self.batch_size}, and the index must be smaller than that number"
            )
        if self.pad and self.drop_remainder:
            raise ValueError(
                "pad=True and drop_remainder=True exclude each other: one fills up the last batch, the other leaves it "
                "out; give one of them"
            )

    @property
    def steps_per_epoch(self) -> int:
        whole, rest = divmod(self.num_examples, self.batch_size)
        return whole + (rest > 0 and not self.drop_remainder)

    @property
    def examples_per_epoch(self) -> int:
        return min(self.num_examples, self.steps_per_epoch * self.batch_size)

    @property
    def has_ragged_batch(self) -> bool:
        return self.examples_per_epoch % self.batch_size != 0 and not self.pad

    @property
    def end(self) -> int | None:
        return None if self.shuffle else self.steps_per_epoch

    @property
    def rows(self) -> int | None:
        """The number of rows in every batch of this shard, or None if it varies."""
        if self.has_ragged_batch:
            return None
        return len(range(self.shard_index, self.batch_size, self.shard_count))

    def shard(self, index: int, count: int) -> Epochs:
        """The same epochs as replica `index` of `count` sees them."""
        return dataclasses.replace(self, shard_index=index, shard_count=count)


@dataclasses.dataclass(frozen=True, eq=False)
class RandomAccessFeed:
    """A feed over a source whose samples can be read in any order, from memory or from files.

    Each epoch is a new permutation of the samples, drawn by `index_shuffle` from (seed, epoch). This shuffles the whole
    split without a buffer, and the feed opens at any step in constant time. The batches don't depend on the kind of
    source.

    A shard gives every `shard_count`-th row of each global batch. If a ragged batch has fewer rows than there are
    shards, the last shards get no rows; choose `pad` or `drop_remainder` where that does harm.

    Args:
      source: where the samples are.
      epochs: the number of samples without the bad ones, and how they are divided into batches.
      seed: the seed of the permutations, 64 bits.
      augment: applied to `x` as stored, or None. Images stored as integers may come out as floats, which must then lie in
        [0, 1].
      bad: the places of the source that are left out, in rising order.
      scaling: which inputs are scaled to [0, 1].

    Raises ValueError if `epochs` and `bad` don't add up to the samples of the source.
    """

    source: Source
    epochs: Epochs
    seed: int = 0
    augment: Augmentation | None = None
    bad: tuple[int, ...] = ()
    scaling: Scaling = AUTO

    def __post_init__(self) -> None:
        if self.epochs.num_examples + len(self.bad) != self.source.num_examples:
            raise ValueError(
                f"{self.epochs.num_examples} good and {len(self.bad)} bad samples don't add up to the "
                f"{self.source.num_examples} samples of the source; give epochs with num_examples="
                f"{self.source.num_examples - len(self.bad)}"
            )

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
        index = tf.data.Dataset.from_tensors(tf.zeros([1], tf.int64)).map(lambda place: tf.reshape(place, [-1]))
        return index.map(no_autograph(self.source.gather)).element_spec

    def scaled(self, mode: str) -> RandomAccessFeed:
        """The same feed with another `Scaling.mode`."""
        return dataclasses.replace(self, scaling=dataclasses.replace(self.scaling, mode=mode))

    def shard(self, index: int, count: int) -> RandomAccessFeed:
        """The part of every global batch that belongs to replica `index` of `count`."""
        return dataclasses.replace(self, epochs=self.epochs.shard(index, count))

    def stacked(self, k: int) -> StackedFeed:
        """The same stream in stacks of k consecutive batches. Each stack is read in one go; see `StackedFeed`."""
        return StackedFeed(self, k, lambda stacked, start_step: self._stacks(stacked, start_step))

    def places(self, steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Which samples the steps `[K]` int64 see: `index`, `epoch` (int64) and `mask` (bool), each `[K, B]`.

        This is a pure function of (seed, step, shard). All of these steps must have batches of the same size.
        """
        epochs = self.epochs
        epoch, first = steps // self.steps_per_epoch, steps % self.steps_per_epoch * epochs.batch_size
        rows = tf.range(epochs.batch_size, dtype=tf.int64)
        if epochs.has_ragged_batch:
            rows = rows[: tf.minimum(epochs.examples_per_epoch - first[0], epochs.batch_size)]
        position = first[:, tf.newaxis] + rows
        mask = position < epochs.num_examples
        position = tf.minimum(position, epochs.num_examples - 1)
        epoch = tf.broadcast_to(epoch[:, tf.newaxis], tf.shape(position))
        index = self._without_bad(self._shuffled(position, epoch) if epochs.shuffle else position)
        mine = slice(epochs.shard_index, None, epochs.shard_count)
        return index[:, mine], epoch[:, mine], mask[:, mine]

    def batch(self, step: tf.Tensor) -> Batch:
        """The batch of a step, which is an int64 scalar tensor."""
        index, epoch, mask = (part[0] for part in self.places(tf.reshape(step, [1])))
        if self.epochs.rows is not None:
            index, epoch, mask = (tf.ensure_shape(part, [self.epochs.rows]) for part in (index, epoch, mask))
        return make_batch(
            self.source.gather(index),
            index,
            epoch,
            mask=mask if self.epochs.pad else None,
            augment=self.augment,
            scaling=self.scaling,
        )

    @functools.cached_property
    def _traced(self) -> Callable[[tf.Tensor], Batch]:
        """`batch` as a graph. It is traced once, however often the feed is opened."""
        return tf.function(self.batch, autograph=False)

    def __call__(self, start_step: int = 0) -> tf.data.Dataset:
        stop = np.iinfo(np.int64).max if self.end is None else self.end
        steps = tf.data.Dataset.range(start_step, max(stop, start_step))
        batches = steps.map(no_autograph(self._traced), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return batches.prefetch(tf.data.AUTOTUNE)

    def _shuffled(self, position: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
        """The places that stand at the positions `[K, B]` of the permutations; each position names its epoch."""
        flat = tf.reshape(epoch, [-1])
        seeds = [tf.fill(tf.shape(flat), tf.constant(part, tf.int64)) for part in (_INDEX_SHUFFLE_SEED, self.seed)]
        index = tf.raw_ops.RandomIndexShuffle(
            index=tf.reshape(position, [-1]),
            seed=tf.stack([*seeds, flat], axis=1),
            max_index=tf.constant(self.epochs.num_examples - 1, tf.int64),
            rounds=4,
        )
        return tf.reshape(index, tf.shape(position))

    def _without_bad(self, index: tf.Tensor) -> tf.Tensor:
        """Turns places among the good samples into places among all samples."""
        if not self.bad:
            return index
        good_before = tf.constant([place - number for number, place in enumerate(self.bad)], tf.int64)
        skipped = tf.searchsorted(good_before, tf.reshape(index, [-1]), side="right", out_type=tf.int64)
        return index + tf.reshape(skipped, tf.shape(index))

    def _stacks(self, stacked: StackedFeed, start_step: int) -> tf.data.Dataset:
        def stack(begin: tf.Tensor) -> Batch:
            ahead = tf.minimum(tf.range(stacked.rows(begin)), stacked.length_tensor(begin) - 1)
            index, epoch, mask = self.places(begin + ahead)
            if self.epochs.rows is not None:
                shape = [stacked.k, self.epochs.rows]
                index, epoch, mask = (tf.ensure_shape(part, shape) for part in (index, epoch, mask))
            flat = [tf.reshape(part, [-1]) for part in (index, epoch, mask)]
            batch = make_batch(
                self.source.gather(flat[0]),
                *flat[:2],
                mask=flat[2] if self.epochs.pad else None,
                augment=self.augment,
                scaling=self.scaling,
            )
            return tf.nest.map_structure(lambda tensor: _fold(tensor, index), batch)

        stacks = stacked.starts(start_step).map(
            no_autograph(stack), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        return stacks.prefetch(1)


def make_batch(
    raw: Batch,
    index: tf.Tensor,
    epoch: tf.Tensor,
    *,
    mask: tf.Tensor | None,
    augment: Augmentation | None,
    scaling: Scaling,
) -> Batch:
    """Makes a batch from raw samples, for every feed: augments and scales them, and adds their places."""
    x = raw["x"] if augment is None else augment(raw["x"], index, epoch)
    batch = {**raw, "x": scaling(x, raw["x"]), "index": index}
    return batch if mask is None else {**batch, "mask": mask}


def array_feed(
    x: Any,
    y: Any = None,
    batch_size: int = 32,
    *,
    sample_weight: Any = None,
    seed: int = 0,
    augment: Augmentation | None = None,
    scale: str = "auto",
    **options: Any,
) -> RandomAccessFeed:
    """A feed over arrays in memory: x `[N, ...]` (or a dict of such arrays), y `[N, ...]`, sample_weight `[N]`.

    Without `y`, batches hold no labels. That suits models that need none, such as an autoencoder with its own `train_step`.

    Images are scaled to [0, 1]: uint8 and uint16 inputs `[N, H, W, C]` or of higher rank. `scale="none"` leaves their
    values as they are, for a model that scales them itself. uint8 and uint16 inputs of lower rank may be images, token
    ids or something else, so `scale="unit"` or `scale="none"` must say it. All other dtypes stay as they are. The
    options are those of `Epochs`: `shuffle`, `drop_remainder`, `pad`.

    Raises ValueError for a batch size out of range, for parts that aren't arrays or have different lengths, and for inputs
    that may be images or not.
    """
    source = MemorySource.of(x, y, sample_weight)
    epochs = Epochs(source.num_examples, batch_size, **options)
    feed = RandomAccessFeed(source, epochs, seed, augment, scaling=Scaling(scale))
    unsure = feed.scaling.unsure(source.tensors["x"])
    if unsure is not None:
        raise ValueError(unsure_message(unsure))
    return feed


def unsure_message(part: Any) -> str:
    """The error for an input (a batch of it, or its spec) that may be images or not."""
    shape = ", ".join(map(str, ["N", *part.shape[1:]]))
    return (
        f"scale=auto can't tell whether the input [{shape}] {part.dtype.name} holds images; give scale=unit (to [0, 1]) "
        "or scale=none (as it is)"
    )


def _fold(tensor: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Reshapes rows `[K*B, ...]` to `[K, B, ...]`, with K and B from the shape of `like`."""
    static = like.shape
    dynamic = tf.shape(like)
    head = [static[axis] if static[axis] is not None else dynamic[axis] for axis in (0, 1)]
    folded = tf.reshape(tensor, [*head, *tensor.shape[1:]])
    return tf.ensure_shape(folded, [static[0], static[1], *tensor.shape[1:]])
