"""The state as TensorFlow's checkpoints see it: a tree of named objects with variables at its leaves."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "VARIABLE_VALUE"


@dataclasses.dataclass(frozen=True)
class Pair:
    """A variable and the tensor of a checkpoint that belongs to it."""

    name: str
    variable: tf.Variable
    key: str
    shape: tuple[int, ...]
    dtype: tf.DType

    @property
    def difference(self) -> str | None:
        """How the tensor doesn't fit the variable: None if it does."""
        variable = self.variable
        if variable.shape.is_compatible_with(self.shape) and variable.dtype == self.dtype:
            return None
        return f"{self.name} ({self.dtype.name} {self.shape} there, {variable.dtype.name} {tuple(variable.shape)} here)"


@dataclasses.dataclass(frozen=True)
class Match:
    """A tree of objects beside a checkpoint.

    Attributes:
      pairs: what both have.
      missing: names of variables that the checkpoint lacks.
      unexpected: names of tensors that belong to no variable.
    """

    pairs: tuple[Pair, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    @property
    def other_shape(self) -> tuple[str, ...]:
        """Pairs whose shape or dtype differ, in words."""
        return tuple(pair.difference for pair in self.pairs if pair.difference)

    def explain(self) -> str:
        """What doesn't fit, in one line; empty where all does."""
        parts = [("missing", self.missing), ("unexpected", self.unexpected), ("of another shape", self.other_shape)]
        return "; ".join(f"{title}: {_shortened(names)}" for title, names in parts if names)


def match(prefix: pathlib.Path, root: Any) -> Match:
    """Finds for every variable below `root`, a trackable, its tensor in the checkpoint files of a prefix.

    Objects are paired by the names under which their owners keep them, as TensorFlow pairs them when it restores. Reads no
    tensor but the one that describes the tree. Raises tf.errors.OpError for files that can't be read.
    """
    reader = tf.train.load_checkpoint(str(prefix))
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(reader.get_tensor(_GRAPH))
    pairs: list[Pair] = []
    seen: set[int] = set()
    found: dict[int, Any] = {}  # the object too: its id must stay its own
    todo = [(0, root)]
    while todo:
        node, owner = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        found[id(owner)] = owner
        leaf = variable_of(owner)
        for attribute in graph.nodes[node].attributes if leaf is not None else ():
            if attribute.name == _VALUE:
                key = attribute.checkpoint_key
                pairs.append(Pair(name_of(owner, key), leaf, key, tuple(shapes[key]), dtypes[key]))
        children = tf.train.TrackableView.children(owner)
        todo += [(c.node_id, children[c.local_name]) for c in graph.nodes[node].children if c.local_name in children]
    missing = [name_of(owner, path) for path, owner, _ in leaves(root) if id(owner) not in found]
    unexpected = [
        attribute.full_name if attribute.full_name not in ("", "Variable") else attribute.checkpoint_key
        for number, node in enumerate(graph.nodes)
        if number not in seen
        for attribute in node.attributes
    ]
    return Match(tuple(sorted(pairs, key=lambda pair: pair.key)), tuple(sorted(missing)), tuple(sorted(unexpected)))


def by_key(prefix: pathlib.Path, root: Any) -> dict[str, Any]:
    """What checkpoint files of a tree hold, by their keys: its variables, and the tensor that describes the tree.

    Empty where they hold more than that. Raises tf.errors.OpError for files that can't be read.
    """
    reader = tf.train.load_checkpoint(str(prefix))
    values = {pair.key: pair.variable for pair in match(prefix, root).pairs}
    values[_GRAPH] = tf.constant(reader.get_tensor(_GRAPH))
    return values if values.keys() == reader.get_variable_to_shape_map().keys() else {}


def leaves(root: Any) -> Iterator[tuple[str, Any, tf.Variable]]:
    """The variables below a trackable, each once: the path that leads to it, it, and the TensorFlow variable that it is."""
    for path, owner in nodes(root):
        variable = variable_of(owner)
        if variable is not None:
            yield path, owner, variable


def nodes(root: Any) -> Iterator[tuple[str, Any]]:
    """A trackable and what is below it down to the variables, each once, with the path that leads to it."""
    seen: dict[int, Any] = {}  # as `found` above
    todo = collections.deque([("", root)])
    while todo:
        path, owner = todo.popleft()
        if id(owner) in seen:
            continue
        seen[id(owner)] = owner
        yield path, owner
        if variable_of(owner) is None:
            children = tf.train.TrackableView.children(owner).items()
            todo += [(f"{path}/{name}".lstrip("/"), child) for name, child in children]


def variable_of(owner: Any) -> tf.Variable | None:
    """The TensorFlow variable that an object is or, for a Keras variable, holds; None for anything else."""
    if isinstance(owner, keras.Variable):
        return owner.value
    return owner if isinstance(owner, tf.Variable) else None


def name_of(owner: Any, otherwise: str) -> str:
    """A Keras variable's path; for others how the checkpoint calls them."""
    return owner.path if isinstance(owner, keras.Variable) else otherwise.partition("/.ATTRIBUTES")[0]


def _shortened(names: tuple[str, ...], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
