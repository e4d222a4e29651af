"""What a model shows of itself when it is called with random inputs.

A model's last operation doesn't say whether its outputs are probabilities, and its first layer doesn't say what numbers
it takes. Both questions are therefore put to the model itself, in eager mode and with `training=False`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

_ROWS = 8


@dataclasses.dataclass(frozen=True)
class _Input:
    """The shape of an input, with the batch, and its dtype."""

    shape: tuple[int | None, ...]
    dtype: str


def calls(model: keras.Model, scales: tuple[float, ...]) -> Iterator[tuple[Any, Any]]:
    """Calls the model once for each scale with inputs between 0 and that scale. Yields inputs and outputs as arrays.

    Inputs have the structure, shapes and dtypes that the model was built with. Nothing is yielded for a model that
    doesn't know its shapes or takes no numbers, and for a scale that it doesn't take, such as token ids beyond the end of
    an embedding. Seeds and other states that a call changes have their old values afterwards.
    """
    import keras
    import tensorflow as tf

    specs = _specs(model)
    if specs is None or any(spec.dtype == "string" for spec in keras.tree.flatten(specs)):
        return
    for scale in scales:
        rng = np.random.default_rng(0)

        def draw(spec: _Input, rng: Any = rng, scale: float = scale) -> Any:
            shape = tuple(size or (1 if place else _ROWS) for place, size in enumerate(spec.shape))
            return tf.cast(rng.random(shape, np.float32) * np.float32(scale), spec.dtype)

        inputs = _map(draw, specs)
        try:
            with _unchanged(model):
                outputs = model(inputs, training=False)
        except (ValueError, TypeError, tf.errors.OpError):
            continue
        yield inputs, keras.tree.map_structure(lambda part: np.asarray(keras.ops.cast(part, "float32")), outputs)


@contextlib.contextmanager
def recorded(layers: list[Any], record: Callable[[Any, Any, Any], None]) -> Iterator[None]:
    """Inside the block, every call of one of the layers is reported as `record(layer, input, output)`."""

    def watched(layer: Any, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(inputs: Any, *args: Any, **options: Any) -> Any:
            outputs = call(inputs, *args, **options)
            record(layer, inputs, outputs)
            return outputs

        return wrapper

    kept = [(layer, layer.__dict__.get("call")) for layer in layers]
    try:
        for layer in layers:
            layer.call = watched(layer, layer.call)
        yield
    finally:
        for layer, call in kept:
            layer.__dict__.pop("call", None)
            if call is not None:
                layer.call = call


@contextlib.contextmanager
def _unchanged(model: keras.Model) -> Iterator[None]:
    """Gives seeds, states of recurrent layers and Keras's global seed their values back after the block."""
    from keras.src.random.seed_generator import global_seed_generator  # the global seed isn't public

    kept = [(variable, np.array(variable)) for variable in model.non_trainable_variables]
    kept.append((global_seed_generator().state, np.array(global_seed_generator().state)))
    try:
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)


def _specs(model: keras.Model) -> Any:
    """The `_Input` of each input, in the structure that the model takes; None if the model doesn't know it."""
    import keras

    inputs = getattr(model, "_inputs_struct", None)
    if inputs is None and getattr(model, "inputs", None):
        inputs = model.inputs[0] if len(model.inputs) == 1 else model.inputs
    if inputs is not None:
        return _map(lambda tensor: _Input(tuple(tensor.shape), tensor.dtype), inputs)
    shapes = (model.get_build_config() or {}).get("input_shape")
    return None if shapes is None else _map(lambda shape: _Input(tuple(shape), keras.config.floatx()), shapes)


def _map(function: Callable[[Any], Any], parts: Any) -> Any:
    """`function` of every leaf of dicts, lists and tuples of inputs. A list or tuple of sizes is a leaf."""
    if isinstance(parts, Mapping):
        return {name: _map(function, part) for name, part in parts.items()}
    if isinstance(parts, list | tuple) and not all(isinstance(part, int | None) for part in parts):
        return [_map(function, part) for part in parts]
    return function(parts)
