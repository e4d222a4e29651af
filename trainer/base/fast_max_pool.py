"""A faster gradient of max pooling, equal to TensorFlow's to the bit.

TensorFlow's own kernel on a CPU searches for each maximum a second time, value by value. The kernel of oneDNN doesn't. So
the execution `graph` computes the gradient by other operations where TensorFlow leaves oneDNN off (docs/decisions/006).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from loopwright.trainer.base import private_tf

#: Windows up to this number of values were measured to be faster.
MOST_IN_A_WINDOW = 9


@contextlib.contextmanager
def fast_pooling_gradients() -> Iterator[None]:
    """Inside the block, the current trace of a `tf.function` computes gradients of max pooling by `max_pool_gradient`.

    Functions that the trace calls keep TensorFlow's kernel, because XLA can't compile `max_pool_gradient`. Nothing changes
    with a GPU, with oneDNN, or where TensorFlow doesn't tell whether it uses oneDNN.
    """
    if private_tf.uses_onednn() is not False or tf.config.list_physical_devices("GPU"):
        yield
        return
    trace = tf.compat.v1.get_default_graph()

    def replace(
        op_type: str, inputs: Any, attrs: Any, outputs: Any, op_name: str | None = None, graph: Any = None
    ) -> Any:
        """The outputs that the trace uses for a new operation."""
        if op_type != "MaxPoolGrad" or graph is not trace:
            return outputs
        window = _window(inputs[0].shape, dict(zip(attrs[::2], attrs[1::2], strict=True)))
        return outputs if window is None else [max_pool_gradient(inputs[0], inputs[2], window)]

    with private_tf.on_each_operation(replace):
        yield


def max_pool_gradient(x: tf.Tensor, dy: tf.Tensor, window: tuple[int, int]) -> tf.Tensor:
    """The gradient of max pooling over windows that don't overlap. The first of tied maxima receives the gradient.

    The result equals that of `tf.raw_ops.MaxPoolGrad` to the bit, also for infinities and NaNs.

    Args:
      x: the input of the pooling, `[B, H, W, C]`. Rows and columns at its end that fill no window were left out.
      dy: the gradient of the maxima, `[B, H // window[0], W // window[1], C]`.
      window: the height and width of a window, which are also its strides.

    Returns:
      The gradient of `x`, `[B, H, W, C]`.
    """
    (_, height, width, channels), (high, wide) = x.shape, window
    rows, columns = height // high, width // wide
    whole = x[:, : rows * high, : columns * wide]
    windows = tf.reshape(whole, [-1, high, columns, wide, channels])
    best = windows[:, 0, :, 0]
    # The place of the best value in a flattened example, counted from the first value of its window.
    place = tf.zeros(tf.shape(best), tf.int32)
    for line, column in itertools.islice(itertools.product(range(high), range(wide)), 1, None):
        value = windows[:, line, :, column]
        larger = best < value
        best = _select(larger, value, best)
        place = _select(larger, tf.fill(tf.shape(place), (line * width + column) * channels), place)
    corners = np.arange(height * width * channels, dtype=np.int32).reshape(height, width, channels)
    places = tf.reshape(place, tf.shape(dy)) + corners[: rows * high : high, : columns * wide : wide]
    sizes = [1, high, wide, 1]
    return tf.raw_ops.MaxPoolGradWithArgmax(
        input=x, grad=dy, argmax=tf.cast(places, tf.int64), ksize=sizes, strides=sizes, padding="VALID"
    )


def _select(condition: tf.Tensor, then: tf.Tensor, otherwise: tf.Tensor) -> tf.Tensor:
    """`tf.where` for tensors of one shape. Its kernel is faster, because it doesn't broadcast."""
    return tf.raw_ops.Select(condition=condition, x=then, y=otherwise)


def _window(shape: tf.TensorShape, options: dict[str, Any]) -> tuple[int, int] | None:
    """The height and width of a pooling's windows; None for a pooling that `max_pool_gradient` doesn't compute faster."""
    window, strides = (tuple(options[name].list.i) for name in ("ksize", "strides"))
    first, high, wide, last = window
    if (
        window != strides
        or first != 1
        or last != 1
        or high * wide > MOST_IN_A_WINDOW
        or not shape[1:].is_fully_defined()
    ):
        return None
    if options["padding"].s != b"VALID" and (shape[1] % high or shape[2] % wide):
        return None
    return high, wide
