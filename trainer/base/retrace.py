"""Warnings about compiled functions that are traced again, which costs time that nobody notices otherwise."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

_LOG = logging.getLogger("loopwright")


def watched(function: Any, what: str, *, expected: int = 1) -> Callable:
    """The same `tf.function`, with a warning when it is traced more than `expected` times.

    Args:
      what: the function's name in the warning, such as "evaluation". The warning also names the argument that changed.
    """
    names = list(inspect.signature(function.python_function).parameters)
    traced = 0
    before: dict[str, str] = {}

    @functools.wraps(function.python_function)
    def call(*arguments: Any) -> Any:
        nonlocal traced, before
        result = function(*arguments)
        count = function.experimental_get_tracing_count()
        if count > traced:
            now = specs(dict(zip(names, arguments, strict=False)))
            if count > expected:
                warn_of_retrace(what, before, now)
            traced, before = count, now
        return result

    return call


def warn_of_retrace(what: str, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Warns that something was compiled again because its `specs` changed."""
    _LOG.warning("%s was compiled again, which takes time: %s", what, changes(before, now))


def specs(value: Any, name: str = "") -> dict[str, str]:
    """What a trace depends on, by the name of each part: the dtype and shape of a tensor, or the Python value itself."""
    if isinstance(value, Mapping):
        parts = [specs(part, f"{name}[{key!r}]" if name else str(key)) for key, part in value.items()]
    elif isinstance(value, (list, tuple)):
        parts = [specs(part, f"{name}[{place}]") for place, part in enumerate(value)]
    elif isinstance(value, (tf.data.Dataset, tf.data.Iterator)):
        parts = [specs(value.element_spec, name)]
    elif isinstance(value, (tf.Tensor, tf.TensorSpec, tf.Variable)):
        return {name: f"{value.dtype.name}{list(value.shape)}"}
    else:
        return {name: repr(value)}
    return {key: spec for part in parts for key, spec in part.items()}


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The differences between two sets of `specs`, as one phrase."""
    found = [
        f"{name} was {before.get(name, 'not there')} and is {now.get(name, 'not there')}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
    return "; ".join(found) or "no argument changed, but something else that it uses"
