"""Which variables a traced function writes, as its graph says."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

#: Operations that only read the resource that they are given.
_READERS = frozenset({"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape", "VarIsInitializedOp"})
#: Operations that call functions of their graph, and the number of inputs before the functions' arguments.
_CALLERS = {
    **dict.fromkeys(("PartitionedCall", "StatefulPartitionedCall", "While", "StatelessWhile"), 0),
    **dict.fromkeys(("If", "StatelessIf", "Case", "StatelessCase"), 1),
}
_PASSING = frozenset({"Identity", "EnsureShape"})
_SCRATCH = "_loopwright_scratch"


def written_variables(function: Any) -> list[tf.Variable]:
    """The variables that a concrete function may write, through functions that it calls, too.

    An operation counts as writing unless it is known to read only.
    """
    graph = function.graph
    definition = graph.as_graph_def()
    library = {one.signature.name: one for one in definition.library.function}
    captured = function.captured_inputs
    names = [tensor.op.name for tensor in function.inputs[len(function.inputs) - len(captured) :]]
    written = _written(definition.node, names, library)
    handles = {id(handle) for name, handle in zip(names, captured, strict=True) if name in written}
    return [variable for variable in graph.variables if id(variable.handle) in handles]


def mark_scratch(variables: Iterable[Any]) -> None:
    """Marks variables whose value no later step uses, such as a sum that each batch begins at zero."""
    for variable in variables:
        setattr(getattr(variable, "value", variable), _SCRATCH, True)


def is_scratch(variable: tf.Variable) -> bool:
    """Whether `mark_scratch` has marked a variable."""
    return getattr(variable, _SCRATCH, False)


def _written(nodes: Iterable[Any], arguments: Iterable[str], library: Mapping[str, Any]) -> set[str]:
    """Those of the arguments, by name, that a list of nodes may write."""

    @functools.cache
    def of_function(name: str) -> frozenset[int]:
        function = library[name]
        names = [argument.name for argument in function.signature.input_arg]
        found = _written_by(function.node_def, names)
        return frozenset(place for place, argument in enumerate(names) if argument in found)

    def _written_by(nodes: Iterable[Any], arguments: Iterable[str]) -> set[str]:
        source = {name: name for name in arguments}
        found: set[str] = set()
        for node in nodes:
            given = [source.get(text.partition(":")[0]) for text in node.input if not text.startswith("^")]
            if not any(given):
                continue
            if node.op in _PASSING:
                source[node.name] = given[0] or ""
            elif node.op in _CALLERS:
                offset = _CALLERS[node.op]
                for name in _called(node):
                    found |= {given[place + offset] or "" for place in of_function(name)}
            elif node.op not in _READERS:
                found |= {name for name in given if name}
        return found - {""}

    return _written_by(nodes, arguments)


def _called(node: Any) -> list[str]:
    """The names of the functions that a node calls."""
    attributes = node.attr.values()
    return [
        *(value.func.name for value in attributes if value.HasField("func")),
        *(function.name for value in attributes for function in value.list.func),
    ]
