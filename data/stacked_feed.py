"""Stacks: several consecutive batches as one element, for executions that run them as one program."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import tensorflow as tf

if TYPE_CHECKING:
    from loopwright.data.feed import Feed

#: Functions of this package hold no Python loops over tensors, and converting them costs seconds: AutoGraph keeps off.
plain = tf.autograph.experimental.do_not_convert


@dataclasses.dataclass(frozen=True, eq=False)
class StackedFeed:
    """A feed whose elements are stacks of consecutive batches: every tensor of a batch as `[K, B, ...]`.

    A stack never crosses a change of the batch's shape, so there are two shapes at most, and a program is compiled twice
    at most:

    - `[k, B, ...]` for whole batches. Always k rows: where fewer batches are left before a ragged one (or before the end
      of a finite feed), the last batch is repeated, and `length` says how many rows are real;
    - `[1, R, ...]` for the ragged last batch of an epoch of R < B samples, where there is one.

    Whoever runs the stack asks `length(step)` for the number of real batches in the stack that begins at `step`; the next
    stack begins at `step + length(step)`. Being arithmetic, this needs no word from the device:

        step, stacks = start, iter(stacked(start))
        while step < stop:
            stack, real = next(stacks), stacked.length(step)   # run rows 0 to real - 1, in as many calls as you like
            step += real

    Args:
      feed: the feed whose batches are stacked.
      k: batches in a stack, at least 1.
      open_stacks: from a start step to the dataset of stacks that begin there.

    Raises ValueError for k below 1.
    """

    feed: Feed
    k: int
    open_stacks: Callable[[StackedFeed, int], tf.data.Dataset]

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"stacked({self.k}): a stack holds at least 1 batch")

    def __call__(self, start_step: int = 0) -> tf.data.Dataset:
        return self.open_stacks(self, start_step)

    @functools.cached_property
    def element_spec(self) -> dict[str, Any]:
        return self().element_spec

    def length(self, step: int) -> int:
        """The number of real batches in the stack that begins at a step, 1 to k."""
        length = self.k
        if self.feed.has_ragged_batch:
            length = max(1, min(length, self.feed.steps_per_epoch - 1 - step % self.feed.steps_per_epoch))
        return length if self.feed.end is None else min(length, self.feed.end - step)

    def length_tensor(self, step: tf.Tensor) -> tf.Tensor:
        """`length` for an int64 scalar tensor."""
        length = tf.constant(self.k, tf.int64)
        if self.feed.has_ragged_batch:
            left = self.feed.steps_per_epoch - 1 - step % self.feed.steps_per_epoch
            length = tf.maximum(tf.constant(1, tf.int64), tf.minimum(length, left))
        return length if self.feed.end is None else tf.minimum(length, self.feed.end - step)

    def rows(self, step: tf.Tensor) -> tf.Tensor:
        """The number of rows of the stack that begins at a step, padding included: k, or 1 for a ragged batch."""
        rows = tf.constant(self.k, tf.int64)
        if not self.feed.has_ragged_batch:
            return rows
        ragged = step % self.feed.steps_per_epoch == self.feed.steps_per_epoch - 1
        return tf.where(ragged, tf.constant(1, tf.int64), rows)

    def starts(self, start_step: int) -> tf.data.Dataset:
        """The steps at which the stacks from `start_step` on begin."""
        stop = self.feed.end
        starts = tf.data.Dataset.counter() if stop is None else tf.data.Dataset.range(max(stop - start_step, 0))
        starts = starts.scan(tf.constant(start_step, tf.int64), lambda step, _: (step + self.length_tensor(step), step))
        return starts if stop is None else starts.take_while(plain(lambda step: step < stop))


def stack_batches(stacked: StackedFeed, start_step: int) -> tf.data.Dataset:
    """Stacks out of a feed's own batches, for feeds that can't make a stack in one go."""

    def begin_of(batch_number: tf.Tensor) -> tf.Tensor:
        """The step at which the stack of a batch begins; batches are numbered from `start_step`."""
        step = batch_number + start_step
        if not stacked.feed.has_ragged_batch:
            return step - batch_number % stacked.k
        epoch = stacked.feed.steps_per_epoch
        place = step % epoch
        base = tf.maximum(step - place, start_step)
        return tf.where(place == epoch - 1, step, step - (step - base) % stacked.k)

    def stack(begin: tf.Tensor, batches: tf.data.Dataset) -> tf.data.Dataset:
        rows = stacked.rows(begin)
        whole = batches.map(plain(lambda _, batch: batch)).batch(stacked.k)
        return whole.map(plain(lambda part: tf.nest.map_structure(lambda tensor: _repeat_last(tensor, rows), part)))

    def with_static_rows(stack: dict[str, Any]) -> dict[str, Any]:
        return tf.nest.map_structure(lambda t: tf.ensure_shape(t, [stacked.k, *t.shape[1:]]), stack)

    numbered = stacked.feed(start_step).enumerate()
    stacks = numbered.group_by_window(
        key_func=plain(lambda number, _: begin_of(number)),
        reduce_func=plain(stack),
        window_size_func=plain(stacked.length_tensor),
    )
    return (stacks if stacked.feed.has_ragged_batch else stacks.map(plain(with_static_rows))).prefetch(1)


def _repeat_last(tensor: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    places = tf.minimum(tf.range(rows), tf.shape(tensor, tf.int64)[0] - 1)
    return tf.gather(tensor, places)
