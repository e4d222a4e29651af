"""The state as a TensorFlow checkpoint stores it: a tree of named objects with variables at its leaves."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from loopwright.trainer.base import private_tf

_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "VARIABLE_VALUE"


@dataclasses.dataclass(frozen=True)
class Pair:
    """A variable and its tensor in a checkpoint."""

    name: str
    variable: tf.Variable
    key: str
    shape: tuple[int, ...]
    dtype: tf.DType

    @property
    def difference(self) -> str | None:
        """How the shape or dtype of the tensor differs from the variable's; None if the tensor fits."""
        variable = self.variable
        if variable.shape.is_compatible_with(self.shape) and variable.dtype == self.dtype:
            return None
        return f"{self.name} ({self.dtype.name} {self.shape} there, {variable.dtype.name} {tuple(variable.shape)} here)"


@dataclasses.dataclass(frozen=True)
class Match:
    """A tree of objects compared with a checkpoint.

    Attributes:
      pairs: the variables that the checkpoint holds, with their tensors.
      missing: names of variables that the checkpoint lacks.
      unexpected: names of tensors that belong to no variable of the tree.
    """

    pairs: tuple[Pair, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    @property
    def wrong_shape(self) -> tuple[str, ...]:
        """A description of each pair whose shapes or dtypes differ."""
        return tuple(pair.difference for pair in self.pairs if pair.difference)

    def explain(self) -> str:
        """What doesn't fit, in one line; an empty string if everything fits."""
        parts = [("missing", self.missing), ("unexpected", self.unexpected), ("of another shape", self.wrong_shape)]
        return "; ".join(f"{title}: {_shortened(names)}" for title, names in parts if names)


def match(prefix: pathlib.Path, root: Any) -> Match:
    """Finds the tensor of every variable below the trackable `root` in the checkpoint files of a prefix.

    Objects are paired by the names under which their owners keep them, as TensorFlow does when it restores. Of all tensors
    only the description of the tree is read. Raises tf.errors.OpError for files that can't be read.
    """
    reader = tf.train.load_checkpoint(str(prefix))
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    graph = private_tf.parse_object_graph(reader.get_tensor(_GRAPH))
    pairs: list[Pair] = []
    seen: set[int] = set()
    found: dict[int, Any] = {}  # by id; holding the objects keeps their ids unique
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
    """The variables of a tree by their keys in checkpoint files, and the tensor there that describes the tree.

    Returns an empty dict if the files hold anything more. Raises tf.errors.OpError for files that can't be read.
    """
    reader = tf.train.load_checkpoint(str(prefix))
    values = {pair.key: pair.variable for pair in match(prefix, root).pairs}
    values[_GRAPH] = tf.constant(reader.get_tensor(_GRAPH))
    return values if values.keys() == reader.get_variable_to_shape_map().keys() else {}


def leaves(root: Any) -> Iterator[tuple[str, Any, tf.Variable]]:
    """The variables below a trackable, each once, as (path, object, TensorFlow variable)."""
    for path, owner in nodes(root):
        variable = variable_of(owner)
        if variable is not None:
            yield path, owner, variable


def nodes(root: Any) -> Iterator[tuple[str, Any]]:
    """A trackable and all objects below it down to the variables, each once, as (path, object)."""
    seen: dict[int, Any] = {}  # by id, as `found` in `match`
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
    """The object itself if it is a TensorFlow variable, the inner variable of a Keras variable, and otherwise None."""
    if isinstance(owner, keras.Variable):
        return owner.value
    return owner if isinstance(owner, tf.Variable) else None


def name_of(owner: Any, otherwise: str) -> str:
    """The path of a Keras variable; for other objects the name in the checkpoint, `otherwise`."""
    return owner.path if isinstance(owner, keras.Variable) else otherwise.partition("/.ATTRIBUTES")[0]


def _shortened(names: tuple[str, ...], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
