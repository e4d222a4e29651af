"""The error of a run that can't go on, and short descriptions of other errors. Imports no TensorFlow."""

from __future__ import annotations

from typing import Any

#: Plain words for classes that a message may meet.
_PLAIN = {"EagerTensor": "a tensor", "SymbolicTensor": "a tensor", "ndarray": "a NumPy array"}


class TrainingError(Exception):
    """A run failed or was refused. The message is one line that says what to do."""

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 300 characters; the error's class if the message is empty."""
    return next((line.strip()[:300] for line in str(error).splitlines() if line.strip()), type(error).__name__)


def reason(error: Exception) -> str:
    """Why a file can't be used, in the words of the operating system.

    TensorFlow's message has more lines, and a path before these words.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    said = lines[-1].partition(" [Op:")[0] if lines else ""
    return said.rpartition("; ")[2] or type(error).__name__


def what(value: Any) -> str:
    """What a value is, in words for a message: `None`, `5.0`, `the class Adam`, `a list`."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return repr(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = getattr(value, "__name__", "")
    if callable(value) and name:
        return "a lambda" if name == "<lambda>" else f"the function {name}"
    kind = type(value).__name__.lstrip("_")
    if kind in _PLAIN:
        return _PLAIN[kind]
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def in_trace(error: Exception) -> Exception:
    """The error, marked so that AutoGraph passes it on as it is. Otherwise it would put a traceback into the message."""
    error.ag_pass_through = True  # type: ignore[attr-defined]
    return error
