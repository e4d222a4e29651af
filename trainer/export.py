"""Exports: a trained model as a file that plain Keras reads."""

from __future__ import annotations

import inspect
import os
import pathlib

import keras

from loopwright.trainer.errors import TrainingError


def export_h5(model: keras.Model, path: str | os.PathLike[str], input_shape: tuple[int, ...]) -> pathlib.Path:
    """Writes architecture and weights as HDF5, which `keras.models.load_model` reads; returns the path.

    Args:
      model: a built model; a subclassed one is written as its functional twin, which shares its variables.
      path: `.h5`; an older file is replaced when the new one is whole.
      input_shape: of one sample, without the batch.

    Raises TrainingError for a subclassed model whose `call` Keras can't trace.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        functional_twin(model, input_shape).save(temporary, include_optimizer=False)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def functional_twin(model: keras.Model, input_shape: tuple[int, ...]) -> keras.Model:
    """The model itself if it is Functional or Sequential; else a Functional model over the same layers and variables.

    Raises TrainingError where `call` uses operations that Keras can't trace.
    """
    if type(model).__module__.startswith("keras."):
        return model
    inputs = keras.Input(input_shape)
    options = {"training": None} if "training" in inspect.signature(model.call).parameters else {}
    try:
        return keras.Model(inputs, model.call(inputs, **options), name=model.name)
    except (ValueError, TypeError, AttributeError) as error:
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise TrainingError(
            f"model {model.name!r} can't be written as .h5: its call isn't made of Keras layers and ops alone ({first_line})"
        ) from error
