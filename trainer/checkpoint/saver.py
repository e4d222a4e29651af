"""The files of a checkpoint: those of the state itself, or of a copy of it in host memory."""

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

#: What saves something of its own and is no variable.
_OTHERS = (tf.saved_model.experimental.TrackableResource, tf.train.experimental.PythonState, tf.data.Iterator)

#: What `Saver.read` gives: tensors by the ids of the saver's variables.
Values = Mapping[int, tf.Tensor]


class Saver:
    """Writes what `write` of a tf.train.Checkpoint writes, in a part of its time.

    `write` asks each object in the tree what it saves, and reads every variable by itself, at every save. For a small model
    that takes longer than all the rest of a save, and it holds the interpreter's lock, for which training waits even where
    a thread saves. So the first save is `write`'s, and the later ones put the same variables under the same names. A state
    that is more than variables (a lookup table, a state in Python) is always left to `write`.

    Writing isn't compiled, for then TensorFlow's threads would write, which training needs.

    Args:
      state: what is saved.
      copied: write a copy in host memory, which `take` renews; a thread can write it while training goes on.
        TensorFlow's own asynchronous checkpoints can't copy Keras variables: they make new ones at every save.

    Raises TrainingError (exit 2) where a copy is asked for of what isn't in variables.
    """

    def __init__(self, state: TrainState, *, copied: bool = False) -> None:
        root = tf.train.Checkpoint(**state.trackables())
        self._parts = _parts(root)
        pairs: list[tuple[tf.Variable, tf.Variable]] = []
        self._written = _twin(root, pairs, {}) if copied else root
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
        """Whether the state is made of what it was made of; where it isn't, a saver is made anew."""
        before, now = self._parts, _parts(tf.train.Checkpoint(**state.trackables()))
        return before.keys() == now.keys() and all(before[path] is now[path] for path in now)

    def take(self) -> None:
        """Renews the copy: the only part of an asynchronous save for which training waits. Nothing without a copy."""
        self._take()

    def read(self) -> Values:
        """The values of the copy, or of the state itself, in host memory."""
        with tf.device("CPU:0"):
            return {id(variable): tf.convert_to_tensor(variable) for variable in self._variables}

    def first_nonfinite(self, values: Values) -> str | None:
        """The first weight or slot that holds an infinite value or a NaN; None without one."""
        # In NumPy: a state has many small variables, for which a call of TensorFlow costs more than the numbers.
        return next((name for key, name in self._names.items() if not np.isfinite(values[key].numpy()).all()), None)

    def write(self, prefix: str | os.PathLike[str], values: Values) -> None:
        """Writes what `read` gave to the files of a prefix, in the thread that calls.

        Raises tf.errors.OpError where they can't be written.
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
    """All below a root that saves something, by the paths that lead there."""
    leaves = {path: variable for path, _, variable in object_graph.leaves(root)}
    return leaves | {path: owner for path, owner in object_graph.nodes(root) if isinstance(owner, _OTHERS)}


def _copying(pairs: list[tuple[tf.Variable, tf.Variable]]) -> Any:
    """A compiled function that copies the first of each pair to the second, in host memory."""

    @tf.function
    def take() -> None:
        last: list[tf.Operation] = []
        for variable, copy in pairs:
            with tf.device("CPU:0"), tf.control_dependencies(last):  # one after the other, for the memory's sake
                last = [copy.assign(tf.raw_ops.DeepCopy(x=tf.convert_to_tensor(variable)), read_value=False)]

    return take if pairs else lambda: None


def _twin(owner: Any, pairs: list[tuple[tf.Variable, tf.Variable]], made: dict[int, tuple[Any, Any]]) -> Any:
    """A second tree of the same form, with variables of its own in host memory.

    Args:
      pairs: is given each variable and its copy.
      made: objects by their ids, with what was made of them; the object too, so that its id stays its own.
    """
    if id(owner) not in made:
        variable = object_graph.variable_of(owner)
        if variable is not None:
            with tf.device("CPU:0"):
                # The dynamic shape, which the window has, must be the copy's too.
                twin: Any = tf.Variable(tf.zeros_like(variable), shape=variable.shape, trainable=False)
            pairs.append((variable, twin))
        elif isinstance(owner, _OTHERS):
            raise TrainingError(f"{type(owner).__name__} can't be saved with --async_checkpoints", exit_code=2)
        else:
            twin = tf.train.Checkpoint()
        made[id(owner)] = (owner, twin)
        if variable is None:
            for name, child in tf.train.TrackableView.children(owner).items():
                setattr(twin, name, _twin(child, pairs, made))
    return made[id(owner)][1]
