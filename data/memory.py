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
    def of(cls, x: Any, y: Any, sample_weight: Any = None) -> MemorySource:
        """A source over anything that converts to tensors, such as NumPy arrays.

        Raises ValueError if the arrays have different lengths.
        """
        parts = {"x": x, "y": y} | ({} if sample_weight is None else {"sample_weight": sample_weight})
        with tf.device("CPU:0"):  # The feed runs on the host even where there are other devices.
            tensors = tf.nest.map_structure(tf.convert_to_tensor, parts)
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
