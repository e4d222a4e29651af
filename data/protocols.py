"""What all feeds share: the form of a batch, and the protocols of feeds, stacks, sources and splits.

A batch is a dict of tensors:

- `x`: `[B, ...]`, or a dict of such tensors by input name. Images are float32 (see `scaling`), and everything else
  has the dtype in which it is stored;
- `y`: int64 for classes (`[B]`, or `[B, ...]` for a class at each position) and tokens (`[B, T]`), float32 for all other
  targets (see `Target`); a dict by name if there are several labels. It is missing only in a feed over arrays that has
  no labels;
- `index`: `[B]` int64, the place of each sample in its split;
- `sample_weight`: float32, only where the dataset has weights, `[B]`, or labels of differing length, `[B, T]`. It is 0 at
  the positions of padding;
- `mask`: `[B]` bool, only where batches are padded; it is false where a row is padding.

The rest of the stream after any step is a pure function of (seed, step, shard). A resumed run therefore opens its
stream at the step where it stopped, and no iterator is ever saved.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol

import tensorflow as tf

#: Tensors by name. The value of `x` may itself be a dict.
Batch = dict[str, Any]

#: Changes inputs `x`, given the `index` and the `epoch` of their samples (both `[B]` int64). The shapes stay the same.
#: Images stored as integers may come out as floats, which must then lie in [0, 1].
Augmentation = Callable[[Any, tf.Tensor, tf.Tensor], Any]


class Feed(Protocol):
    """A stream of batches that can be opened at any step."""

    @property
    def steps_per_epoch(self) -> int: ...

    @property
    def examples_per_epoch(self) -> int: ...

    @property
    def element_spec(self) -> dict[str, Any]: ...

    @property
    def has_ragged_batch(self) -> bool:
        """Whether the last batch of an epoch is smaller than the others."""
        ...

    @property
    def end(self) -> int | None:
        """The first step that has no batch any more, or None if the stream never ends."""
        ...

    def __call__(self, start_step: int = 0) -> tf.data.Dataset: ...

    def shard(self, index: int, count: int) -> Feed: ...

    def stacked(self, k: int) -> Stacks: ...


class Stacks(Protocol):
    """A stream of stacks of consecutive batches: every tensor is `[K, B, ...]`. For the rules, see `StackedFeed`."""

    @property
    def k(self) -> int:
        """The most batches in a stack."""
        ...

    @property
    def element_spec(self) -> dict[str, Any]: ...

    def __call__(self, start_step: int = 0) -> tf.data.Dataset: ...

    def length(self, step: int) -> int:
        """The number of real batches in the stack that begins at a step."""
        ...


class Source(Protocol):
    """Samples by their place: what a random-access feed reads from."""

    @property
    def num_examples(self) -> int: ...

    def gather(self, index: tf.Tensor) -> Batch:
        """The samples at places `[B]` int64, as they are stored: `x`, `y` and, where it exists, `sample_weight`."""
        ...


class StoredSplit(Source, Protocol):
    """A split on disk. Its samples are decoded when they are read."""

    @property
    def specs(self) -> dict[str, Any]:
        """The shape and dtype of a sample, without the batch: `x`, `y` and, where it exists, `sample_weight`."""
        ...

    def in_order(self, start: int, stop: int, *, bad: Collection[int] = ()) -> tf.data.Dataset:
        """The samples at places `start` to `stop - 1`, in batches as `gather` gives them.

        No place in this range may be bad. `bad` names the bad places of the whole split, which may lie in the same
        files.
        """
        ...

    def read_one(self, index: int) -> None:
        """Reads and decodes one sample to see whether it is good. Raises DataError or tf.errors.OpError if not."""
        ...

    def describe(self, index: int) -> str:
        """Where a sample lies: the file, and the place in it."""
        ...
