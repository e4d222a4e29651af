"""Splits in record files, and reading all good samples of a split in order."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from loopwright.data.autograph import no_autograph
from loopwright.data.decoding import Decoder
from loopwright.data.errors import DataError
from loopwright.data.protocols import StoredSplit
from loopwright.data.record_files import RecordFiles

#: The number of samples that are decoded as one batch when a split is read in order.
READ_AT_ONCE = 256


@dataclasses.dataclass(frozen=True, eq=False)
class RecordSplit:
    """A split in record files. `gather` is fast only with ArrayRecord files; `in_order` is fast with both formats."""

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
        return records.map(
            no_autograph(self.decoder), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        ).prefetch(2)

    def read_one(self, index: int) -> None:
        self.decoder(tf.constant(self.files.read(np.array([index]), verify=True)))

    def describe(self, index: int) -> str:
        return self.files.describe(index)


def decode_all(
    split: StoredSplit, *, bad: Collection[int] = (), progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """A whole split as dense arrays `[N, ...]`: `x`, `y` and, where it exists, `sample_weight`, as stored.

    The places of `bad` samples hold zeros. `progress(done, total)` is called after each batch. Raises tf.errors.OpError
    for a sample that can't be read or decoded, and DataError if samples are missing.
    """
    total = split.num_examples
    arrays = tf.nest.map_structure(lambda spec: np.zeros([total, *spec.shape], spec.dtype.as_numpy_dtype), split.specs)
    for place, batch in good_batches(split, total, bad):
        stop = place + rows_of(batch)
        for array, part in zip(tf.nest.flatten(arrays), tf.nest.flatten(batch), strict=True):
            array[place:stop] = part
        if progress:
            progress(stop, total)
    return arrays


def good_batches(
    split: StoredSplit, stop: int, bad: Collection[int] = ()
) -> Iterator[tuple[int, dict[str, tf.Tensor]]]:
    """The good samples of a split at places below `stop`: batches, each with the place of its first sample.

    Raises tf.errors.OpError for a sample that can't be read or decoded, and DataError if samples are missing.
    """
    edges = [-1, *sorted(place for place in bad if place < stop), stop]
    for before, after in itertools.pairwise(edges):
        place = before + 1
        for batch in split.in_order(place, after, bad=bad) if place < after else ():
            yield place, batch
            place += rows_of(batch)
        if place != after:
            raise DataError(
                f"{split.describe(place)}: cut off, {after - place} samples are missing; prepare the dataset again"
            )


def rows_of(batch: dict[str, Any]) -> int:
    """The number of samples in a batch."""
    return int(tf.nest.flatten(batch)[0].shape[0])
