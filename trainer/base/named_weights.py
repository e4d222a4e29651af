"""Gives a model the weights of a file: which variable gets which array, and a table of what fits and what doesn't."""

from __future__ import annotations

import collections
import dataclasses
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

import keras

from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.base.finalize import finalize_layers

_MOST_ROWS = 12


@dataclasses.dataclass(frozen=True)
class Found:
    """An array in a file.

    Attributes:
      name: what the file calls the array, such as `conv/kernel`.
      shape: of the array.
      read: gives its values.
      variable: the model's variable that the file's structure says it belongs to, if it says so.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Any]
    variable: Any = None


def give_weights(
    source: str | os.PathLike[str],
    found: Iterable[Found],
    model: keras.Model,
    *,
    exclude: str | None = None,
    say: Callable[[str], None] | None = None,
) -> list[str]:
    """Assigns arrays to the model's weights; returns the paths of those that got one. Others keep their values.

    An array belongs to the variable that the file's structure gives it, and otherwise to the one whose path ends like its
    name: `conv/kernel` is `resnet/conv/kernel`, unless there are two of that ending.

    Args:
      exclude: a regular expression. Variables with a match in their path keep their values.
      say: is given a table of what fits and what doesn't, in lines, if anything doesn't.

    Raises TrainingError, and assigns nothing, if a variable that isn't excluded has no array of its shape, or if all are
    excluded.
    """
    found = list(found)
    arrays = _paired(found, model.weights)
    taken: list[tuple[Any, Found]] = []
    kept, missing, shapes = [], [], []
    for variable in model.weights:
        array = arrays.get(id(variable))
        if exclude is not None and re.search(exclude, variable.path):
            kept.append(variable.path)
        elif array is None:
            missing.append(variable.path)
        elif tuple(variable.shape) != array.shape:
            shapes.append(f"{variable.path} ({array.shape} there, {tuple(variable.shape)} here)")
        else:
            taken.append((variable, array))
    used = {id(array) for array in arrays.values()}
    unused = [array.name for array in found if id(array) not in used]
    rows = {"taken": [v.path for v, _ in taken], "excluded": kept, "missing": missing, "other shape": shapes}
    if say is not None and any((kept, missing, shapes, unused)):
        say(table(source, {**rows, "unused": unused}))
    if missing or shapes:
        parts = [("missing", missing), ("of another shape", shapes)]
        said = "; ".join(f"{title}: {_shortened(names)}" for title, names in parts if names)
        raise TrainingError(
            f"the weights in {source} don't fit this model: {said}; leave variables out with exclude=REGEX"
        )
    if not taken:
        raise TrainingError(f"exclude={exclude} leaves out every variable", exit_code=2)
    for variable, array in taken:
        variable.assign(array.read())
    finalize_layers(model)
    return [variable.path for variable, _ in taken]


def table(source: str | os.PathLike[str], rows: dict[str, list[str]]) -> str:
    """Counts and names in lines: what is taken from a source, what isn't, and why."""
    lines = [f"weights from {source}"]
    for title, names in rows.items():
        if names:
            lines.append(f"  {title:<12}{len(names):>5}  {_shortened(names)}")
    return "\n".join(lines)


def _paired(found: list[Found], weights: list[Any]) -> dict[int, Found]:
    """The array of each variable, by the variable's id. The longest part of a path that both sides know decides."""
    pairs = {id(array.variable): array for array in found if array.variable is not None}
    named = sorted((array for array in found if array.variable is None), key=lambda array: len(array.name))
    deepest = max((name.count("/") + 1 for name in [v.path for v in weights] + [a.name for a in named]), default=0)
    for depth in range(deepest, 1, -1):
        used = {id(array) for array in pairs.values()}
        arrays: dict[str, Found] = {}
        for (
            array
        ) in named:  # the shortest name first: the slot of a variable is called `Adam/m/` and the variable's name
            if id(array) not in used:
                arrays.setdefault(_ending(array.name, depth), array)
        waiting = [variable for variable in weights if id(variable) not in pairs]
        endings = collections.Counter(_ending(variable.path, depth) for variable in waiting)
        for variable in waiting:
            ending = _ending(variable.path, depth)
            if ending in arrays and endings[ending] == 1:
                pairs[id(variable)] = arrays[ending]
    return pairs


def _ending(name: str, depth: int) -> str:
    return "/".join(name.split("/")[-depth:])


def _shortened(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_ROWS} more" if len(names) > _MOST_ROWS else ""
    return ", ".join(names[:_MOST_ROWS]) + more
