"""Operations that `graph` computes by others, with the same results, where TensorFlow's kernel of its own is slow.

There is one, the gradient of max pooling: TensorFlow's kernel on a CPU looks for each maximum once more, value by value. The
kernel of oneDNN doesn't, so the substitute is used where TensorFlow leaves oneDNN off (docs/decisions/006).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_callbacks
from tensorflow.python.util import _pywrap_util_port as port

#: Values of a window up to which the substitute was measured to be faster.
MOST_IN_A_WINDOW = 9


@contextlib.contextmanager
def substituted() -> Iterator[None]:
    """In the trace of a `tf.function`: slow operations that are added to it inside are computed by the substitutes.

    Functions that the trace calls keep their own: one that XLA compiles can't take the substitutes.
    """
    if port.IsMklEnabled() or tf.config.list_physical_devices("GPU"):
        yield
        return
    trace = tf.compat.v1.get_default_graph()

    def replace(
        op_type: str, inputs: Any, attrs: Any, outputs: Any, op_name: str | None = None, graph: Any = None
    ) -> Any:
        """TensorFlow calls this for each new operation: what it gives is used in the place of the outputs."""
        if op_type != "MaxPoolGrad" or graph is not trace:
            return outputs
        window = _window(inputs[0].shape, dict(zip(attrs[::2], attrs[1::2], strict=True)))
        return outputs if window is None else [max_pool_gradient(inputs[0], inputs[2], window)]

    op_callbacks.add_op_callback(replace)
    try:
        yield
    finally:
        op_callbacks.remove_op_callback(replace)


def max_pool_gradient(x: tf.Tensor, dy: tf.Tensor, window: tuple[int, int]) -> tf.Tensor:
    """The gradient of max pooling over windows that don't overlap: what comes to a maximum goes to its first place.

    Equal to the bit to `tf.raw_ops.MaxPoolGrad`, for infinities and NaNs, too.

    Args:
      x: what was pooled, `[B, H, W, C]`. Rows and columns at its end that fill no window were left out.
      dy: the gradient of the maxima, `[B, H // window[0], W // window[1], C]`.
      window: the height and width of a window, and its strides.

    Returns:
      The gradient of `x`, `[B, H, W, C]`.
    """
    (_, height, width, channels), (high, wide) = x.shape, window
    rows, columns = height // high, width // wide
    whole = x[:, : rows * high, : columns * wide]
    windows = tf.reshape(whole, [-1, high, columns, wide, channels])
    best = windows[:, 0, :, 0]
    place = tf.zeros(tf.shape(best), tf.int32)  # of the best in a flat example, from the window's first
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
    """`tf.where` for tensors of one shape, which is faster than the kernel that broadcasts."""
    return tf.raw_ops.Select(condition=condition, x=then, y=otherwise)


def _window(shape: tf.TensorShape, options: dict[str, Any]) -> tuple[int, int] | None:
    """The height and width of the windows of a pooling of images of a shape, if the substitute serves it."""
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
