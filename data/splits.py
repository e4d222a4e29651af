"""Splits as sources: how the samples of a split are read, in order and at random, and where they lie."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterator
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from loopwright.data.decoding import Decoder
from loopwright.data.errors import DataError
from loopwright.data.records import RecordFiles
from loopwright.data.stacked_feed import plain

#: Samples that are decoded as one batch when a split is read in order.
READ_AT_ONCE = 256


class StoredSplit(Protocol):
    """A split on the disk; its samples are decoded as they are read."""

    @property
    def num_examples(self) -> int: ...

    @property
    def specs(self) -> dict[str, Any]:
        """Shape and dtype of a sample, without the batch: `x`, `y` and, where there is one, `sample_weight`."""
        ...

    def gather(self, index: tf.Tensor) -> dict[str, Any]:
        """The samples of any places `[B]` int64."""
        ...

    def in_order(self, start: int, stop: int, *, bad: Collection[int] = ()) -> tf.data.Dataset:
        """The samples of a range of places, batches of `x`, `y`, `sample_weight` as stored. None of them may be bad."""
        ...

    def read_one(self, index: int) -> None:
        """Reads and decodes one sample, to see whether it can be. Raises DataError or tf.errors.OpError if not."""
        ...

    def describe(self, index: int) -> str:
        """Where a sample lies: the file, and the place in it."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class RecordSplit:
    """A split in record files. `gather` wants ArrayRecord files; `in_order` reads both formats."""

    files: RecordFiles
    decoder: Decoder

    @property
    def num_examples(self) -> int:
        return self.files.num_examples

    @property
    def specs(self) -> dict[str, Any]:
        return self.decoder.arranged_specs()

    def gather(self, index: tf.Tensor) -> dict[str, Any]:
        return self.decoder(self.files.read_tensor(index))

    def in_order(self, start: int, stop: int, *, bad: Collection[int] = ()) -> tf.data.Dataset:
        records = self.files.in_order(start, stop, bad=bad).batch(READ_AT_ONCE)
        return records.map(plain(self.decoder), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(2)

    def read_one(self, index: int) -> None:
        self.decoder(tf.constant(self.files.read(np.array([index]), verify=True)))

    def describe(self, index: int) -> str:
        return self.files.describe(index)


def decode_all(
    split: StoredSplit, *, bad: Collection[int] = (), progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """A whole split as dense arrays `[N, ...]`: `x`, `y` and, where there is one, `sample_weight`, as stored.

    The places of `bad` samples hold zeros. `progress(done, total)` is called on the way. Raises tf.errors.OpError for a
    sample that can't be read or decoded, and DataError where samples are missing.
    """
    total = split.num_examples
    arrays = tf.nest.map_structure(lambda spec: np.zeros([total, *spec.shape], spec.dtype.as_numpy_dtype), split.specs)
    for place, batch in good_batches(split, total, bad):
        stop = place + len(batch["y"])
        for array, part in zip(tf.nest.flatten(arrays), tf.nest.flatten(batch), strict=True):
            array[place:stop] = part
        if progress:
            progress(stop, total)
    return arrays


def good_batches(
    split: StoredSplit, stop: int, bad: Collection[int] = ()
) -> Iterator[tuple[int, dict[str, tf.Tensor]]]:
    """The good samples of a split below a place, in batches with the place of each one's first sample.

    Raises tf.errors.OpError for a sample that can't be read or decoded, and DataError where samples are missing.
    """
    edges = [-1, *sorted(place for place in bad if place < stop), stop]
    for before, after in itertools.pairwise(edges):
        place = before + 1
        for batch in split.in_order(place, after, bad=bad) if place < after else ():
            yield place, batch
            place += len(batch["y"])
        if place != after:
            raise DataError(f"{split.describe(place)}: cut off, {after - place} samples are missing")
