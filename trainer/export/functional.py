"""Rewrites a model in the form that Keras can write to a file: Functional or Sequential, over the same variables."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from loopwright.trainer.base.errors import TrainingError, first_line


class NotRebuildable(TrainingError):
    """A model that a kind of file can't hold, because Keras wouldn't build the same model from it."""

    @classmethod
    def of(cls, model: keras.Model, error: Exception, suffix: str = "") -> NotRebuildable:
        """The error for a model and a kind of file, with the reason. No suffix means every file of a whole model."""
        if suffix == ".h5":
            kind, remedy = ".h5", "trainer.export_keras writes it as .keras"
        else:
            kind, remedy = suffix or ".h5 or .keras", "trainer.export_weights writes its weights"
        why = f"because Keras can't rebuild it ({first_line(error)})"
        return cls(f"model {model.name!r} can't be written as {kind}, {why}; {remedy}")


def functional_twin(model: keras.Model, input_shape: Any = None) -> keras.Model:
    """The model itself if it is Functional or Sequential; otherwise a Functional model over the same layers and variables.

    Args:
      input_shape: the shape of one sample, without the batch, or its tf.TensorSpec; a dict of them by name for several
        inputs. None means the shape that the model was built with.

    Raises NotRebuildable if `call` uses operations that Keras can't trace, or doesn't reach a weight: one that only
    training uses, or one that belongs to no layer.
    """
    if type(model).__module__.startswith("keras."):
        return model
    inputs = _inputs(_built_shape(model) if input_shape is None else input_shape)
    options = {"training": None} if "training" in inspect.signature(model.call).parameters else {}
    try:
        twin = keras.Model(inputs, model.call(inputs, **options), name=model.name)
    except (ValueError, TypeError, AttributeError) as error:
        raise NotRebuildable.of(model, error) from error
    reached = {id(variable) for variable in twin.weights}
    for variable in model.weights:
        if id(variable) not in reached:
            raise NotRebuildable.of(model, ValueError(f"no layer of its outputs holds {variable.path}"))
    return twin


def custom_classes(model: keras.Model) -> dict[str, type]:
    """The classes of a model's layers that don't come from Keras, by the names under which Keras looks them up."""
    kinds = {type(layer) for layer in model._flatten_layers(include_self=False)}
    foreign = [kind for kind in kinds if not kind.__module__.startswith("keras.")]
    return {keras.saving.get_registered_name(kind): kind for kind in foreign}


def frozen_variables(model: keras.Model) -> list[keras.Variable]:
    """Variables that were frozen one by one: their layers are trainable, and created them as trainable variables."""
    layers = model._flatten_layers(include_self=True)
    return [v for layer in layers if layer.trainable for v in layer._trainable_variables if not v.trainable]


@contextlib.contextmanager
def thawed(model: keras.Model) -> Iterator[None]:
    """Inside the block, the frozen variables of the model are trainable.

    Keras's HDF5 files store each layer's trainable weights first. A file is loaded into a model whose variables are all
    trainable, so the order in the file must be that of such a model.
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
    if isinstance(shapes, Mapping) and all(map(_is_shape, shapes.values())):
        return {name: tuple(shape[1:]) for name, shape in shapes.items()}
    if shapes is None or not _is_shape(shapes):
        raise TrainingError(f"model {model.name!r} doesn't know the shape of its input; give input_shape")
    return tuple(shapes[1:])


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, (tuple, list)) and all(size is None or isinstance(size, int) for size in shape)


def _inputs(shape: Any) -> Any:
    if isinstance(shape, Mapping):
        return {name: _input(part, name) for name, part in shape.items()}
    return _input(shape, None)


def _input(shape: Any, name: str | None) -> Any:
    dtype = getattr(shape, "dtype", None)
    return keras.Input(tuple(getattr(shape, "shape", shape)), dtype=dtype and dtype.name, name=name)
