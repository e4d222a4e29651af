"""Samples as dense tensors in memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False)
class MemorySource:
    """Samples in host memory: tensors by name, each `[N, ...]`. The value of `x` may itself be a dict."""

    tensors: dict[str, Any]

    @classmethod
    def of(cls, x: Any, y: Any = None, sample_weight: Any = None) -> MemorySource:
        """A source over anything that converts to tensors, such as NumPy arrays. Parts that are None are left out.

        Raises ValueError for a part that isn't an array, and if the arrays have different lengths.
        """
        given = {"x": x, "y": y, "sample_weight": sample_weight}
        tensors = {name: _as_tensors(name, part) for name, part in given.items() if name == "x" or part is not None}
        lengths = [int(tensor.shape[0]) for tensor in tf.nest.flatten(tensors)]
        if len(set(lengths)) != 1:
            raise ValueError(
                f"the arrays have different lengths: {', '.join(map(str, lengths))} samples; give as many labels (and "
                "weights) as inputs"
            )
        return cls(tensors)

    @property
    def num_examples(self) -> int:
        return int(tf.nest.flatten(self.tensors)[0].shape[0])

    def gather(self, index: tf.Tensor) -> dict[str, Any]:
        """The samples at places `[B]` int64, as they are stored."""
        return tf.nest.map_structure(lambda tensor: tf.gather(tensor, index), self.tensors)


def _as_tensors(name: str, part: Any) -> Any:
    """An array, or a structure of arrays such as a dict, as tensors `[N, ...]` on the host."""

    def convert(array: Any) -> tf.Tensor:
        kind = type(array).__name__
        if isinstance(array, tf.SparseTensor | tf.RaggedTensor):
            raise ValueError(
                f"{name} holds a {kind}, and an array of one shape is wanted; give a tf.data.Dataset of batches"
            )
        try:
            tensor = tf.convert_to_tensor(array)
        except (ValueError, TypeError):
            tensor = None
        if array is part and isinstance(part, int | float):
            raise ValueError(
                f"{name}={part} is a single number, and an array [N, ...] is wanted; give x, y, batch_size=32"
            )
        if tensor is None or not tensor.shape.rank:
            raise ValueError(
                f"{name} holds {array!r:.40} of type {kind}, and arrays [N, ...] are wanted; convert it, such as with "
                f"numpy.asarray({name})"
            )
        return tensor

    with tf.device("CPU:0"):  # The feed runs on the host even where there are other devices.
        return tf.nest.map_structure(convert, part)
