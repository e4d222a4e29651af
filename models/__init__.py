"""Keras models by name. Each has its own file and a line in `MODELS`. Importing this package loads no TensorFlow."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from loopwright.models.catalog import (
    KINDS,
    MODELS,
    Entry,
    ModelError,
    check_fits,
    check_name,
    check_outputs,
    create,
    default,
    dtype_of,
    example,
)

if TYPE_CHECKING:
    from loopwright.models.entrance import scales_itself
    from loopwright.models.freezing import matched
    from loopwright.models.outputs import ends_in_probabilities, is_activated

_HOME = {
    "ends_in_probabilities": "loopwright.models.outputs",
    "is_activated": "loopwright.models.outputs",
    "matched": "loopwright.models.freezing",
    "scales_itself": "loopwright.models.entrance",
}

__all__ = [
    "KINDS",
    "MODELS",
    "Entry",
    "ModelError",
    "check_fits",
    "check_name",
    "check_outputs",
    "create",
    "default",
    "dtype_of",
    "ends_in_probabilities",
    "example",
    "is_activated",
    "matched",
    "scales_itself",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
