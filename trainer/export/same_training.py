"""Loads a file from which training goes on in a new process, and compares a training step there with the live model's.

As a program, this module is the new process: `python -m loopwright.trainer.export.same_training FOLDER FILE`.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from loopwright.trainer.base.errors import TrainingError, first_line
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.export import new_process
from loopwright.trainer.export.functional import functional_twin
from loopwright.trainer.export.h5_reader import load_h5

_INPUTS, _ANSWER = "inputs", "answer.npz"
#: What may differ, relative to the largest value: in float32, and where a layer computes in half precision.
_BOUND, _BOUND_OF_HALF = 1e-5, 5e-2


def check_same_training(state: TrainState, path: pathlib.Path, inputs: Any, input_shape: Any = None) -> float:
    """Compares outputs and gradients of the model in a file with those of the live model; returns the largest difference.

    The file's folder must belong to the caller alone. The state is as before afterwards.

    Args:
      inputs: a batch of real inputs of the model, a tensor or a dict of tensors by name.

    Raises TrainingError if a new process can't load the file, or if the model in it computes anything else.
    """
    new_process.give(path.parent, _INPUTS, inputs)
    with new_process.started(__name__, str(path.parent), path.name) as process:
        live = _step(functional_twin(state.model, input_shape), inputs)
        failure = new_process.failure(process)
    if failure is not None:
        raise TrainingError(f"{path.name} can't be loaded again in a new process ({failure})")
    return _difference(path, live, state.model)


def _difference(path: pathlib.Path, live: dict[str, np.ndarray], model: keras.Model) -> float:
    half = any(getattr(layer, "compute_dtype", "float32") != "float32" for layer in model._flatten_layers())
    largest = 0.0
    with np.load(path.with_name(_ANSWER)) as found:
        for name, value in live.items():
            if name not in found or found[name].shape != value.shape:
                raise TrainingError(f"{path.name} comes back with other {name.partition('/')[0]}")
            other = found[name]
            # An infinity minus itself is no number.
            compared = ~((other == value) | (np.isnan(other) & np.isnan(value)))
            difference = float(np.max(np.abs(other - value), initial=0.0, where=compared))
            scale = max(1.0, float(np.max(np.abs(value), initial=0.0, where=np.isfinite(value))))
            if not difference <= scale * (_BOUND_OF_HALF if half else _BOUND):
                raise TrainingError(
                    f"{path.name} comes back as another model: its {name.partition('/')[0]} differ by {difference:.3g}"
                )
            largest = max(largest, difference)
    return largest


def _step(model: keras.Model, inputs: Any) -> dict[str, np.ndarray]:
    """The outputs, and the gradients of a weighted sum of the outputs in training, by the place of each weight.

    Afterwards, every variable of the model has the value that it had before.
    """
    values = [variable.numpy() for variable in model.variables]
    try:
        outputs = tf.nest.flatten(model(inputs, training=False))
        with tf.GradientTape() as tape:
            trained = [tf.cast(part, tf.float32) for part in tf.nest.flatten(model(inputs, training=True))]
            total = tf.add_n([tf.reduce_sum(part * _pattern(part)) for part in trained])
        gradients = tape.gradient(total, [variable.value for variable in model.trainable_variables])
    finally:
        for variable, value in zip(model.variables, values, strict=True):
            variable.assign(value)
    place = {id(variable): number for number, variable in enumerate(model.weights)}
    found = {f"outputs/{number}": np.array(tf.cast(part, tf.float32)) for number, part in enumerate(outputs)}
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        if gradient is not None:
            found[f"gradients/{place[id(variable)]}"] = np.array(tf.cast(tf.convert_to_tensor(gradient), tf.float32))
    return found


def _pattern(outputs: tf.Tensor) -> tf.Tensor:
    """A weight for each output, so that no gradient cancels out."""
    return tf.reshape(tf.cos(tf.cast(tf.range(tf.size(outputs)) % 97, tf.float32)), tf.shape(outputs))


def _answer(folder: pathlib.Path, name: str) -> None:
    inputs = new_process.taken(folder, _INPUTS)
    answer: dict[str, Any] = {**_step(load_h5(folder / name, trust=True).model, inputs)}
    np.savez(folder / _ANSWER, **answer)


def main(argv: list[str]) -> str | None:
    """Returns None, or one line about the failure."""
    try:
        _answer(pathlib.Path(argv[0]), argv[1])
    except TrainingError as error:
        return str(error)
    except Exception as error:  # a model in a file may raise anything
        return first_line(error)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
