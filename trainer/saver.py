"""The files of a checkpoint, written by a compiled call: those of the state itself, or of a copy of it."""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf

from loopwright.trainer import tree
from loopwright.trainer.errors import TrainingError

#: In full, as variables name it: a shorter name would be another device to TensorFlow, with a file of its own.
_HOST = "/job:localhost/replica:0/task:0/device:CPU:0"


class Saver:
    """Writes what `write` of a tf.train.Checkpoint writes, the same bytes, in a compiled call.

    `write` walks the tree in Python and reads each variable by itself, at every save. For a small model that takes longer
    than all the rest of a save, and it holds the interpreter's lock, for which training waits even where a thread saves.

    Args:
      root: a tf.train.Checkpoint with a `model` and an `optimizer`.
      copied: write a copy in host memory, which `take` renews; a thread can write it while training goes on. The files
        differ in the names of the variables, which restoring doesn't use. TensorFlow's own asynchronous checkpoints
        can't copy Keras variables: they make new ones at every save.

    Raises TrainingError (exit 2) where a copy is asked for of what isn't in variables, such as a lookup table.
    """

    def __init__(self, root: tf.train.Checkpoint, *, copied: bool = False) -> None:
        self._served = _variables(root)
        pairs: list[tuple[tf.Variable, tf.Variable]] = []
        written = _twin(root, pairs, {}) if copied else root
        self._take = _copying(pairs)
        parts = [(part, getattr(root, part), getattr(written, part)) for part in ("model", "optimizer")]
        both = [
            (tree.name_of(owner, f"{part}/{path}"), variable)
            for part, ours, copies in parts
            for (path, owner, _), (*_, variable) in zip(tree.leaves(ours), tree.leaves(copies), strict=True)
        ]
        floating = [(name, variable) for name, variable in both if variable.dtype.is_floating]
        self._names = [name for name, _ in floating]
        self._finite = _finite([variable for _, variable in floating])
        self._write = written.write if _holds_python(root) else _writing(written)

    def serves(self, root: tf.train.Checkpoint) -> bool:
        """Whether the tree still leads to the same variables; where it doesn't, a saver is made anew."""
        return self._served == _variables(root)

    def take(self) -> None:
        """Renews the copy: the only part of an asynchronous save for which training waits. Nothing without a copy."""
        self._take()

    def first_nonfinite(self) -> str | None:
        """The first weight or slot that holds an infinite value or a NaN; None without one."""
        finite = self._finite().numpy().tolist()
        return next((name for name, good in zip(self._names, finite, strict=True) if not good), None)

    def write(self, prefix: str | os.PathLike[str]) -> None:
        """Writes the files of a prefix. Raises tf.errors.OpError where they can't be written."""
        self._write(os.fspath(prefix))


def _variables(root: tf.train.Checkpoint) -> list[tuple[str, int]]:
    return [(path, id(variable)) for path, _, variable in tree.leaves(root)]


def _holds_python(root: tf.train.Checkpoint) -> bool:
    """Whether there is a state that only Python can write: a compiled call would write it as it was once, for ever."""
    return any(isinstance(owner, tf.train.experimental.PythonState) for _, owner in tree.nodes(root))


def _writing(root: tf.train.Checkpoint) -> Any:
    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def write(prefix: tf.Tensor) -> None:
        with tf.device(_HOST):
            root.write(prefix)

    return write


def _finite(variables: list[tf.Variable]) -> Any:
    """A compiled function that tells of each variable whether all its values are finite: bool `[V]`."""

    @tf.function
    def finite() -> tf.Tensor:
        found: list[tf.Tensor] = []
        for variable in variables:
            with tf.control_dependencies(found[-1:]):  # one after the other, for the memory's sake
                found.append(tf.reduce_all(tf.math.is_finite(variable)))
        return tf.stack(found) if found else tf.zeros([0], tf.bool)

    return finite


def _copying(pairs: list[tuple[tf.Variable, tf.Variable]]) -> Any:
    """A compiled function that copies the first of each pair to the second, in host memory."""

    @tf.function
    def take() -> None:
        last: list[tf.Operation] = []
        for variable, copy in pairs:
            with tf.device("CPU:0"), tf.control_dependencies(last):  # one after the other, for the memory's sake
                last = [copy.assign(tf.raw_ops.DeepCopy(x=tf.convert_to_tensor(variable)), read_value=False)]

    return take if pairs else lambda: None


def _twin(owner: Any, pairs: list[tuple[tf.Variable, tf.Variable]], made: dict[int, Any]) -> Any:
    """A second tree of the same form, with variables of its own in host memory."""
    if id(owner) not in made:
        variable = tree.variable_of(owner)
        if variable is not None:
            with tf.device("CPU:0"):
                # The dynamic shape, which the window has, must be the copy's too.
                made[id(owner)] = tf.Variable(tf.zeros_like(variable), shape=variable.shape, trainable=False)
            pairs.append((variable, made[id(owner)]))
        elif isinstance(owner, tf.saved_model.experimental.TrackableResource | tf.train.experimental.PythonState):
            raise TrainingError(f"{type(owner).__name__} can't be saved with --async_checkpoints", exit_code=2)
        else:
            made[id(owner)] = tf.train.Checkpoint()
            for name, child in tf.train.TrackableView.children(owner).items():
                setattr(made[id(owner)], name, _twin(child, pairs, made))
    return made[id(owner)]
