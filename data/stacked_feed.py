"""Stacks: several consecutive batches as one element, for an execution that runs them as one program."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from loopwright.data.autograph import no_autograph
from loopwright.data.protocols import Feed


@dataclasses.dataclass(frozen=True, eq=False)
class StackedFeed:
    """A feed whose elements are stacks of consecutive batches: every tensor of a batch becomes `[K, B, ...]`.

    All batches in a stack have the same shape. There are at most two shapes of stacks, and a program is compiled at
    most twice:

    - `[k, B, ...]` for whole batches. Such a stack always has k rows. If fewer than k batches are left before a ragged
      one (or before the end of a finite feed), the last batch is repeated, and `length` says how many rows are real;
    - `[1, R, ...]` for a ragged last batch of an epoch, with R < B samples.

    `length(step)` is the number of real batches in the stack that begins at `step`. The next stack begins at
    `step + length(step)`. This is plain arithmetic and reads nothing from the device:

        step, stacks = start, iter(stacked(start))
        while step < stop:
            stack, real = next(stacks), stacked.length(step)   # run rows 0 to real - 1, in as many calls as you like
            step += real

    Args:
      feed: the feed whose batches are stacked.
      k: the number of batches in a stack, at least 1.
      open_stacks: gives the dataset of the stacks that begin at a start step.

    Raises ValueError if k is below 1.
    """

    feed: Feed
    k: int
    open_stacks: Callable[[StackedFeed, int], tf.data.Dataset]

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k={self.k}: a stack holds at least 1 batch")

    def __call__(self, start_step: int = 0) -> tf.data.Dataset:
        return self.open_stacks(self, start_step)

    @functools.cached_property
    def element_spec(self) -> dict[str, Any]:
        return self().element_spec

    def length(self, step: int) -> int:
        """The number of real batches in the stack that begins at a step: 1 to k."""
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
        """The number of rows in the stack that begins at a step, with repeated batches: k, or 1 for a ragged batch."""
        rows = tf.constant(self.k, tf.int64)
        if not self.feed.has_ragged_batch:
            return rows
        ragged = step % self.feed.steps_per_epoch == self.feed.steps_per_epoch - 1
        return tf.where(ragged, tf.constant(1, tf.int64), rows)

    def starts(self, start_step: int) -> tf.data.Dataset:
        """The steps at which stacks begin, from `start_step` on.

        Each is computed from its number. `scan` would do it with less arithmetic, but TensorFlow keeps the function of each
        `scan` for ever.
        """
        stop = self.feed.end
        starts = tf.data.Dataset.range(np.iinfo(np.int64).max).map(
            no_autograph(lambda number: self._start(number, start_step))
        )
        return starts if stop is None else starts.take_while(no_autograph(lambda step: step < stop))

    def _start(self, number: tf.Tensor, start_step: int) -> tf.Tensor:
        """The step at which a stack begins; stacks are numbered from `start_step`, and a ragged batch is a stack alone."""
        if not self.feed.has_ragged_batch:
            return start_step + number * self.k
        epoch, steps = divmod(start_step, self.feed.steps_per_epoch)
        last = self.feed.steps_per_epoch - 1  # the place of the ragged batch
        in_first, in_each = (-(-(last - place) // self.k) + 1 for place in (steps, 0))
        later = number - in_first
        of_first = tf.minimum(steps + number * self.k, last)
        of_later = (1 + later // in_each) * (last + 1) + tf.minimum(later % in_each * self.k, last)
        return epoch * (last + 1) + tf.where(number < in_first, of_first, of_later)


def stack_batches(stacked: StackedFeed, start_step: int) -> tf.data.Dataset:
    """Stacks made from the batches of a feed, for feeds that can't read a stack in one go."""

    def begin_of(batch_number: tf.Tensor) -> tf.Tensor:
        """The step at which the stack of a batch begins. Batches are numbered from `start_step`, beginning with 0."""
        step = batch_number + start_step
        if not stacked.feed.has_ragged_batch:
            return step - batch_number % stacked.k
        epoch = stacked.feed.steps_per_epoch
        place = step % epoch
        base = tf.maximum(step - place, start_step)
        return tf.where(place == epoch - 1, step, step - (step - base) % stacked.k)

    def stack(begin: tf.Tensor, batches: tf.data.Dataset) -> tf.data.Dataset:
        rows = stacked.rows(begin)
        whole = batches.map(no_autograph(lambda _, batch: batch)).batch(stacked.k)
        return whole.map(
            no_autograph(lambda part: tf.nest.map_structure(lambda tensor: _repeat_last(tensor, rows), part))
        )

    def with_static_rows(stack: dict[str, Any]) -> dict[str, Any]:
        return tf.nest.map_structure(lambda t: tf.ensure_shape(t, [stacked.k, *t.shape[1:]]), stack)

    numbered = stacked.feed(start_step).enumerate()
    stacks = numbered.group_by_window(
        key_func=no_autograph(lambda number, _: begin_of(number)),
        reduce_func=no_autograph(stack),
        window_size_func=no_autograph(stacked.length_tensor),
    )
    return (stacks if stacked.feed.has_ragged_batch else stacks.map(no_autograph(with_static_rows))).prefetch(1)


def _repeat_last(tensor: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    places = tf.minimum(tf.range(rows), tf.shape(tensor, tf.int64)[0] - 1)
    return tf.gather(tensor, places)
