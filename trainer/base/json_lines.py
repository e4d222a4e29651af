"""Files of a JSON object a line, whose last line a killed process may have left half-written. Imports no TensorFlow."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

from loopwright.trainer.base.atomic import replace_file


def finite(value: Any) -> Any:
    """A value as JSON can hold it: null for a number that isn't finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The objects of the whole lines; none where there is no file."""
    return [json.loads(line) for line in _lines(path) if line.endswith("\n")]


def cut(path: pathlib.Path, step: int) -> None:
    """Takes out the lines past a step, which a run that goes on from there writes again; and half a last line."""
    lines = _lines(path)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    if kept != lines:
        replace_file(path, "".join(kept))


def _lines(path: pathlib.Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
