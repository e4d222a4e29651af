"""TensorFlow's private parts, each behind a function that has an answer where a version of TensorFlow lacks the part.

No public name does the same. Each part is imported where it is used. If a later TensorFlow moves one, a run takes longer
or says less about the machine. Without `optimized_alone` it may also differ from `fit` in the last bits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from google.protobuf import descriptor_pool, message_factory  # type: ignore[import-untyped]

#: The message in a checkpoint that describes its tree of objects.
_OBJECT_GRAPH = "tensorflow.TrackableObjectGraph"


def uses_onednn() -> bool | None:
    """Whether TensorFlow runs oneDNN's kernels in this process; None where that is unknown."""
    try:
        from tensorflow.python.util import _pywrap_util_port

        return bool(_pywrap_util_port.IsMklEnabled())
    except (ImportError, AttributeError):
        return None


def determinism_is_on() -> bool:
    """Whether `tf.config.experimental.enable_op_determinism` was called; True where that is unknown.

    Under determinism some operations, such as reading a clock, raise an error. Who leaves them out is on the safe side.
    """
    try:
        from tensorflow.python.framework.config import is_op_determinism_enabled
    except ImportError:
        return True
    return bool(is_op_determinism_enabled())


def end_determinism() -> None:
    """Takes back `enable_op_determinism`, for which there is no public way. Without one, operations stay deterministic."""
    try:
        from tensorflow.python.framework.config import disable_op_determinism
    except ImportError:
        return
    disable_op_determinism()


@contextlib.contextmanager
def on_each_operation(callback: Callable[..., Any]) -> Iterator[None]:
    """Inside the block, TensorFlow calls `callback` for each operation that this thread makes, eager or in a graph.

    The arguments are `(op_type, inputs, attrs, outputs, op_name=None, graph=None)`; `op_type` is str in a graph and bytes
    for an eager operation. The return value takes the place of the outputs. Without such callbacks in TensorFlow, nothing
    is called.
    """
    try:
        from tensorflow.python.framework.op_callbacks import add_op_callback, remove_op_callback
    except ImportError:
        yield
        return
    add_op_callback(callback)
    try:
        yield
    finally:
        remove_op_callback(callback)


def operation_callbacks() -> list[Any]:
    """What a new trace depends on and has no public name: op determinism, and the callbacks of each operation."""
    found: list[Any] = [determinism_is_on()]
    try:
        from tensorflow.python.eager.context import context
    except ImportError:
        return found
    return [*found, *getattr(context(), "op_callbacks", ())]


def opened_again(iterator: Any, dataset: Any) -> bool:
    """Lets an iterator begin another dataset of the same specs, as `iter(dataset)` does it. Its old pipeline is freed.

    Returns False where the iterator isn't one of `tf.data`, or TensorFlow keeps it in a different way. Nothing has changed
    then.
    """
    import tensorflow as tf

    held = [getattr(iterator, name, None) for name in ("_iterator_resource", "_dataset")]
    if any(part is None for part in held) or not hasattr(dataset, "_apply_debug_options"):
        return False
    dataset = dataset._apply_debug_options()
    tf.raw_ops.MakeIterator(dataset=tf.data.experimental.to_variant(dataset), iterator=held[0])
    iterator._dataset = dataset  # keeps the functions alive that the dataset calls
    return True


def optimized_alone(function: Callable[..., Any]) -> Any:
    """A `tf.function` whose graph TensorFlow optimizes by itself, instead of inside the loop that calls it.

    Grappler, TensorFlow's graph optimizer, rewrites arithmetic in another way inside a `tf.while` than outside. That changes
    the last bits of some models. A function that is not inlined is rewritten like the step of `fit`, provided that Grappler
    knows the shapes of its variables. TensorFlow tells Grappler those shapes only for the outermost function, so the
    function notes them itself.
    """
    import tensorflow as tf

    note = tf.autograph.experimental.do_not_convert(_note_shapes_of_variables)

    def noted(*arguments: Any) -> Any:
        results = function(*arguments)
        note(tf.compat.v1.get_default_graph().captures)
        return results

    return tf.function(noted, experimental_attributes={"_noinline": True})


def _note_shapes_of_variables(captures: Iterable[tuple[Any, Any]]) -> None:
    """Writes shapes and dtypes of the variables that a trace has captured to the attributes of the trace's arguments."""
    try:
        from tensorflow.core.framework.attr_value_pb2 import AttrValue
        from tensorflow.python.ops.handle_data_util import get_resource_handle_data
    except ImportError:
        return
    for _, argument in captures:
        data = get_resource_handle_data(argument)
        if data is not None and data.is_set:
            dtypes, shapes = [part.dtype for part in data.shape_and_type], [part.shape for part in data.shape_and_type]
            argument.op._set_attr("_handle_dtypes", AttrValue(list=AttrValue.ListValue(type=dtypes)))
            argument.op._set_attr("_handle_shapes", AttrValue(list=AttrValue.ListValue(shape=shapes)))


def parse_object_graph(serialized: bytes) -> Any:
    """The tree of objects that a checkpoint describes in its tensor `_CHECKPOINTABLE_OBJECT_GRAPH`.

    The message is looked up by its name, which is part of the checkpoint format, and not by its Python module.
    """
    message = descriptor_pool.Default().FindMessageTypeByName(_OBJECT_GRAPH)
    return message_factory.GetMessageClass(message).FromString(serialized)
