"""What the trainer asks of a feed. The package `data` makes such feeds; any object with these members is one."""

from __future__ import annotations

from typing import Any, Protocol

import tensorflow as tf

#: Tensors by name: `x`, `y`, `index` and, where there are any, `sample_weight` and `mask`. Those of `x` may be a dict again.
Batch = dict[str, Any]


class Stacks(Protocol):
    """Consecutive batches as one element, every tensor `[K, B, ...]`, for executions that run them as one program."""

    def __call__(self, start_step: int = 0) -> tf.data.Dataset: ...

    def length(self, step: int) -> int:
        """The number of batches in the stack that begins at a step. The rest of the stack is padding."""
        ...


class Feed(Protocol):
    """A stream of batches that can be opened at any step. What comes after a step is a function of the step."""

    @property
    def steps_per_epoch(self) -> int: ...

    @property
    def examples_per_epoch(self) -> int: ...

    @property
    def element_spec(self) -> dict[str, Any]: ...

    @property
    def end(self) -> int | None:
        """The step before which the stream ends, or None for a stream without an end."""
        ...

    def __call__(self, start_step: int = 0) -> tf.data.Dataset: ...

    def stacked(self, k: int) -> Stacks: ...
