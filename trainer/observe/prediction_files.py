"""The file of a run's newest predictions: one `.npz` with those of each head."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import pkgutil
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from loopwright.trainer.base.atomic import replace_path
from loopwright.trainer.base.paths import local_path

#: The class that holds each kind of predictions. A file without a kind is of a classifier.
KINDS = {
    "classes": "loopwright.trainer.observe.predictions:Predictions",
    "labels": "loopwright.trainer.observe.label_predictions:LabelPredictions",
    "numbers": "loopwright.trainer.observe.number_predictions:NumberPredictions",
    "positions": "loopwright.trainer.observe.position_predictions:PositionPredictions",
    "texts": "loopwright.trainer.observe.text_predictions:TextPredictions",
}


def save(path: str | os.PathLike[str], heads: Mapping[str, Any]) -> None:
    """Writes the predictions of each head to one file, atomically.

    The arrays have the names of their attributes, after `HEAD/` where the name of a head isn't empty. `kind` is one of
    `KINDS`.
    """
    arrays: dict[str, Any] = {}
    for head, found in heads.items():
        prefix = f"{head}/" if head else ""
        arrays |= {f"{prefix}{name}": value for name, value in {"kind": found.kind, **vars(found)}.items()}

    def write(temporary: pathlib.Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    replace_path(local_path(path), write)


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The predictions of each head by its name, which is empty for a single one. Raises ValueError for any other file."""
    try:
        with np.load(path) as arrays:
            heads: dict[str, dict[str, Any]] = {}
            for key in arrays.files:
                head, _, name = key.rpartition("/")
                heads.setdefault(head, {})[name] = arrays[key]
        if not heads:
            raise ValueError("it is empty")
        return {head: _made(values) for head, values in heads.items()}
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} holds no predictions ({error})") from error


def _made(values: dict[str, Any]) -> Any:
    kind = pkgutil.resolve_name(KINDS[str(values.pop("kind", "classes"))])
    plain = {field.name for field in dataclasses.fields(kind) if field.type in ("int", "float", "bool")}
    return kind(**{name: value.item() if name in plain else value for name, value in values.items()})
