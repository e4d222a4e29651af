"""Weights in the files of a plain `tf.train.Checkpoint`, whatever it was called with and whichever Keras wrote it."""

from __future__ import annotations

import functools
import os
import pathlib

import keras
import tensorflow as tf

from loopwright.trainer.base import private_tf
from loopwright.trainer.base.errors import TrainingError, first_line
from loopwright.trainer.base.named_weights import Found
from loopwright.trainer.base.paths import local_path
from loopwright.trainer.checkpoint import object_graph

_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


def prefix_of(path: str | os.PathLike[str]) -> pathlib.Path | None:
    """The prefix of checkpoint files that a path names: the prefix, its `.index` file, or a folder with a newest one."""
    path = local_path(path)
    if path.is_dir():
        newest = tf.train.latest_checkpoint(str(path))
        return None if newest is None else pathlib.Path(newest)
    prefix = path.with_suffix("") if path.suffix == ".index" else path
    return prefix if prefix.with_name(f"{prefix.name}.index").is_file() else None


def plain_weights(prefix: str | os.PathLike[str], model: keras.Model) -> list[Found]:
    """What checkpoint files hold for a model.

    If one object of the checkpoint has the model's structure and shapes, the structure says what belongs to which
    variable. Otherwise only the paths of the variables are known. Raises TrainingError for files that can't be read.
    """
    prefix = pathlib.Path(prefix)
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = reader.get_variable_to_shape_map()
        pairs: tuple[object_graph.Pair, ...] = ()
        names: dict[str, str] = {}
        if _GRAPH in shapes:
            graph = private_tf.parse_object_graph(reader.get_tensor(_GRAPH))
            names = {a.checkpoint_key: a.full_name for node in graph.nodes for a in node.attributes}
            pairs = _by_structure(prefix, model, [child.local_name for child in graph.nodes[0].children])
    except (tf.errors.OpError, ValueError) as error:
        raise TrainingError(f"{prefix} can't be read ({first_line(error)})") from error
    variables = {pair.key: pair.variable for pair in pairs}
    own = {id(variable.value): variable for variable in model.weights}
    found = []
    for key, shape in shapes.items():
        if key == _GRAPH or (key not in variables and _is_slot(key.split("/"))):
            continue
        name = names.get(key) or ""
        name = key.partition("/.ATTRIBUTES")[0] if name in ("", "Variable") else name
        variable = own.get(id(variables[key])) if key in variables else None
        found.append(Found(name, tuple(shape), functools.partial(reader.get_tensor, key), variable))
    return found


def _is_slot(parts: list[str]) -> bool:
    """Whether a key is one of an optimizer, which may also hold the variables that it trains."""
    return ".OPTIMIZER_SLOT" in parts or ("optimizer" in parts and "_trainable_variables" not in parts)


def _by_structure(prefix: pathlib.Path, model: keras.Model, children: list[str]) -> tuple[object_graph.Pair, ...]:
    roots = [model, *(tf.train.Checkpoint(**{name: model}) for name in children if name.isidentifier())]
    weights = {id(variable.value) for variable in model.weights}
    for root in roots:
        pairs = object_graph.match(prefix, root).pairs
        if weights <= {id(pair.variable) for pair in pairs if pair.difference is None}:
            return pairs
    return ()
