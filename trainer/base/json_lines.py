"""Files with one JSON object per line. A killed process may leave the last line half-written. Imports no TensorFlow."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

from loopwright.trainer.base.atomic import replace_file


def finite(value: Any) -> Any:
    """The value itself, or None for a float that isn't finite, which JSON can't hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The objects of all whole lines; an empty list if there is no file."""
    return [json.loads(line) for line in _lines(path) if line.endswith("\n")]


def cut(path: pathlib.Path, step: int) -> None:
    """Removes the lines after a step, which a resumed run writes again, and a half-written last line."""
    lines = _lines(path)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    if kept != lines:
        replace_file(path, "".join(kept))


def _lines(path: pathlib.Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
