"""Writes the files of a checkpoint, from the state itself or from a copy of it in host memory."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.checkpoint import object_graph
from loopwright.trainer.core.state import TrainState

#: Objects that save something and are not variables.
_NOT_VARIABLES = (tf.saved_model.experimental.TrackableResource, tf.train.experimental.PythonState, tf.data.Iterator)

#: The result of `Saver.read`: tensors by the ids of the saver's variables.
Values = Mapping[int, tf.Tensor]


class Saver:
    """Writes the same files as `tf.train.Checkpoint.write`, in less time.

    At every save, `write` asks each object in the tree what it saves, and reads every variable separately. For a small
    model this takes longer than the rest of a save. It also holds the interpreter's lock, so training waits even if a
    background thread saves. Here only the first save uses `write`. Later saves store the same variables under the same
    names in one operation. A state that holds more than variables (a lookup table, a state in Python) always uses `write`.

    Writing isn't compiled: TensorFlow's threads would do the work then, and training needs them.

    Args:
      state: the state to save.
      copied: save a copy in host memory, which `take` renews. A thread can write it while training goes on. TensorFlow's
        own asynchronous checkpoints can't copy Keras variables; they make new variables at every save.

    Raises TrainingError (exit code 2) for `copied` and a state with an object that isn't made of variables.
    """

    def __init__(self, state: TrainState, *, copied: bool = False) -> None:
        root = tf.train.Checkpoint(**state.trackables())
        self._parts = _parts(root)
        pairs: list[tuple[tf.Variable, tf.Variable]] = []
        self._written = _copy_tree(root, pairs, {}) if copied else root
        self._take = _copying(pairs)
        self._variables = [variable for *_, variable in object_graph.leaves(self._written)]
        self._names = {
            id(variable): object_graph.name_of(owner, f"{part}/{path}")
            for part in ("model", "optimizer")
            for (path, owner, _), (*_, variable) in zip(
                object_graph.leaves(getattr(root, part)), object_graph.leaves(getattr(self._written, part)), strict=True
            )
            if variable.dtype.is_floating
        }
        self._by_key: dict[str, Any] | None = None

    def serves(self, state: TrainState) -> bool:
        """Whether the state still consists of the same objects. If not, it needs a new saver."""
        before, now = self._parts, _parts(tf.train.Checkpoint(**state.trackables()))
        return before.keys() == now.keys() and all(before[path] is now[path] for path in now)

    def take(self) -> None:
        """Renews the copy, if there is one. Training waits for this part of an asynchronous save only."""
        self._take()

    def read(self) -> Values:
        """The values in host memory, from the copy if there is one and otherwise from the state."""
        with tf.device("CPU:0"):
            return {id(variable): tf.convert_to_tensor(variable) for variable in self._variables}

    def first_nonfinite(self, values: Values) -> str | None:
        """The name of the first weight or slot with an infinite value or a NaN; None if all values are finite."""
        # NumPy is faster here: for a small variable, a call of TensorFlow takes longer than the check itself.
        return next((name for key, name in self._names.items() if not np.isfinite(values[key].numpy()).all()), None)

    def write(self, prefix: str | os.PathLike[str], values: Values) -> None:
        """Writes the result of `read` to the files of a prefix, in the calling thread.

        Raises tf.errors.OpError if the files can't be written.
        """
        if not self._by_key:
            self._written.write(prefix)
            if self._by_key is None:
                self._by_key = object_graph.by_key(pathlib.Path(prefix), self._written)
            return
        names, whole = list(self._by_key), [""] * len(self._by_key)
        tensors = [values.get(id(value), value) for value in self._by_key.values()]
        with tf.device("CPU:0"):
            tf.raw_ops.SaveV2(prefix=os.fspath(prefix), tensor_names=names, shape_and_slices=whole, tensors=tensors)


def _parts(root: tf.train.Checkpoint) -> dict[str, Any]:
    """All objects below a root that save something, by their paths."""
    leaves = {path: variable for path, _, variable in object_graph.leaves(root)}
    return leaves | {path: owner for path, owner in object_graph.nodes(root) if isinstance(owner, _NOT_VARIABLES)}


def _copying(pairs: list[tuple[tf.Variable, tf.Variable]]) -> Any:
    """A compiled function that copies the first variable of each pair to the second, in host memory."""

    @tf.function
    def take() -> None:
        last: list[tf.Operation] = []
        for variable, copy in pairs:
            with tf.device("CPU:0"), tf.control_dependencies(last):  # one after the other, to save memory
                last = [copy.assign(tf.raw_ops.DeepCopy(x=tf.convert_to_tensor(variable)), read_value=False)]

    return take if pairs else lambda: None


def _copy_tree(owner: Any, pairs: list[tuple[tf.Variable, tf.Variable]], made: dict[int, tuple[Any, Any]]) -> Any:
    """A second tree of the same form, with new variables in host memory.

    Args:
      pairs: each variable and its copy are appended here.
      made: each object and its copy, by the object's id. Holding the objects keeps their ids unique.
    """
    if id(owner) not in made:
        variable = object_graph.variable_of(owner)
        if variable is not None:
            with tf.device("CPU:0"):
                # The copy of the window needs the window's dynamic shape.
                copy: Any = tf.Variable(tf.zeros_like(variable), shape=variable.shape, trainable=False)
            pairs.append((variable, copy))
        elif isinstance(owner, _NOT_VARIABLES):
            raise TrainingError(
                f"asynchronous=True can't copy the {type(owner).__name__} in the state; give asynchronous=False",
                exit_code=2,
            )
        else:
            copy = tf.train.Checkpoint()
        made[id(owner)] = (owner, copy)
        if variable is None:
            for name, child in tf.train.TrackableView.children(owner).items():
                setattr(copy, name, _copy_tree(child, pairs, made))
    return made[id(owner)][1]
