"""Feeds made of a `tf.data.Dataset` of batches, or of a function from the start step to one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from loopwright.trainer.base.errors import TrainingError, what

#: What the parts of a tuple mean, as in `fit`.
_PARTS = ("x", "y", "sample_weight")


@dataclasses.dataclass(frozen=True, eq=False)
class StreamFeed:
    """A feed over `open(start_step)`, a dataset of dicts.

    Args:
      open: gives the batches from a step on.
      epoch: the batches of one epoch.
      end: the step before which the stream ends, or None for a stream whose end isn't known.
    """

    open: Callable[[int], tf.data.Dataset]
    epoch: tf.data.Dataset
    end: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches. Raises ValueError where the dataset doesn't know it."""
        cardinality = int(self.epoch.cardinality())
        if cardinality == tf.data.INFINITE_CARDINALITY:
            raise ValueError("the feed never ends, so it has no epoch; leave out repeat(), or use dataset.take(steps)")
        if cardinality < 0:
            raise ValueError(
                "the feed doesn't know its number of batches; say it: "
                "dataset.apply(tf.data.experimental.assert_cardinality(batches))"
            )
        return cardinality

    @property
    def examples_per_epoch(self) -> int:
        """The number of rows. Unless all batches have one size, this reads the dataset once."""
        rows = tf.nest.flatten(self.element_spec)[0].shape[0]
        if rows is not None:
            return self.steps_per_epoch * rows
        count = self.epoch.take(self.steps_per_epoch).map(_rows)
        return int(count.reduce(tf.constant(0, tf.int64), lambda total, rows: total + rows))

    @property
    def element_spec(self) -> dict[str, Any]:
        return self.epoch.element_spec

    def __call__(self, start_step: int = 0) -> tf.data.Dataset:
        return self.open(start_step)

    def stacked(self, k: int) -> _Stacks:
        """Stacks of k batches. Raises TrainingError unless the stream is endless and all batches have one size."""
        specs = tf.nest.flatten(self.element_spec)
        if not all(isinstance(spec, tf.TensorSpec) and spec.shape.is_fully_defined() for spec in specs):
            raise TrainingError(
                "xla needs batches of one size: make them with batch(batch_size, drop_remainder=True), or use "
                "execution=graph()"
            )
        if int(self.open(0).cardinality()) != tf.data.INFINITE_CARDINALITY:
            raise TrainingError("xla needs a feed without an end; use dataset.repeat() or execution=graph()")
        return _Stacks(self, k)


@dataclasses.dataclass(frozen=True, eq=False)
class _Stacks:
    """Stacks of k batches of an endless feed."""

    feed: StreamFeed
    k: int

    def __call__(self, start_step: int = 0) -> tf.data.Dataset:
        return self.feed(start_step).batch(self.k, drop_remainder=True).prefetch(1)

    def length(self, step: int) -> int:
        return self.k


def of_dataset(dataset: tf.data.Dataset, *, repeat: bool) -> StreamFeed:
    """A feed of a dataset of batches `x`, `(x, y)`, `(x, y, sample_weight)`, or of dicts.

    With `repeat` it begins again at its end. To open it at a step, the batches before that step are read and left out. So
    a resumed run is exact only if the dataset gives the same batches in every process: give its shuffle a seed. Values
    stay as they are; images of dtype uint8 aren't scaled.

    Raises ValueError for an empty dataset, and for one that isn't batched.
    """
    batches = _as_batches(dataset)
    if int(batches.cardinality()) == 0:
        raise ValueError("the feed is a dataset without batches; was it filtered, or batched with drop_remainder=True?")
    stream = batches.repeat() if repeat else batches
    return StreamFeed(lambda step: stream.skip(step).prefetch(tf.data.AUTOTUNE), batches)


def of_function(function: Callable[[int], Any], start_step: int) -> StreamFeed:
    """A feed of a function from the start step to a dataset of batches.

    Raises TypeError where the function gives something else.
    """

    def open_at(step: int) -> tf.data.Dataset:
        given = function(step)
        if not isinstance(given, tf.data.Dataset):
            raise TypeError(f"feed({step}) gave {what(given)}; return a tf.data.Dataset of batches from that step on")
        return _as_batches(given)

    first = open_at(start_step)
    batches = int(first.cardinality())
    return StreamFeed(open_at, first, start_step + batches if batches >= 0 else None)


def _as_batches(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The dataset with a dict for each batch."""
    spec = dataset.element_spec
    if isinstance(spec, tuple) and len(spec) > len(_PARTS):
        raise TypeError(f"the feed's batches are tuples of {len(spec)}; give (x, y), (x, y, sample_weight), or dicts")
    if not isinstance(spec, Mapping):
        dataset = dataset.map(_named, num_parallel_calls=1)
        spec = dataset.element_spec
    _check_rows(spec)
    return dataset


@tf.autograph.experimental.do_not_convert
def _named(*parts: Any) -> dict[str, Any]:
    return dict(zip(_PARTS, parts, strict=False))


@tf.autograph.experimental.do_not_convert
def _rows(batch: Mapping[str, Any]) -> tf.Tensor:
    first = tf.nest.flatten(batch)[0]
    return first.nrows(tf.int64) if isinstance(first, tf.RaggedTensor) else tf.shape(first, tf.int64)[0]


def _check_rows(spec: Mapping[str, Any]) -> None:
    """Raises ValueError where the parts of a batch can't have the same number of rows."""
    shapes = [part.shape for name in _PARTS if name in spec for part in tf.nest.flatten(spec[name])]
    known = [shape for shape in shapes if shape.rank is not None]
    rows = {shape[0] for shape in known if shape.rank and shape[0] is not None}
    if len(rows) > 1 or any(shape.rank == 0 for shape in known):
        given = ", ".join(str(tuple(shape)) for shape in shapes)
        raise ValueError(
            f"the feed's batches have parts of the shapes {given}, not one number of rows; is it batched? If not, use "
            "dataset.batch(batch_size)"
        )
