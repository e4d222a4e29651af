"""A model in the form that Keras can write to a file: Functional or Sequential, over the same variables."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from loopwright.trainer.base.errors import TrainingError, first_line


class RawOperations(TrainingError):
    """A subclassed model whose `call` Keras can't trace or rebuild: only its weights can be written."""

    @classmethod
    def of(cls, model: keras.Model, error: Exception) -> RawOperations:
        """The error that says so."""
        return cls(
            f"model {model.name!r} can't be written as .h5: its call isn't made of what Keras can rebuild "
            f"({first_line(error)}); export_weights writes its weights"
        )


def functional_twin(model: keras.Model, input_shape: Any = None) -> keras.Model:
    """The model itself if it is Functional or Sequential; else a Functional model over the same layers and variables.

    Args:
      input_shape: of one sample, without the batch; by name where there are several inputs; None takes the shape that the
        model was built with.

    Raises RawOperations where `call` uses operations that Keras can't trace, and where a weight is out of its reach: one
    that only training uses, or that belongs to no layer.
    """
    if type(model).__module__.startswith("keras."):
        return model
    inputs = _inputs(_built_shape(model) if input_shape is None else input_shape)
    options = {"training": None} if "training" in inspect.signature(model.call).parameters else {}
    try:
        twin = keras.Model(inputs, model.call(inputs, **options), name=model.name)
    except (ValueError, TypeError, AttributeError) as error:
        raise RawOperations.of(model, error) from error
    reached = {id(variable) for variable in twin.weights}
    for variable in model.weights:
        if id(variable) not in reached:
            raise RawOperations.of(model, ValueError(f"no layer that gives the outputs holds {variable.path}"))
    return twin


def own_classes(model: keras.Model) -> dict[str, type]:
    """The classes of a model's layers that aren't Keras's, by the names under which Keras looks for them."""
    kinds = {type(layer) for layer in model._flatten_layers(include_self=False)}
    foreign = [kind for kind in kinds if not kind.__module__.startswith("keras.")]
    return {keras.saving.get_registered_name(kind): kind for kind in foreign}


def frozen_variables(model: keras.Model) -> list[keras.Variable]:
    """Variables that were frozen one by one: their layers were created with them, and are, trainable."""
    layers = model._flatten_layers(include_self=True)
    return [v for layer in layers if layer.trainable for v in layer._trainable_variables if not v.trainable]


@contextlib.contextmanager
def thawed(model: keras.Model) -> Iterator[None]:
    """The model with such variables trainable inside the block, as they are in a model that a file is loaded into.

    Keras's HDF5 files hold each layer's trainable weights before the others, so they'd change places else.
    """
    frozen = frozen_variables(model)
    for variable in frozen:
        variable.trainable = True
    try:
        yield
    finally:
        for variable in frozen:
            variable.trainable = False


def _built_shape(model: keras.Model) -> Any:
    shapes = (model.get_build_config() or {}).get("input_shape")
    if not isinstance(shapes, (tuple, list)) or not all(size is None or isinstance(size, int) for size in shapes):
        raise TrainingError(f"model {model.name!r} doesn't know the shape of its input; give input_shape")
    return tuple(shapes[1:])


def _inputs(shape: Any) -> Any:
    if isinstance(shape, Mapping):
        return {name: keras.Input(part, name=name) for name, part in shape.items()}
    return keras.Input(shape)
